"""Sampling: distributions against plain formulas, text against decoding everything again."""

from __future__ import annotations

import codecs
import math

import pytest
import torch

from penstock.config import ModelConfig
from penstock.errors import ConfigError
from penstock.generate.sample import SampleOptions, pick_token, sample, stream_text, stream_tokens
from penstock.model import Transformer

CONFIG = ModelConfig(
    vocab_size=258, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, n_shared_experts=1, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
    topk_group=1, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    max_position_embeddings=64, initializer_range=0.5, num_nextn_predict_layers=0,
)  # fmt: skip
EOT = 256


class Decoder:
    """Whole characters only, by the standard library."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self.decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def finish(self) -> str:
        return self.decoder.decode(b"", final=True)


class Bytes:
    """A token a byte; special strings are text."""

    eot_id = EOT
    vocab_size = 258

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def stream_decoder(self) -> Decoder:
        return Decoder()


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


def greedy_without_a_cache(model: Transformer, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_temperature_0_is_greedy_and_the_cache_changes_nothing(model: Transformer) -> None:
    prompt = list(b"def f(x):")
    options = SampleOptions(max_new_tokens=24, temperature=0, seed=3)
    assert list(stream_tokens(model, prompt, options)) == greedy_without_a_cache(model, prompt, 24)


def test_a_seed_gives_the_same_text_and_another_one_another(model: Transformer) -> None:
    texts = [
        sample(model, Bytes(), "abc", SampleOptions(max_new_tokens=30, temperature=1.5, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_pieces_are_whole_characters_of_the_whole_text(model: Transformer) -> None:
    options = SampleOptions(max_new_tokens=50, temperature=2.0, stop_ids=(EOT,))
    pieces = list(stream_text(model, Bytes(), "é", options))
    tokens = list(stream_tokens(model, list("é".encode()), options))
    assert "".join(pieces) == bytes(t for t in tokens if t < 256).decode(errors="replace")
    assert all(pieces)


def test_a_stop_token_ends_the_text_and_is_no_part_of_it(model: Transformer) -> None:
    prompt = list(b"stop")
    whole = greedy_without_a_cache(model, prompt, 12)
    stop = whole[-1]
    options = SampleOptions(max_new_tokens=12, temperature=0, stop_ids=(stop,))
    assert list(stream_tokens(model, prompt, options)) == whole[: whole.index(stop)]


def test_the_end_of_text_token_stops_text(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bytes, "eot_id", greedy_without_a_cache(model, list(b"x"), 1)[0])
    assert sample(model, Bytes(), "x", SampleOptions(temperature=0, max_new_tokens=9)) == ""


def test_special_strings_in_a_prompt_are_text(model: Transformer) -> None:
    seen: list[list[int]] = []

    class Spy(Bytes):
        def encode(self, text: str) -> list[int]:
            seen.append(super().encode(text))
            return seen[-1]

    list(stream_text(model, Spy(), "<|endoftext|>", SampleOptions(max_new_tokens=1)))
    assert EOT not in seen[0]


def test_an_empty_prompt_starts_after_the_end_of_text_token(model: Transformer) -> None:
    options = SampleOptions(max_new_tokens=5, temperature=0)
    expected = greedy_without_a_cache(model, [EOT], 5)
    found = sample(model, Bytes(), "", options)
    assert found == bytes(t for t in expected if t < 256).decode(errors="replace")


def frequencies(logits: torch.Tensor, options: SampleOptions, draws: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(logits))
    for _ in range(draws):
        counts[pick_token(logits, options, generator)] += 1
    return counts / draws


LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0, 2.0, -8.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    found = frequencies(LOGITS, SampleOptions(temperature=temperature))
    torch.testing.assert_close(found, (LOGITS / temperature).softmax(0), rtol=0, atol=0.03)


def test_top_k_keeps_the_k_likeliest_and_breaks_ties_by_id() -> None:
    assert frequencies(LOGITS, SampleOptions(top_k=1))[1] == 1
    found = frequencies(LOGITS, SampleOptions(temperature=1.0, top_k=3))
    expected = torch.where(LOGITS >= 1.0, LOGITS, -torch.inf).softmax(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)
    assert found[0] == found[3] == found[5] == 0


def test_top_p_keeps_the_smallest_likely_set() -> None:
    p = LOGITS.softmax(0)
    two, three = float(p[1] + p[4]), float(p[1] + p[4] + p[2])
    for top_p, kept in ((1e-9, 1), (two - 0.01, 2), (two + 0.01, 3), (three + 0.001, 4), (1.0, 6)):
        found = frequencies(LOGITS, SampleOptions(temperature=1.0, top_p=top_p), draws=8000)
        order = LOGITS.argsort(descending=True, stable=True)[:kept]
        assert set(found.nonzero().flatten().tolist()) <= set(order.tolist())
        expected = torch.zeros(6)
        expected[order] = p[order] / p[order].sum()
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    assert frequencies(LOGITS[:4], SampleOptions(temperature=1e-30), draws=20)[1] == 1


@pytest.mark.parametrize(
    "change", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": -1}]
)
def test_options_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        SampleOptions(**change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature"):
        SampleOptions(temperature=math.nan)


def test_prompts_that_do_not_fit_are_refused(model: Transformer) -> None:
    options = SampleOptions(max_new_tokens=60)
    with pytest.raises(ConfigError, match=r"5 prompt tokens and max_new_tokens=60 make 65.*=64"):
        list(stream_tokens(model, [1] * 5, options))
    with pytest.raises(ConfigError, match="the prompt is empty"):
        list(stream_tokens(model, [], options))
    with pytest.raises(ConfigError, match=r"token 300, but model\.vocab_size=258"):
        list(stream_tokens(model, [300], options))


def test_ids_that_the_tokenizer_lacks_are_never_drawn(model: Transformer) -> None:
    options = SampleOptions(max_new_tokens=40, temperature=5.0)
    assert max(stream_tokens(model, [1], options)) >= 64
    assert max(stream_tokens(model, [1], options, vocab_size=64)) < 64
