"""Long work in Rust, watched from Python: no callback on a hot path, the loop here asks instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["Job", "Progress", "ProgressCallback", "run_job"]

Result = TypeVar("Result", covariant=True)

POLL_SECONDS = 0.05
REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """Where a job stands."""

    stage: str
    done: int
    """Units done, bytes for what reads text."""
    total: int
    """Units in all; 0 when not known."""
    seconds: float
    """Since the job began."""


ProgressCallback = Callable[[Progress], None]


class Job(Protocol[Result]):
    """What the extension hands out for long work; it runs on threads of its own."""

    def progress(self) -> tuple[str, int, int]: ...
    def cancel(self) -> None: ...
    def wait(self, timeout_seconds: float) -> bool: ...
    def result(self) -> Result: ...


def run_job(job: Job[Result], progress: ProgressCallback | None = None) -> Result:
    """Wait for ``job``, reporting about ten times a second; an interrupt cancels it and passes on."""
    began = reported = time.monotonic()
    try:
        while not job.wait(POLL_SECONDS):
            now = time.monotonic()
            if progress is not None and now - reported >= REPORT_SECONDS:
                reported = now
                progress(Progress(*job.progress(), seconds=now - began))
    except BaseException:
        job.cancel()
        while not job.wait(POLL_SECONDS):
            pass
        raise
    if progress is not None:
        progress(Progress(*job.progress(), seconds=time.monotonic() - began))
    return job.result()
