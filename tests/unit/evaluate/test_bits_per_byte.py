"""Bits per byte: known values, a plain loop, and every token once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from penstock.config import ModelConfig
from penstock.errors import ConfigError, DataError
from penstock.evaluate import bits_per_byte as module
from penstock.evaluate.bits_per_byte import bits_per_byte, encode_documents, windows
from penstock.model import Transformer

VOCAB_SIZE = 257
TEXTS = [
    "a",
    "Völker, hört die Signale!",
    "x" * 200,
    "def f(x):\n    return x\n" * 9,
    "雨にも負けず",
    "\x00\n",
]


class Bytes:
    """A token a byte, and an end-of-text token or none."""

    def __init__(self, eot_id: int | None = 256) -> None:
        self.eot_id = eot_id

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Uniform:
    """Every token equally likely."""

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.full((*tokens.shape, VOCAB_SIZE), 3.25)


class SumOfPrefix:
    """Logits that depend on every token read so far, so that a missing or a foreign one shows."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=generator)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens].cumsum(1) / 3


def plain_bits(model: object, texts: Sequence[str], seq_len: int, eot_id: int | None) -> float:
    """One token at a time, from the longest context that its window gives it."""
    nats = 0.0
    stride = seq_len - seq_len // 2
    for text in texts:
        ids = list(text.encode())
        for i, target in enumerate(ids):
            if i == 0 and eot_id is None:
                nats += math.log(VOCAB_SIZE)
                continue
            if i == 0:
                context = [eot_id]
            else:
                start = 0 if i <= seq_len else stride * math.ceil((i - seq_len) / stride)
                context = ids[start:i]
                assert min(i, seq_len // 2) <= len(context) <= seq_len
            logits = model(torch.tensor([context]))[0, -1]  # type: ignore[operator]
            nats -= float(F.log_softmax(logits.double(), 0)[target])
    return nats / math.log(2)


@pytest.mark.parametrize("seq_len", [2, 7, 1000])
@pytest.mark.parametrize("eot_id", [256, None])
def test_a_uniform_model_gives_the_logarithm_of_the_vocabulary(seq_len: int, eot_id: int | None) -> None:
    found = bits_per_byte(Uniform(), Bytes(eot_id), TEXTS, seq_len=seq_len)
    size = sum(len(text.encode()) for text in TEXTS)
    assert (found.bytes, found.tokens, found.documents) == (size, size, len(TEXTS))
    assert found.bits == pytest.approx(math.log2(VOCAB_SIZE) * size, rel=1e-6)
    assert found.value == found.bits / size


@pytest.mark.parametrize("eot_id", [256, None])
@pytest.mark.parametrize(
    ("seq_len", "batch_size"), [(2, 3), (3, 1), (16, 4), (17, 2), (199, 5), (200, 8), (500, 8)]
)
def test_equals_a_plain_loop(seq_len: int, batch_size: int, eot_id: int | None) -> None:
    model = SumOfPrefix()
    found = bits_per_byte(model, Bytes(eot_id), TEXTS, seq_len=seq_len, batch_size=batch_size)
    assert found.bits == pytest.approx(plain_bits(model, TEXTS, seq_len, eot_id), rel=1e-5)


def test_equals_a_plain_loop_with_a_transformer() -> None:
    config = ModelConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, n_shared_experts=1, n_routed_experts=4,
        num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Transformer(config).eval()
    texts = [text[:40] for text in TEXTS]
    with torch.no_grad():
        found = bits_per_byte(model, Bytes(), texts, seq_len=12, batch_size=3)
        assert found.bits == pytest.approx(plain_bits(model, texts, 12, 256), rel=1e-5)


def test_many_small_batches_and_a_small_memory_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SumOfPrefix()
    found = bits_per_byte(model, Bytes(), TEXTS, seq_len=16, batch_size=4)
    monkeypatch.setattr(module, "POOL_BATCHES", 1)
    monkeypatch.setattr(module, "MAX_LOGIT_BYTES", 4 * VOCAB_SIZE * 20)
    again = bits_per_byte(model, Bytes(), TEXTS, seq_len=16, batch_size=4)
    assert again.bits == pytest.approx(found.bits, rel=1e-6)


@given(st.integers(0, 300), st.integers(2, 40))
def test_windows_score_each_token_but_the_first_once(length: int, seq_len: int) -> None:
    scored: list[int] = []
    for window in windows(list(range(length)), seq_len):
        read = window.ids[:-1]
        assert len(read) <= seq_len
        assert 1 <= window.scored <= len(read)
        new = list(window.ids[-window.scored :])
        # What comes before the first scored token: all of the document, or half a window at least.
        assert new[0] - window.ids[0] >= min(new[0], seq_len // 2)
        scored += new
    assert scored == list(range(1, length))


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 5, 20, 27, 10_000])
def test_a_limit_cuts_at_a_whole_character(max_bytes: int) -> None:
    documents = list(encode_documents(Bytes(), ["a", "", "ö雨", "b" * 20, "c"], max_bytes))
    text = b"".join(bytes(d.ids) for d in documents)
    assert ("aö雨" + "b" * 20 + "c").encode().startswith(text)
    assert text.decode()
    assert sum(d.bytes for d in documents) == len(text) <= max_bytes
    assert len(text) >= min(max_bytes, 27) - 3
    assert all(d.bytes for d in documents)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="no held-out text"):
        bits_per_byte(Uniform(), Bytes(), ["", ""], seq_len=8)
    with pytest.raises(ConfigError, match="seq_len=1 must be at least 2"):
        bits_per_byte(Uniform(), Bytes(), TEXTS, seq_len=1)
