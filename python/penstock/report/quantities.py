"""Numbers as people read them: bytes, rates, durations."""

from __future__ import annotations

__all__ = ["show_bytes", "show_count", "show_rate", "show_seconds"]


def show_count(value: float) -> str:
    """``1234567`` as ``1.23M``; below ten thousand with separators, because there every digit counts."""
    if value < 10_000:
        return f"{value:,.0f}"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    raise AssertionError("unreachable: value is at least ten thousand")


def show_bytes(value: float) -> str:
    """Decimal units, as disks and network links are sold and as MB/s means."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def show_rate(amount: float, seconds: float, unit: str) -> str:
    """``amount`` of ``unit`` a second; bytes get their prefix."""
    if seconds <= 0:
        return "-"
    if unit == "B":
        return f"{show_bytes(amount / seconds)}/s"
    return f"{show_count(amount / seconds)} {unit}/s"


def show_seconds(seconds: float) -> str:
    """``3.4 s``, ``2 min 05 s``, ``1 h 12 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
