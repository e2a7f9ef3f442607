"""All cases by family: names are known before anything is built, so that they can be listed without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from . import attention, casts, dense, experts, routing, rows, vocabulary
from .case import Case

Build = Callable[..., Case]
Sizes = tuple[object, ...]


@dataclass(frozen=True)
class Family:
    """Cases that differ in size alone."""

    name: str
    compares: str
    build: Build
    quick: Sequence[Sizes]
    rest: Sequence[Sizes]


@dataclass(frozen=True)
class Entry:
    """A case that is not built yet."""

    family: str
    name: str
    build: Callable[[], Case]


_TOKENS = 8192
_LAYER = [(1920, 1280), (576, 1280), (2560, 512), (1280, 1280), (2560, 1280), (1280, 1280)]
"""Dense weights of a layer of `small`: queries, keys and values, output, shared experts."""
_LITE_LAYER = [(3072, 2048), (576, 2048), (4096, 512), (2048, 2048), (5632, 2048), (2048, 2816)]
_DENSE = [(_TOKENS, 4096, 7168), (_TOKENS, 1280, 1280)]
_V3 = [(_TOKENS, *size) for size in ((2112, 7168), (7168, 16384), (7168, 2048), (24576, 1536), (32768, 512))]
_SMALL_LITE = [(16384, 2560, 512), (16384, 2048, 2048)]
_ROUTED = 98304
_EXPERTS = [(64, _ROUTED, 1280, 1280), (64, _ROUTED, 1280, 640)]
_MORE_EXPERTS = [(64, _ROUTED, 2816, 2048), (64, _ROUTED, 2048, 1408), (8, 32768, 4096, 7168)]
_MANY_EXPERTS = [(256, 65536, 4096, 7168)]
_SMALL_ROWS, _LITE_ROWS, _V3_ROWS = (16384, 1280), (16384, 2048), (16384, 7168)
_SMALL_MOVE, _LITE_MOVE = (16384, 64, 6, 1280), (16384, 64, 6, 2048)
_V3_MOVE = (8192, 256, 8, 7168)
_SMALL_WIDTH, _LITE_WIDTH = (_ROUTED, 640), (_ROUTED, 1408)

_COPY = "our kernels beside a copy of as many bytes"
_BYTES = f"{_COPY} and the same by torch.compile"

FAMILIES = [
    Family("gemm", "fprop, tokens x N x K: cuBLAS 1x128 by 128x128, bf16 and tensor-wise FP8, DeepGEMM where "
           "installed; Gluon, plain Triton", dense.fprop, _DENSE, _V3 + _SMALL_LITE),
    Family("dgrad", "the same, of a weight N x K transposed", dense.dgrad, [], _DENSE + _V3[:1]),
    Family("wgrad", "cuBLAS 1x128 by 1x128 with float32 output, bf16; Gluon and Triton, both recipes, +=",
           dense.weight_gradient, _DENSE[:1], _DENSE[1:] + _V3[:3]),
    Family("wgrads", "weight gradients of a layer in one launch, beside bf16 one by one",
           dense.layer_gradients, [(_TOKENS, _LAYER)], [(16384, _LAYER), (16384, _LITE_LAYER)]),
    Family("grouped", "fprop, experts x rows x N x K: bf16 _grouped_mm, row-wise FP8; Gluon, plain Triton",
           experts.fprop, _EXPERTS, _MORE_EXPERTS + _MANY_EXPERTS),
    Family("grouped_dgrad", "the same, of weights N x K transposed: bf16 _grouped_mm; Gluon, plain Triton",
           experts.dgrad, _EXPERTS[:1], _EXPERTS[1:] + _MORE_EXPERTS),
    Family("grouped_wgrad", "bf16 _grouped_mm; Gluon, both recipes, +=",
           experts.weight_gradient, _EXPERTS, _MORE_EXPERTS[:2]),
    Family("grouped_wgrad_short", "few tokens an expert: memory limits, and bf16 writes half of the bytes",
           experts.weight_gradient, [], [(256, 65536, 2048, 1408)]),
    Family("quantize_rows", _BYTES, casts.rows_cast, [_LITE_ROWS], [_V3_ROWS]),
    Family("quantize_tokens", _BYTES, casts.tokens_cast, [_LITE_ROWS], [_V3_ROWS]),
    Family("quantize_both", f"{_COPY}; rows and tokens of one read", casts.both_casts,
           [_LITE_ROWS], [_SMALL_ROWS, _V3_ROWS]),
    Family("quantize_weight", _COPY, casts.weight_cast, [], [_LITE_ROWS, _V3_ROWS]),
    Family("transpose_shift", _COPY, casts.transpose, [_LITE_ROWS], [_V3_ROWS]),
    Family("transpose_gathered", _COPY, casts.gathered_transpose, [_SMALL_MOVE], [_LITE_MOVE, _V3_MOVE]),
    Family("rms_norm", f"{_BYTES}; forward", rows.norm, [_SMALL_ROWS], [_LITE_ROWS, _V3_ROWS]),
    Family("add_rms_norm", f"{_BYTES}; forward and backward",
           rows.sum_and_norm, [_SMALL_ROWS], [_LITE_ROWS]),
    Family("rms_norm_quantize", f"{_COPY}; forward, bytes alone",
           partial(rows.norm_cast, added=False), [_SMALL_ROWS], [_LITE_ROWS, _V3_ROWS]),
    Family("sum_rms_norm_quantize", f"{_COPY}; residual sum and norm, forward, bytes alone",
           partial(rows.norm_cast, added=True), [_SMALL_ROWS], [_LITE_ROWS, _V3_ROWS]),
    Family("add_rms_norm_quantize", f"{_COPY}; forward and backward, quantised both ways",
           rows.sum_and_norm_cast, [_SMALL_ROWS], [_LITE_ROWS]),
    Family("swiglu", f"{_BYTES}; forward and backward", rows.plain_swiglu, [], [_SMALL_WIDTH, _LITE_WIDTH]),
    Family("swiglu_quantize", _COPY, rows.swiglu_cast, [_SMALL_WIDTH], [_LITE_WIDTH]),
    Family("swiglu_backward_quantize", _COPY, rows.swiglu_backward_cast, [_SMALL_WIDTH], [_LITE_WIDTH]),
    Family("rotate_heads", f"{_BYTES}; forward and backward",
           rows.rotation, [(16384, 10, 128, 64)], [(16384, 16, 128, 64)]),
    Family("router_logits", "three products of bf16 parts beside cuBLAS float32, forward and backward",
           routing.logits, [(16384, 64, 1280)], [(16384, 64, 2048), (8192, 256, 7168)]),
    Family("route", f"{_COPY} and torch op by op; tokens, experts, groups, groups kept, chosen",
           routing.choice, [], [(16384, 64, 8, 4, 6), (16384, 256, 8, 4, 8)]),
    Family("route_tables", f"{_COPY} and torch op by op; tokens, experts, chosen",
           routing.tables, [], [(16384, 64, 6), (16384, 256, 8)]),
    Family("permute_rows", _COPY, routing.quantized_permute, [], [_SMALL_MOVE, _V3_MOVE]),
    Family("permute", f"{_COPY} and index_select", routing.plain_permute, [], [_SMALL_MOVE, _LITE_MOVE]),
    Family("combine", _COPY, routing.weighted_sum, [], [_SMALL_MOVE, _V3_MOVE]),
    Family("combine_rms_norm", f"{_COPY}, and a kernel each; sum of experts, residual sum, norm as bytes",
           routing.weighted_sum_and_norm, [_SMALL_MOVE], [_LITE_MOVE]),
    Family("attention", "cuDNN alone and with the copies it needs; Gluon, plain Triton; forward and "
           "backward; rows, length, heads, documents",
           attention.core, [(4, 4096, 10, 1)], [(4, 4096, 16, 1)]),
    Family("attention_documents", "the same, cuDNN alone on rows of a document each; SDPA with a "
           "written mask",
           attention.core, [(4, 4096, 10, 8)], [(4, 4096, 16, 8)]),
    Family("loss", "output layer and cross-entropy beside the two compiled; tokens, hidden, vocabulary",
           vocabulary.loss, [(8192, 2048, 128000)], [(8192, 1280, 65536)]),
    Family("embedding", f"{_COPY} and F.embedding, forward and backward; tokens, hidden, vocabulary",
           vocabulary.embedding_gradient, [(16384, 1280, 65536)], [(16384, 2048, 102400)]),
    Family("adamw", f"{_COPY} and torch's fused AdamW (float32 moments)",
           rows.optimizer, [(1 << 28,)], []),
    Family("adamw_quantize", f"{_COPY}; FP8 copies in both layouts; experts, N, K",
           rows.optimizer_cast, [(16, 2816, 2048)], [(1, 8192, 8192)]),
    Family("gradient_norm", f"{_COPY}, get_total_norm, and a sum of as many numbers; tensors, elements",
           rows.norm_of_gradients, [(64, 1 << 22)], [(1, 1 << 28), (1024, 1 << 18), (4096, 2048)]),
]  # fmt: skip


def entries(quick: bool = False, only: str = "") -> Iterator[Entry]:
    """Cases in order; ``only``: those whose family or name holds this."""
    for family in FAMILIES:
        for sizes in [*family.quick, *([] if quick else family.rest)]:
            name = f"{family.name} {_label(sizes)}"
            if only in name:
                yield Entry(family.name, name, partial(family.build, *sizes))


def listing(quick: bool = False, only: str = "") -> str:
    """Families with what each compares, and the names of their cases."""
    lines = []
    for family in FAMILIES:
        names = [entry.name for entry in entries(quick, only) if entry.family == family.name]
        if names:
            lines += [f"{family.name}: {family.compares}", *(f"    {name}" for name in names)]
    return "\n".join(lines)


def _label(sizes: Sizes) -> str:
    return "x".join(_size(s) for s in sizes)


def _size(size: object) -> str:
    if isinstance(size, list):
        return f"{len(size)} weights of {sum(n * k for n, k in size)}"
    return str(size)
