"""Numbers as people read them."""

from __future__ import annotations

import pytest

from penstock.report.quantities import show_bytes, show_count, show_rate, show_seconds


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (999, "999"), (8192, "8,192"), (12_345, "12.3K"), (2.73e9, "2.73B")]
)
def test_counts(value: float, shown: str) -> None:
    assert show_count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (999, "999 B"), (12e6, "12 MB"), (1.5e9, "1.5 GB"), (3e12, "3 TB")]
)
def test_bytes(value: float, shown: str) -> None:
    assert show_bytes(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (125, "2 min 05 s"), (3599.7, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_seconds(value: float, shown: str) -> None:
    assert show_seconds(value) == shown


def test_rates() -> None:
    assert show_rate(10e6, 2, "B") == "5 MB/s"
    assert show_rate(90_000, 3, "tokens") == "30K tokens/s"
    assert show_rate(1, 0, "tokens") == "-"
