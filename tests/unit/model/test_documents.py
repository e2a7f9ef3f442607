"""Rows of several documents and padding must equal the documents alone, whatever the row's layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from penstock.errors import DataError
from penstock.model import LossParts, Transformer, count_targets

LENGTHS = (7, 1, 9, 4)
SEQ_LEN = 22
LOOKAHEAD = 3


def packed(make_tokens: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """One row of four documents and four padding tokens; the last document ends in the lookahead."""
    tokens = make_tokens(1, SEQ_LEN + LOOKAHEAD)
    ids = torch.full_like(tokens, -1)
    positions = torch.zeros_like(tokens)
    pieces, start = [], 0
    for number, length in enumerate(LENGTHS):
        ids[0, start : start + length] = number
        positions[0, start : start + length] = torch.arange(length)
        pieces.append(tokens[:, start : start + length])
        start += length
    return tokens, positions[:, :SEQ_LEN], ids, pieces


def sums(parts: LossParts) -> Tensor:
    return torch.stack([parts.main, *parts.mtp]).detach()


def test_logits_equal_those_of_each_document(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, (tokens, positions, ids, pieces) = make_model(), packed(make_tokens)
    width = SEQ_LEN - 1
    row = model(tokens[:, :width], positions[:, :width], ids[:, :width])
    alone = torch.cat([model(piece) for piece in pieces], dim=1)
    assert (row[:, : alone.shape[1]] - alone).abs().max() < 1e-5


def test_positions_within_the_row_give_the_same(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """RoPE sees distances alone."""
    model, (tokens, positions, ids, _) = make_model(), packed(make_tokens)
    tokens, ids = tokens[:, :SEQ_LEN], ids[:, :SEQ_LEN]
    assert (model(tokens, positions, ids) - model(tokens, None, ids)).abs().max() < 1e-4


def test_without_documents_the_past_leaks(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, (tokens, positions, ids, _) = make_model(), packed(make_tokens)
    tokens, ids = tokens[:, :SEQ_LEN], ids[:, :SEQ_LEN]
    difference = (model(tokens, positions, ids) - model(tokens, positions)).abs().amax((0, 2))
    assert difference[: LENGTHS[0]].max() < 1e-5
    assert difference[LENGTHS[0] :].min() > 1e-3


def loss_of_a_document(model: Transformer, piece: Tensor) -> Tensor:
    """Sums of a document alone, by full logits: the target of depth d at i is token i + 1 + d."""
    depths = len(model.mtp)
    padded = torch.cat([piece, piece.new_zeros(1, depths)], dim=1)
    states, _ = model.states(padded)
    out = []
    for depth, state in enumerate(states):
        logp = model.logits(state)[0].log_softmax(-1)
        ahead = depth + 1
        out.append(
            -sum((logp[i, piece[0, i + ahead]] for i in range(piece.shape[1] - ahead)), logp.new_zeros(()))
        )
    return torch.stack(out)


def test_losses_are_the_sum_over_documents(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, (tokens, positions, ids, pieces) = make_model(), packed(make_tokens)
    parts = model.loss(tokens, positions, ids)
    expected = torch.stack([loss_of_a_document(model, piece) for piece in pieces]).sum(0).detach()
    assert sums(parts) == pytest.approx(expected, rel=1e-5)
    assert parts.targets.item() == sum(n - 1 for n in LENGTHS) == count_targets(ids, SEQ_LEN)


def test_a_wider_lookahead_than_needed_changes_nothing(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, (tokens, positions, ids, _) = make_model(num_nextn_predict_layers=0), packed(make_tokens)
    wide = model.loss(tokens, positions, ids)
    narrow = model.loss(tokens[:, : SEQ_LEN + 1], positions, ids[:, : SEQ_LEN + 1])
    assert wide.total.item() == narrow.total.item()
    assert wide.targets == narrow.targets


def test_gradients_are_the_sum_over_documents(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, (tokens, positions, ids, pieces) = make_model(), packed(make_tokens)
    model.loss(tokens, positions, ids, balance_loss_weight=0.0, mtp_loss_weight=1.0).total.backward()
    row = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = sum(loss_of_a_document(model, piece) for piece in pieces)
    assert isinstance(total, Tensor)
    (total[0] + total[1:].mean()).backward()
    alone = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert row.keys() == alone.keys() == dict(model.named_parameters()).keys()
    for name, gradient in row.items():
        assert (gradient - alone[name]).abs().max() <= 1e-5 * max(1.0, alone[name].abs().max().item()), name


def test_padding_contributes_nothing(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """Other padding tokens, and more of them, leave losses, loads and gradients as they are."""
    model, (tokens, positions, ids, _) = make_model(), packed(make_tokens)
    seen: list[tuple[LossParts, dict[str, Tensor]]] = []
    for seed in (2, 3):
        padded = torch.where(ids >= 0, tokens, make_tokens(1, tokens.shape[1], seed))
        more = make_tokens(1, tokens.shape[1], seed + 10)
        batch = torch.cat([padded, more]) if seed == 3 else padded
        rows = len(batch)
        model.zero_grad()
        parts = model.loss(
            batch,
            positions.expand(rows, -1),
            torch.cat([ids, torch.full_like(ids, -1)])[:rows],
            balance_loss_weight=0.1,
        )
        parts.total.backward()
        seen.append((parts, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (first, gradients), (second, others) = seen
    assert sums(first) == pytest.approx(sums(second), rel=1e-6)
    assert first.balance.item() == pytest.approx(second.balance.item(), rel=1e-6)
    assert first.targets == second.targets
    assert torch.equal(first.expert_counts, second.expert_counts)
    for name, gradient in gradients.items():
        assert (gradient - others[name]).abs().max() <= 1e-6 * max(1.0, gradient.abs().max().item()), name


def test_loads_count_real_inputs_of_each_depth(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """Depth d reads token i + d, so a document of n tokens is n - d inputs."""
    tokens, positions, ids, _ = packed(make_tokens)
    counts = make_model().loss(tokens, positions, ids).expert_counts.sum(1) / 2
    inputs = [sum(max(n - d, 0) for n in LENGTHS) for d in (0, 0, 1, 2)]
    assert counts.tolist() == inputs


def test_a_batch_of_padding_alone(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, tokens = make_model(), make_tokens(2, 10)
    parts = model.loss(tokens, doc_ids=torch.full_like(tokens, -1))
    parts.total.backward()
    assert parts.total.item() == 0
    assert parts.targets.item() == 0
    assert parts.expert_counts.sum().item() == 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize(
    ("width", "positions", "ids", "message"),
    [
        (3, None, None, "look ahead too little"),
        (12, 10, None, "look ahead too little"),
        (13, 10, 10, "must cover tokens"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    make_model: Callable[..., Transformer],
    make_tokens: Callable[..., Tensor],
    width: int,
    positions: int | None,
    ids: int | None,
    message: str,
) -> None:
    def zeros(size: int | None) -> Tensor | None:
        return None if size is None else torch.zeros(1, size, dtype=torch.int64)

    with pytest.raises(DataError, match=message):
        make_model().loss(make_tokens(1, width), zeros(positions), zeros(ids))
