"""What options of tokenizer training cost, on a corpus of your own.

    python3 dev.py bench training-options cancel --corpus corpus.jsonl.zst --megabytes 50
    python3 dev.py bench training-options superbpe --corpus corpus.jsonl.zst --heldout heldout.jsonl.zst

`cancel` interrupts trainings (Ctrl-C, from within) at random moments of each of their stages and prints how
long it took until the interrupt was answered. `superbpe` trains twice to one size, without and with tokens
across spaces, and prints the ratio of times and the tokens saved on text held out, by source if it has any.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from corpus import sourced_texts_of
from training import write_corpus

import penstock

Options = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["cancel", "superbpe"])
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help=".jsonl or .jsonl.zst files")
    parser.add_argument("--heldout", type=Path, help="text to count tokens of, for superbpe")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--share", type=float, default=0.7, help="of the vocabulary that stays within words")
    parser.add_argument("--moments", type=int, default=5, help="to cancel each stage at")
    parser.add_argument("--spill-memory", default="350M", help="bound of the training that spills to disk")
    parser.add_argument("--visits", type=int, default=2)
    options = parser.parse_args()
    if options.what == "superbpe" and options.heldout is None:
        parser.error("superbpe needs --heldout")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        megabytes = write_corpus(options.corpus, corpus, options.megabytes * 1e6) / 1e6
        print(f"{megabytes:.1f} MB, {options.vocab_size} tokens")
        {"cancel": print_cancels, "superbpe": print_superbpe}[options.what](corpus, options)


def print_cancels(corpus: Path, options: argparse.Namespace) -> None:
    kinds: dict[str, Options] = {
        "plain": {},
        "superbpe": {"superbpe": options.share},
        "spilling": {"max_memory": options.spill_memory},
    }
    print(f"{'training':10} {'stage':12} {'cancels':>8} {'median s':>9} {'longest s':>10}")
    for kind, extra in kinds.items():
        training = {"vocab_size": options.vocab_size, "pattern": "deepseek-v3", **extra}
        latencies: dict[str, list[float]] = defaultdict(list)
        for stage, start, end in stages_of(corpus, training):
            for _ in range(options.moments):
                cancelled = cancel_after(corpus, training, start + random.random() * (end - start))
                if cancelled is not None:
                    latencies[cancelled[0] or stage].append(cancelled[1])
        for stage, seconds in latencies.items():
            row = f"{len(seconds):8} {statistics.median(seconds):9.3f} {max(seconds):10.3f}"
            print(f"{kind:10} {stage:12} {row}", flush=True)


def stages_of(corpus: Path, training: Options) -> list[tuple[str, float, float]]:
    """The stages of a whole training, each with its first and last second."""
    seen: list[penstock.jobs.Progress] = []
    penstock.Tokenizer.train([corpus], progress=seen.append, **training)
    names = list(dict.fromkeys(progress.stage for progress in seen))
    starts = [min(p.seconds for p in seen if p.stage == name) for name in names]
    ends = [*starts[1:], seen[-1].seconds]
    return list(zip(names, [0.0, *starts[1:]], ends, strict=True))


def cancel_after(corpus: Path, training: Options, delay_seconds: float) -> tuple[str, float] | None:
    """The stage that was interrupted and the time until it answered, or None for one that was done before."""
    stage, sent = [""], [0.0]

    def interrupt() -> None:
        sent[0] = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay_seconds, interrupt)
    try:
        timer.start()
        penstock.Tokenizer.train([corpus], progress=lambda seen: stage.__setitem__(0, seen.stage), **training)
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:
        return stage[0], time.perf_counter() - sent[0]
    return None


def print_superbpe(corpus: Path, options: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = defaultdict(list)
    tokenizers: dict[str, penstock.Tokenizer] = {}
    for _ in range(options.visits):
        for kind, share in (("plain", None), ("superbpe", options.share)):
            began = time.perf_counter()
            tokenizers[kind] = penstock.Tokenizer.train([corpus], options.vocab_size, superbpe=share)
            seconds[kind].append(time.perf_counter() - began)
    least = {kind: min(times) for kind, times in seconds.items()}
    print(
        f"plain {least['plain']:.2f} s, superbpe={options.share} {least['superbpe']:.2f} s: "
        f"{least['superbpe'] / least['plain']:.2f} times the time (least of {options.visits})"
    )
    texts: dict[str, list[str]] = defaultdict(list)
    for source, text in sourced_texts_of(options.heldout):
        texts[source].append(text)
    counts = {
        kind: {source: len(tok.encode_batch(some).ids) for source, some in texts.items()}
        for kind, tok in tokenizers.items()
    }
    totals = {kind: count | {"everything": sum(count.values())} for kind, count in counts.items()}
    print(f"{'source':24} {'plain':>12} {'superbpe':>12} {'saved %':>8}")
    for source, plain in totals["plain"].items():
        found = totals["superbpe"][source]
        print(f"{source or '-':24} {plain:12} {found:12} {100 * (1 - found / max(1, plain)):8.1f}")


if __name__ == "__main__":
    main()
