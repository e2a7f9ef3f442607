"""Where the time of a training step goes: the real model on a GPU, kernel by kernel.

    python benches/micro_batch.py                                    # the built-in recipe pretrain_moe
    python benches/micro_batch.py benches/small.toml --recipe shift
    python benches/micro_batch.py benches/lite_10l.toml --set train.micro_batch_size=2

Rows of random tokens in documents of random length go through a micro-batch, forward and backward, recorded
as the trainer records it, and then the optimizer updates. First both are timed, then one of each is profiled:
the times of its kernels are added up by part, and the dearest are listed by name.

What its kernels move by the memory's own counters, under Nsight Compute and then by part:

    ncu --profile-from-start off --cache-control none --print-units base --csv --page raw \\
        --metrics dram__bytes_read.sum,dram__bytes_write.sum \\
        python benches/micro_batch.py benches/small.toml --once > bytes.csv
    python benches/micro_batch.py --bytes bytes.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from penstock.config import Config
from penstock.kernels.gemm import accumulate_in_place
from penstock.kernels.gradient_norm import gradient_norm
from penstock.kernels.registry import RECIPE_ENVIRONMENT, RECIPES
from penstock.model import Transformer
from penstock.pipelines.recipes import load_recipe
from penstock.train.hardware import resolve_precision
from penstock.train.optim import AdamW
from penstock.train.recorded import RecordedMicroBatch
from penstock.train.step import micro_batch

PARTS = {
    "optimizer": r"adamw|squares",
    "FP8 products": r"block_scaled|fp8_gemm",
    "attention": r"latent|attention|flash|cudnn",
    "loss": r"cross_entropy",
    "norms": r"norm",
    "SwiGLU": r"swiglu",
    "casts to FP8": r"quantize",
    "transposes": r"transpose",
    "routing": r"rout|choices|choose|balance",
    "moves of rows": r"permute|gather|combine",
    "rotary embedding": r"rope",
    "embedding": r"embedding|Radix|radix|sort|runs",
    "bf16 and fp32 products": r"gemm|nvjet|cutlass|splitK|cublas",
    "copies and casts": r"copy|Memcpy|CatArray|fill|Memset",
}
"""A part's kernels by name; the first match counts."""


@dataclass(frozen=True)
class Kernel:
    name: str
    ms: float
    launches: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shape", nargs="?", default="pretrain_moe", help="a recipe, by name or path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--recipe", choices=RECIPES, help="how FP8 operands of weight gradients are made")
    parser.add_argument("--documents", type=int, default=1000, help="their mean length; 0: a row is one")
    parser.add_argument("--repeats", type=int, default=20, help="micro-batches that are timed")
    parser.add_argument("--kernels", type=int, default=25, help="dearest kernels to list")
    parser.add_argument(
        "--once", action="store_true", help="run one micro-batch for a profiler, print nothing"
    )
    parser.add_argument("--bytes", type=Path, metavar="CSV", help="add up what Nsight Compute wrote")
    options = parser.parse_args()
    if options.bytes:
        show_bytes(options.bytes)
        return
    if not torch.cuda.is_available():
        sys.exit("micro_batch needs a CUDA GPU, and torch sees none")
    if options.recipe:
        os.environ[RECIPE_ENVIRONMENT] = options.recipe
    config = load_recipe(Path(options.shape) if "." in options.shape else options.shape, options.set)

    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Transformer(config.model, resolve_precision(config.train.precision, torch.device("cuda")))
    accumulate_in_place(p for p in model.parameters() if p.ndim >= 2)
    optimizer = AdamW(model.named_parameters(), config.optimizer)
    plain = micro_batch(model, config.train)
    recorded = RecordedMicroBatch(plain, model.parameters())
    rows = random_rows(config, options.documents)

    count = max(1, config.data.global_batch_size // config.train.micro_batch_size)

    def update() -> None:
        gradient_norm(optimizer.gradients())
        optimizer.step(1e-5, 1.0)

    def step() -> None:
        for _ in range(count):
            recorded(*rows)
        update()
        optimizer.zero_grad(in_place=True)

    # Before anything is recorded, for a recording keeps its memory.
    plain(*rows)
    update()
    if options.once:
        torch.cuda.cudart().cudaProfilerStart()
        plain(*rows)
        torch.cuda.cudart().cudaProfilerStop()
        return
    micro_kernels, update_kernels = profile(lambda: plain(*rows)), profile(update)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    tokens = rows[1].numel()
    step_ms = time_ms(step, max(2, options.repeats // count))
    for _ in range(2):  # the first overwrites, those that are timed add
        recorded(*rows)
    micro_ms = time_ms(lambda: recorded(*rows), options.repeats)
    update_ms = time_ms(update, 5)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.shape}, {model.precision}")
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"micro-batch of {tokens} tokens: {micro_ms:.1f} ms; update: {update_ms:.1f} ms; {memory:.1f} GiB")
    print(f"step of {count} micro-batches: {step_ms:.1f} ms, {count * tokens / step_ms * 1000:,.0f} tokens/s")
    show("micro-batch", micro_kernels, options.kernels)
    show("update", update_kernels, options.kernels // 3)


def random_rows(config: Config, mean_length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, positions, documents and the number of targets, of one micro-batch."""
    count, length = config.train.micro_batch_size, config.pack.seq_len
    width = length + 1 + config.model.num_nextn_predict_layers
    # Frequencies fall as in text.
    tokens = (torch.rand(count, width, device="cuda") ** 4 * config.model.vocab_size).long()
    doc_ids = (torch.rand(count, width, device="cuda") < 1 / (mean_length or 1e9)).cumsum(1)
    starts = torch.cat([torch.ones_like(doc_ids[:, :1]), doc_ids.diff(dim=1)], 1).bool()
    index = torch.arange(width, device="cuda").expand_as(doc_ids)
    positions = index - torch.where(starts, index, 0).cummax(1).values
    return tokens, positions[:, :length].contiguous(), doc_ids, torch.tensor(count * length, device="cuda")


def time_ms(call: Callable[[], object], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / repeats


def profile(call: Callable[[], object]) -> list[Kernel]:
    """The kernels of one call, the dearest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    kernels = [Kernel(e.key, e.self_device_time_total / 1000, e.count) for e in found.key_averages()]
    return sorted((k for k in kernels if k.ms > 0), key=lambda k: -k.ms)


def show(title: str, kernels: list[Kernel], count: int) -> None:
    parts: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        parts[part_of(kernel.name)].append(kernel)
    print(f"\n{title}: {sum(k.ms for k in kernels):.1f} ms in {sum(k.launches for k in kernels)} launches")
    sums = sorted(((sum(k.ms for k in group), name) for name, group in parts.items()), reverse=True)
    for ms, name in sums:
        print(f"  {name:24s} {ms:8.2f} ms {sum(k.launches for k in parts[name]):6d} launches")
    for kernel in kernels[:count]:
        print(f"    {kernel.ms:8.2f} ms {kernel.launches:6d} x {kernel.name[:90]}")


def show_bytes(path: Path) -> None:
    """Bytes of memory by part, of a table with a line a kernel; lines before its head are the program's."""
    lines = path.read_text().splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        sys.exit(f"{path}: no table of Nsight Compute (--csv --page raw) in it")
    parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for row in csv.DictReader(lines[start:]):
        if row["ID"]:  # the line of units has none
            sums = parts[part_of(row["Kernel Name"])]
            sums[0] += float(row["dram__bytes_read.sum"].replace(",", ""))
            sums[1] += float(row["dram__bytes_write.sum"].replace(",", ""))
            sums[2] += 1
    for part, (read, written, launches) in sorted(parts.items(), key=lambda item: -sum(item[1])):
        print(
            f"  {part:24s} {read / 1e9:8.2f} GB read {written / 1e9:8.2f} GB written {launches:6d} launches"
        )


def part_of(name: str) -> str:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), "other")


if __name__ == "__main__":
    main()
