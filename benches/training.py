"""Tokenizer training beside other trainers, each in a process of its own, with time and peak memory.

    python3 dev.py bench training --corpus corpus.jsonl.zst --megabytes 100 --vocab-size 128000

All cut by GPT-2's pattern, but sentencepiece by its own. `--peers PYTHON` names the interpreter of an
environment with tokenizers, rustbpe, gigatoken and sentencepiece; what it lacks is left out. Merges are
compared with ours: rustbpe breaks ties in another order, sentencepiece learns by another rule. MB are 10^6
bytes of UTF-8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from corpus import texts_of

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END = "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help=".jsonl or .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--vocab-size", type=int, default=128_000)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--only", nargs="+", default=list(TRAINERS), choices=list(TRAINERS))
    parser.add_argument("--visits", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        megabytes = write_corpus(options.corpus, corpus, options.megabytes * 1e6) / 1e6
        print(f"{megabytes:.1f} MB, {options.vocab_size} tokens")
        print(f"{'trainer':14} {'seconds':>8} {'peak GB':>8}  merges")
        wanted: list[list[str]] | None = None
        for _ in range(options.visits):
            for name in options.only:
                python = sys.executable if name == "penstock" else options.peers
                result = train_apart(python, name, corpus, options.vocab_size)
                if "missing" in result:
                    print(f"{name:14} not installed: {result['missing']}")
                    continue
                merges = result["merges"]
                wanted = wanted if wanted is not None else merges
                print(
                    f"{name:14} {result['seconds']:8.2f} {result['peak_bytes'] / 1e9:8.2f}  "
                    f"{compared(merges, wanted)}",
                    flush=True,
                )


def write_corpus(sources: list[Path], target: Path, limit_bytes: float) -> int:
    """One plain file for all, so that no trainer pays for decompression or for more text."""
    size = 0
    with target.open("w", encoding="utf-8") as out:
        for text in (text for path in sources for text in texts_of(path)):
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            size += len(text.encode())
            if size >= limit_bytes:
                break
    return size


def compared(merges: list[list[str]], wanted: list[list[str]]) -> str:
    """How alike two lists of merges are, in hex."""
    if merges == wanted:
        return f"{len(merges)}, equal"
    ours, theirs = ({left + right for left, right in some} for some in (wanted, merges))
    return f"{len(merges)}, {100 * len(ours & theirs) / max(1, len(ours)):.1f} % of ours" if merges else "-"


def train_apart(python: str, name: str, corpus: Path, vocab_size: int) -> dict[str, Any]:
    command = [python, __file__, "--train", name, str(corpus), str(vocab_size)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{name} failed:\n{ended.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def train_here(name: str, corpus: Path, vocab_size: int) -> None:
    """Train in this process and print what came out."""
    began = time.perf_counter()
    try:
        merges = TRAINERS[name](corpus, vocab_size)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": str(error.name)}))
        return
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_bytes = int(status["VmHWM"].split()[0]) * 1024
    hexed = [[left.hex(), right.hex()] for left, right in merges()]
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes, "merges": hexed}))


def penstock_merges(corpus: Path, vocab_size: int) -> Any:
    import penstock

    tok = penstock.Tokenizer.train([corpus], vocab_size, "gpt2")
    return tok.merges


def tokenizers_merges(corpus: Path, vocab_size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    peer = Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    peer.train_from_iterator(texts_of(corpus), trainer)
    return lambda: [
        tuple(map(bytes_of, m if isinstance(m, list) else m.split(" ")))
        for m in json.loads(peer.to_str())["model"]["merges"]
    ]


def bytes_of(spelled: str) -> bytes:
    """The bytes that a byte-level token spells."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    codes = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return bytes(codes[character] for character in spelled)


def rustbpe_merges(corpus: Path, vocab_size: int) -> Any:
    import rustbpe

    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(texts_of(corpus), vocab_size - 1, pattern=GPT2)
    return lambda: [(b"", token) for token, rank in peer.get_mergeable_ranks() if rank >= 256]


def gigatoken_merges(corpus: Path, vocab_size: int) -> Any:
    import gigatoken

    _, merges = gigatoken.train_bpe(gigatoken.JsonlFileSource([str(corpus)]), vocab_size, [END])
    return lambda: merges


def sentencepiece_merges(corpus: Path, vocab_size: int) -> Any:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts_of(corpus) for line in text.split("\n") if line),
        model_prefix=str(corpus.with_suffix("")),
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        max_sentence_length=65_535,
        num_threads=2,
        minloglevel=2,
    )
    return list


TRAINERS = {
    "penstock": penstock_merges,
    "tokenizers": tokenizers_merges,
    "rustbpe": rustbpe_merges,
    "gigatoken": gigatoken_merges,
    "sentencepiece": sentencepiece_merges,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train_here(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
