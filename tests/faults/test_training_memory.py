"""``max_memory`` is kept whatever the text, measured from outside; what does not fit leaves no files."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock

MAX_MEMORY = 256 << 20

TRAIN = """
import json, pathlib, signal, sys, warnings
import penstock
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs this in the background may ignore it
warnings.simplefilter("ignore")
tok = penstock.Tokenizer.train(
    [sys.argv[1]], 20_000, max_memory=int(sys.argv[2]), spill_folder=sys.argv[3], threads=int(sys.argv[4])
)
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
sample = tok.training.sampling
print(json.dumps({
    "peak": int(status["VmHWM"].split()[0]) * 1024,
    "sha256": tok.sha256,
    "spilled": tok.training.spilled_bytes,
    "below": sample.counts_below if sample else 1,
    "tokens": tok.vocab_size,
}))
"""


def distinct_words() -> Iterator[str]:
    letters = random.Random(1)
    for _ in range(5):
        words = (base64.b32encode(letters.randbytes(10)).decode().rstrip("=234567") for _ in range(240_000))
        yield " ".join(words).translate(str.maketrans("234567", "abcdef"))


def base64_without_spaces() -> Iterator[str]:
    yield base64.b64encode(random.Random(2).randbytes(15_000_000)).decode()


def one_word() -> Iterator[str]:
    letters = random.Random(3).randbytes(20_000_000)
    yield letters.translate(bytes(ord("a") + byte % 26 for byte in range(256))).decode()


def written(path: Path, texts: Iterator[str]) -> Path:
    with path.open("w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text}) + "\n")
    return path


@pytest.fixture(scope="module")
def distinct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("distinct") / "corpus.jsonl", distinct_words())


def trained(corpus: Path, folder: Path, threads: int = 2) -> dict[str, int | str]:
    command = [sys.executable, "-c", TRAIN, corpus, MAX_MEMORY, folder, threads]
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    result: dict[str, int | str] = json.loads(ended.stdout)
    return result


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("text", [base64_without_spaces, one_word])
def test_text_without_spaces_keeps_to_its_memory(text: Callable[[], Iterator[str]], tmp_path: Path) -> None:
    result = trained(written(tmp_path / "corpus.jsonl", text()), tmp_path)
    assert result["peak"] <= MAX_MEMORY
    assert result["tokens"] == 20_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_distinct_words_keep_to_their_memory(distinct: Path, tmp_path: Path) -> None:
    result = trained(distinct, tmp_path)
    assert result["peak"] <= MAX_MEMORY
    assert result["tokens"] == 20_000
    assert (int(result["below"]) > 1, int(result["spilled"]) > 0) == (True, True)
    assert trained(distinct, tmp_path, threads=1)["sha256"] == result["sha256"]
    assert list(tmp_path.iterdir()) == []


def test_a_sample_is_told(distinct: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"memory holds .* of 1,200,0\d\d distinct pieces .* standard error"):
        tok = penstock.Tokenizer.train([distinct], 300, max_memory=MAX_MEMORY, spill_folder=tmp_path)
    assert tok.training is not None
    assert tok.training.sampling is not None
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(distinct: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spilled"
    folder.mkdir()
    command = [sys.executable, "-c", TRAIN, distinct, MAX_MEMORY, folder, 2]
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as job:
        time.sleep(1.0)
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=30)
    assert job.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_named(distinct: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine mounts nothing")
    try:
        with pytest.raises(penstock.TokenizerError, match=r"small: cannot write counts .*No space left"):
            penstock.Tokenizer.train([distinct], 300, max_memory=MAX_MEMORY, spill_folder=small)
    finally:
        subprocess.run(["umount", str(small)], check=True)
