"""How a call is timed on a GPU: in bursts from a cold cache, and back to back until power and clock have
settled.

Power limits what a Hopper card sustains, and what ran just before moves a single reading by up to a quarter.
So contenders take turns, three rounds of them in one process, each begun by another of them; the bursts of a
round come first, after a pause, since a burst behind a sustained run of whatever its neighbour is reads that
neighbour's heat. Only ratios mean much.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

ROUNDS = 3
_FLUSH_BYTES = 256 << 20
"""Five times the L2 cache of an H200. They are read, not written: the cache would have to write back what was
written on the time of the contender, and more of it if that one writes little itself."""
_PAUSE_SECONDS = 0.1
"""In which clocks recover from the sustained runs of the round before."""
_SLEEP_CYCLES = 200_000
"""A tenth of a millisecond in which the host gets ahead of the GPU."""


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds; clock and watts are the last round's."""

    burst_ms: float
    sustained_ms: float
    clock_mhz: int
    """Of the multiprocessors, at the end of the sustained run; 0 if the driver does not say."""
    watts: int


def time_in_turns(calls: Sequence[Callable[[], object]], seconds: float) -> list[Timing]:
    """Time each of ``calls`` in three rounds; a sustained run lasts ``seconds``."""
    flush = torch.zeros(_FLUSH_BYTES // 4, device="cuda")
    visits: list[list[Timing]] = [[] for _ in calls]
    for start in range(ROUNDS):
        turns = [(start + i) % len(calls) for i in range(len(calls))]
        time.sleep(_PAUSE_SECONDS)
        bursts = {i: _visit_briefly(calls[i], flush) for i in turns}
        for i in turns:
            visits[i].append(_visit(calls[i], bursts[i], seconds, start == ROUNDS - 1))
    return [_median(v) for v in visits]


def time_burst(call: Callable[[], object]) -> float:
    """Milliseconds of one call as a CUDA graph, from a cold cache."""
    # Autograd must have run beside the main stream before a graph records it.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    flush = torch.zeros(_FLUSH_BYTES // 4, device="cuda")
    return _burst(_recorded(call), flush)


def can_be_recorded(call: Callable[[], object]) -> None:
    """Record ``call`` as a CUDA graph and run it once; raises what stands against it."""
    # A recording that fails leaves torch's allocator and generator in its midst: look for waits beforehand.
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    _recorded(call)()
    torch.cuda.synchronize()


def _median(visits: list[Timing]) -> Timing:
    return Timing(
        statistics.median(v.burst_ms for v in visits),
        statistics.median(v.sustained_ms for v in visits),
        visits[-1].clock_mhz,
        visits[-1].watts,
    )


def _visit_briefly(call: Callable[[], object], flush: torch.Tensor) -> float:
    call()
    return _burst(_recorded(call), flush)


def _visit(call: Callable[[], object], burst_ms: float, seconds: float, ask: bool) -> Timing:
    count = max(5, int(seconds * 1000 / max(burst_ms, 1e-3)))
    sustained_ms = _back_to_back(_recorded(call), count)
    return Timing(burst_ms, sustained_ms, *(_clock_and_watts() if ask else (0, 0)))


def _recorded(call: Callable[[], object]) -> Callable[[], object]:
    """``call`` as a CUDA graph, as a trainer runs it: launches cost the GPU's time and not the host's."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _burst(call: Callable[[], object], flush: torch.Tensor, count: int = 9) -> float:
    events = [[_event() for _ in range(2)] for _ in range(count)]
    for start, end in events:
        flush.amax()
        torch.cuda._sleep(_SLEEP_CYCLES)  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in events))


def _back_to_back(call: Callable[[], object], count: int) -> float:
    start, end = (_event() for _ in range(2))
    for _ in range(count // 2):
        call()
    start.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / count


def _clock_and_watts() -> tuple[int, int]:
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        clock, watts = answer.splitlines()[torch.cuda.current_device()].split(",")
        return int(clock), round(float(watts))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return 0, 0
