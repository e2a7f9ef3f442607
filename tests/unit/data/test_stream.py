"""The order is a pure function: the same global batches for any ranks, from any step."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock

GLOBAL_BATCH = 12
Packed = tuple[Path, penstock.PackReport]


def take(dataset: penstock.StreamingDataset, steps: int) -> list[penstock.Batch]:
    return list(itertools.islice(dataset, steps))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_divide_the_same_global_batches(packed: Packed, world_size: int) -> None:
    whole = take(penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=7), 30)
    parts = [
        take(penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=7, rank=r, world_size=world_size), 30)
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        assert batch.step == step
        assert np.array_equal(batch.tokens, np.concatenate([p[step].tokens for p in parts]))
        ends = [e.tolist() for p in parts for e in p[step].doc_ends]
        assert [e.tolist() for e in batch.doc_ends] == ends


def test_an_epoch_shows_every_row_once(packed: Packed) -> None:
    dataset = penstock.StreamingDataset(packed[0], global_batch_size=1, seed=3)
    stored = Counter(dataset._core.row(i)[0].tobytes() for i in range(dataset.rows))
    for _ in range(2):
        seen = Counter(b.tokens.astype(np.uint32).tobytes() for b in itertools.islice(dataset, dataset.rows))
        assert seen == stored


def test_epochs_and_seeds_differ(packed: Packed) -> None:
    rows = penstock.StreamingDataset(packed[0]).rows
    core = penstock.StreamingDataset(packed[0])._core
    orders = {tuple(core.sample_row(s, e, k) for k in range(rows)) for s in range(3) for e in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(rows)) for order in orders)


@settings(max_examples=25, deadline=None)
@given(step=st.integers(0, 400), world_size=st.sampled_from([1, 2, 3, 4, 6]))
def test_resume_at_any_step_with_any_ranks(packed: Packed, step: int, world_size: int) -> None:
    state = penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=5).state_dict() | {"step": step}
    rank = step % world_size
    resumed = penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=5, rank=rank, world_size=world_size)
    resumed.load_state_dict(state)
    batch = next(resumed)
    assert batch.step == step
    n = GLOBAL_BATCH // world_size
    for slot in range(n):
        epoch, k = divmod(step * GLOBAL_BATCH + rank * n + slot, resumed.rows)
        row = resumed._core.row(resumed._core.sample_row(5, epoch, k))[0]
        assert np.array_equal(batch.tokens[slot], row)


def test_a_saved_state_continues_exactly(packed: Packed) -> None:
    dataset = penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=2)
    take(dataset, 17)
    state = json.loads(json.dumps(dataset.state_dict()))
    assert len(json.dumps(state)) <= 256
    rest = take(dataset, 10)
    again = penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=2)
    again.load_state_dict(state)
    for a, b in zip(rest, take(again, 10), strict=True):
        assert a.step == b.step
        assert np.array_equal(a.tokens, b.tokens)


def test_positions_restart_at_each_document(packed: Packed) -> None:
    batch = next(penstock.StreamingDataset(packed[0], GLOBAL_BATCH))
    for row, ends in zip(batch.positions, batch.doc_ends, strict=True):
        wanted: list[int] = []
        for start, end in itertools.pairwise([0, *ends.tolist()]):
            wanted += range(end - start)
        assert row[: len(wanted)].tolist() == wanted[: len(row)]


def test_batches_keep_their_values_while_they_are_held(packed: Packed) -> None:
    dataset = penstock.StreamingDataset(packed[0], GLOBAL_BATCH, prefetch_batches=2)
    held = take(dataset, 40)
    copies = [b.tokens.copy() for b in held]
    take(dataset, 40)
    assert all(np.array_equal(b.tokens, c) for b, c in zip(held, copies, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 99}, "seed"), ({"global_batch_size": 5}, "global_batch_size"), ({"version": 9}, "version")],
)
def test_a_state_of_something_else_is_refused(packed: Packed, change: dict[str, int], message: str) -> None:
    dataset = penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=2)
    with pytest.raises(penstock.DataError, match=message):
        dataset.load_state_dict(dataset.state_dict() | change)


def test_sizes_that_do_not_fit(packed: Packed) -> None:
    with pytest.raises(penstock.ConfigError, match="world_size"):
        penstock.StreamingDataset(packed[0], global_batch_size=8, world_size=3)
    with pytest.raises(penstock.ConfigError, match="rank"):
        penstock.StreamingDataset(packed[0], global_batch_size=8, rank=2, world_size=2)


def test_the_torch_loader_hands_out_the_same(packed: Packed) -> None:
    torch = pytest.importorskip("torch")
    from penstock.data.loader import TorchLoader

    plain = take(penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=1), 8)
    loader = TorchLoader(penstock.StreamingDataset(packed[0], GLOBAL_BATCH, seed=1))
    for batch, wanted in zip(loader, plain, strict=False):
        assert batch.tokens.dtype == batch.positions.dtype == batch.doc_ids.dtype == torch.int64
        assert np.array_equal(batch.tokens.numpy(), wanted.tokens)
        assert np.array_equal(batch.positions.numpy(), wanted.positions)
        for row, ends in zip(batch.doc_ids.numpy(), wanted.doc_ends, strict=True):
            pieces = itertools.pairwise([0, *ends.tolist()])
            numbers = [j for j, (start, end) in enumerate(pieces) for _ in range(end - start)]
            assert row.tolist() == numbers + [-1] * (len(row) - len(numbers))
