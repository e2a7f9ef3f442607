"""The learning rate against torch's own schedulers, and its defaults."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import OptimizerConfig
from penstock.errors import ConfigError
from penstock.train.schedule import Phases, learning_rate, phases


def torch_rates(config: OptimizerConfig, lengths: Phases, steps: int) -> list[float]:
    """The same phases put together from torch.optim.lr_scheduler."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=config.lr)
    rates = torch.optim.lr_scheduler
    start, hold, decay = lengths.warmup_steps, lengths.constant_steps, lengths.decay_steps
    scheduler = rates.SequentialLR(
        optimizer,
        [
            rates.LinearLR(optimizer, 1 / start, 1.0, start - 1),
            rates.ConstantLR(optimizer, 1.0, hold),
            rates.CosineAnnealingLR(optimizer, decay, config.min_lr),
            rates.ConstantLR(optimizer, config.min_lr / config.lr, steps),
        ],
        milestones=[start, start + hold, start + hold + decay],
    )
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_equals_torch_schedulers() -> None:
    config = OptimizerConfig(lr=3e-3, min_lr=2e-4, warmup_steps=5, constant_steps=7, decay_steps=11)
    lengths = phases(config, 30)
    ours = [learning_rate(step, config, lengths) for step in range(30)]
    assert ours == pytest.approx(torch_rates(config, lengths, 30), rel=1e-9)


def test_what_the_recipe_leaves_open() -> None:
    config = OptimizerConfig(warmup_steps=100)
    assert phases(config, 1000) == Phases(100, 600, 300)
    assert phases(OptimizerConfig(warmup_steps=0, constant_steps=0), 50) == Phases(0, 0, 50)
    assert phases(config, 40) == Phases(100, 0, 0)


@given(
    st.integers(0, 30), st.none() | st.integers(0, 30), st.none() | st.integers(0, 30), st.integers(1, 100)
)
def test_stays_between_the_rates_and_never_rises_after_the_warm_up(
    warmup: int, constant: int | None, decay: int | None, steps: int
) -> None:
    config = OptimizerConfig(
        lr=1.0, min_lr=0.1, warmup_steps=warmup, constant_steps=constant, decay_steps=decay
    )
    lengths = phases(config, steps)
    rates = [learning_rate(step, config, lengths) for step in range(steps)]
    after = rates[lengths.warmup_steps :]
    assert all(0 < rate <= 1.0 for rate in rates)
    assert all(rate >= 0.1 for rate in after)
    assert after == sorted(after, reverse=True)
    assert rates[: lengths.warmup_steps] == sorted(rates[: lengths.warmup_steps])


@pytest.mark.parametrize("key", ["lr", "min_lr", "warmup_steps", "constant_steps", "decay_steps"])
def test_negative_numbers_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.{key}=-1 must be at least 0"):
        OptimizerConfig(**{key: -1})
