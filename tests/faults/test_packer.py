"""Kills, flipped bits and cuts: nothing lost, nothing twice, nothing silent."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest

import penstock

PACK = """
import sys, penstock
tok = penstock.Tokenizer.from_file(sys.argv[1])
print("packing", flush=True)
penstock.pack(sys.argv[3:], tokenizer=tok, seq_len=128, out=sys.argv[2], threads=2)
"""


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, stdlib_texts: list[str]) -> tuple[list[str], Path]:
    """Arguments of a packing that takes a moment, and its uninterrupted result."""
    folder = tmp_path_factory.mktemp("job")
    files = []
    for i in range(6):
        path = folder / f"part-{i}.jsonl"
        path.write_text(
            "".join(json.dumps({"text": t}) + "\n" for t in stdlib_texts[i::6] * 2), encoding="utf-8"
        )
        files.append(str(path))
    tokenizer = penstock.Tokenizer.train(stdlib_texts[:30], vocab_size=1000)
    tokenizer.save(folder / "tok")
    penstock.pack(files, tokenizer=tokenizer, seq_len=128, out=folder / "whole")
    return [str(folder / "tok"), *files], folder / "whole"


def start(job: tuple[list[str], Path], out: Path) -> subprocess.Popen[bytes]:
    tokenizer, *files = job[0]
    return subprocess.Popen(
        [sys.executable, "-c", PACK, tokenizer, str(out), *files], stdout=PIPE, stderr=PIPE
    )


def test_random_kills_then_a_rerun_give_the_same_bytes(job: tuple[list[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    draw = random.Random(11)
    kills = 0
    for _ in range(12):
        process = start(job, out)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.08))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        if not (out / "manifest.json").exists():
            with pytest.raises(penstock.DataError):
                penstock.StreamingDataset(out)
    assert kills, "no kill met a running packer: the job is too short for this machine"
    process = start(job, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert hashes(out) == hashes(job[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_kill_at_every_file_operation(job: tuple[list[str], Path], tmp_path: Path) -> None:
    """SIGKILL at the n-th rename and fsync, for n = 1, 2, ...; each followed by a rerun."""
    tokenizer, *files = job[0]
    for call in ("rename,renameat,renameat2", "fsync,fdatasync"):
        for n in (1, 2, 3, 5, 8, 13, 19):
            out = tmp_path / f"{call[:5]}-{n}"
            command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
            command += ["-e", f"inject={call}:signal=KILL:when={n}", sys.executable, "-c", PACK]
            killed = subprocess.run([*command, tokenizer, str(out), *files], capture_output=True)
            if b"ptrace" in killed.stderr:
                pytest.skip("strace may not trace here")
            process = start(job, out)
            _, errors = process.communicate()
            assert process.returncode == 0, errors.decode()
            assert hashes(out) == hashes(job[1])


def test_two_packers_on_one_folder_share_the_work(job: tuple[list[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [start(job, out), start(job, out)]
    outcomes = [p.communicate()[1].decode() for p in both]
    assert any(p.returncode == 0 for p in both), outcomes
    assert hashes(out) == hashes(job[1])


def test_an_interrupt_stops_within_seconds_and_a_rerun_completes(
    job: tuple[list[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(job, out)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.03)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    process = start(job, out)
    process.communicate()
    assert process.returncode == 0
    assert hashes(out) == hashes(job[1])


@pytest.fixture
def small(stdlib_texts: list[str], tmp_path: Path) -> Path:
    """A dataset of a few hundred rows in three shards, quick to read whole."""
    lines = [json.dumps({"text": text[:2000]}) + "\n" for text in stdlib_texts[:60]]
    for part in range(3):
        (tmp_path / f"part-{part}.jsonl").write_text("".join(lines[part::3]), encoding="utf-8")
    tokenizer = penstock.Tokenizer.train(stdlib_texts[:10], vocab_size=400)
    penstock.pack(sorted(tmp_path.glob("*.jsonl")), tokenizer=tokenizer, seq_len=128, out=tmp_path / "small")
    return tmp_path / "small"


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in {".arrow", ".json"})


def replace(path: Path, content: bytes) -> None:
    """Another file at the same name: the way in which bytes on a disk change under a reader."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


def read_everything(folder: Path) -> str:
    """A digest of all that a reader hands out; raises where something is damaged."""
    dataset = penstock.StreamingDataset(folder)
    digest = hashlib.sha256()
    for i in range(dataset.rows):
        for part in dataset._core.row(i):
            digest.update(part.tobytes())
    dataset.verify()
    return digest.hexdigest()


def test_flipped_bits_are_never_silent(small: Path) -> None:
    draw = random.Random(5)
    files = [p for p in files_of(small) if p.name != "plan.json"]
    before = read_everything(small)
    for _ in range(300):
        path = draw.choice(files)
        content = path.read_bytes()
        at = draw.randrange(len(content))
        replace(path, content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
        with pytest.raises(penstock.PenstockError) as caught:
            read_everything(small)
        assert path.name in str(caught.value), (path.name, at, str(caught.value))
        replace(path, content)
    assert read_everything(small) == before


def test_cuts_and_swaps_are_never_silent(small: Path) -> None:
    draw = random.Random(6)
    shards = sorted((small / "shards").glob("*.arrow"))
    for path in [*files_of(small), *shards * 3]:
        if path.name == "plan.json":
            continue
        content = path.read_bytes()
        replace(path, content[: draw.randrange(len(content))])
        with pytest.raises(penstock.PenstockError):
            read_everything(small)
        path.unlink()
        with pytest.raises(penstock.PenstockError):
            read_everything(small)
        replace(path, content)
    first, second = shards[0].read_bytes(), shards[1].read_bytes()
    replace(shards[0], second)
    replace(shards[1], first)
    with pytest.raises(penstock.PenstockError):
        read_everything(small)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a full disk"
)
def test_a_full_disk_is_a_typed_error_and_a_rerun_completes(
    job: tuple[list[str], Path], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        tokenizer, *files = job[0]
        with pytest.raises(penstock.PenstockError, match=r"space|full"):
            penstock.pack(
                files, tokenizer=penstock.Tokenizer.from_file(tokenizer), seq_len=128, out=small / "out"
            )
        assert not (small / "out/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        process = start(job, small / "out")
        process.communicate()
        assert hashes(small / "out") == hashes(job[1])
    finally:
        subprocess.run(["umount", str(small)], check=False)
