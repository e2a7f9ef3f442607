"""A tiny model in which every part has a visible effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch

from penstock.config import ModelConfig
from penstock.model import Transformer

TINY = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    n_shared_experts=1,
    n_routed_experts=8,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    kv_lora_rank=16,
    q_lora_rank=24,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=12,
    num_nextn_predict_layers=2,
    initializer_range=0.15,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(precision: str = "fp32", **changes: object) -> Transformer:
    torch.manual_seed(5)
    model = Transformer(dataclasses.replace(TINY, **changes), precision)  # type: ignore[arg-type]
    with torch.no_grad():
        for gate in model.routers():
            gate.weight.mul_(3)
            gate.e_score_correction_bias.normal_(0, 0.1)
    return model


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    """From a precision and changes of ``TINY`` to a model, always with the same weights."""
    return build


@pytest.fixture
def make_tokens() -> Callable[..., torch.Tensor]:
    """Random int64 ``[rows, width]``, the same for the same seed."""

    def tokens(rows: int, width: int, seed: int = 1) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, TINY.vocab_size, (rows, width), generator=generator)

    return tokens
