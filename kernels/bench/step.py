"""The kernels of one micro-batch, piece by piece: the ops a model calls, forward and backward, in FP8.

Each piece runs by itself from a cold cache, as a CUDA graph, with gradients added in place; its time is
multiplied by how often a micro-batch has it. Where products and what stands between them make one piece, a
profile of it says what share is the products'. Not included: masks of padding and the last norm.
``benches/micro_batch.py`` measures the whole model.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence

import torch

from ..registry import RECIPE_ENVIRONMENT, RECIPES
from .pieces import ELEMENTWISE, OPTIMIZER, PRODUCTS, ROW_TOKENS, Piece, pieces
from .shapes import SHAPES, Shape
from .timing import time_burst

_PRODUCT = re.compile("block_scaled|gemm|nvjet|cutlass")
"""In the names of products' kernels, ours and the library's."""


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status is 2 without a GPU."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.tokens < 1 or options.tokens % ROW_TOKENS:
        parser.error(f"--tokens: expected a multiple of {ROW_TOKENS}, got {options.tokens}")
    if not torch.cuda.is_available():
        print("the kernel benchmark needs a CUDA GPU, and torch sees none", file=sys.stderr)
        return 2
    os.environ[RECIPE_ENVIRONMENT] = options.recipe
    shape, sums = SHAPES[options.shape], dict[str, float]()
    print(
        f"{torch.cuda.get_device_name()}, {options.shape}, {options.tokens} tokens, recipe {options.recipe}"
    )
    with torch.device("cuda"):
        for piece in pieces(shape, options.tokens):
            each = time_burst(piece.call)
            share = share_of_products(piece.call) if piece.part == PRODUCTS else None
            add(sums, piece, each, share)
            of_products = "" if share is None else f", {share:.0%} products"
            total = each * piece.count
            print(f"  {piece.name:32s} {piece.count:7.1f} x {each:8.3f} ms = {total:7.1f} ms{of_products}")
            del piece
            torch.cuda.empty_cache()
    print(summary(shape, options.tokens, sums))
    return 0


def share_of_products(call: Callable[[], object]) -> float:
    """Of the time of the kernels of one call, in which each finds in the cache what the one before left."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    times = {event.key: event.self_device_time_total for event in profile.key_averages()}
    return float(sum(t for name, t in times.items() if _PRODUCT.search(name)) / sum(times.values()))


def add(sums: dict[str, float], piece: Piece, each_ms: float, share: float | None) -> None:
    """A piece's time to its part, or with a ``share`` of products to two."""
    parts = {piece.part: 1.0} if share is None else {PRODUCTS: share, ELEMENTWISE: 1.0 - share}
    for part, of_it in parts.items():
        sums[part] = sums.get(part, 0.0) + each_ms * piece.count * of_it


def summary(shape: Shape, tokens: int, sums: dict[str, float]) -> str:
    """The parts beside their predictions, which are for 16,384 tokens, and the sum beside its goal."""
    scale = tokens / 16384
    lines = []
    micro = sum(ms for part, ms in sums.items() if part != OPTIMIZER)
    for part, ms in [*sums.items(), ("micro-batch", micro)]:
        predicted = shape.predicted_ms.get(part)
        factor = 1.0 if part == OPTIMIZER else scale
        beside = "" if predicted is None else f"   predicted {predicted * factor:.1f}"
        lines.append(f"{part:32s} {ms:7.1f} ms{beside}")
    verdict = "met" if micro <= shape.goal_ms * scale else "missed"
    return "\n".join([*lines, f"goal {shape.goal_ms * scale:.1f} ms: {verdict}"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock.kernels.bench step", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--tokens", type=int, default=16384, help=f"a multiple of {ROW_TOKENS}")
    parser.add_argument("--recipe", choices=RECIPES, default="shift")
    return parser
