"""Progress of long work on stderr: a bar on a terminal, plain lines in a pipe, JSON lines for programs.

Work reports ``Update`` objects as often as it likes; a view decides what is worth showing. stdout stays free
for results.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Protocol

from penstock.jobs import Progress
from penstock.report.quantities import show_bytes, show_count, show_rate, show_seconds

__all__ = [
    "BarView",
    "JsonView",
    "LineView",
    "StepLike",
    "Update",
    "View",
    "job_callback",
    "open_view",
    "step_callback",
]

LINE_SECONDS = 5.0
JSON_SECONDS = 1.0
JOB_UNITS = {
    "order pieces": "pieces",
    "find pairs": "symbols",
    "merge": "merges",
    "verify": "rows",
}
"""Of the extension's stages that do not count bytes of text."""


@dataclass(frozen=True)
class Update:
    """Where one piece of work stands."""

    stage: str
    done: float
    total: float
    """0 when not known."""
    unit: str
    """B for bytes, steps, or any other plural."""
    seconds: float
    """Since the work began."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Further figures, in the order in which they are shown."""


class View(Protocol):
    """Shows progress until it is closed; a context manager."""

    def update(self, update: Update) -> None:
        """Show where a stage stands; another stage than the last one begins a new display."""

    def note(self, text: str, **facts: Any) -> None:
        """Show one sentence; ``facts`` are for programs."""

    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StepLike(Protocol):
    """What a training step says of itself."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def mtp_loss(self) -> float | None: ...
    @property
    def tokens_per_s(self) -> float: ...
    @property
    def mfu(self) -> float | None: ...
    @property
    def data_stall_s(self) -> float: ...
    @property
    def expert_load(self) -> tuple[float, ...]: ...


def open_view(as_json: bool = False, stream: IO[str] | None = None) -> View:
    """The view that fits the stream, stderr unless another is given."""
    stream = sys.stderr if stream is None else stream
    if as_json:
        return JsonView(stream)
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return BarView(stream)
    return LineView(stream)


def job_callback(view: View, name: str) -> Callable[[Progress], None]:
    """What a job of the extension calls; ``name`` stands before the job's own stages."""

    def show(progress: Progress) -> None:
        stage = f"{name}: {progress.stage}" if progress.stage else name
        unit = JOB_UNITS.get(progress.stage, "B")
        view.update(Update(stage, progress.done, progress.total, unit, progress.seconds))

    return show


def step_callback(view: View, name: str) -> Callable[[StepLike], None]:
    """What the trainer calls after a step."""
    began = time.monotonic()

    def show(event: StepLike) -> None:
        details = {"loss": event.loss, "tok/s": event.tokens_per_s}
        if event.mtp_loss is not None:
            details["mtp"] = event.mtp_loss
        if event.mfu is not None:
            details["mfu %"] = 100 * event.mfu
        if event.expert_load:
            details["fullest expert x"] = max(event.expert_load)
        details["data stall ms"] = 1000 * event.data_stall_s
        seconds = time.monotonic() - began
        view.update(Update(name, event.step + 1, event.steps, "steps", seconds, details))

    return show


class LineView:
    """A line when a stage begins to move, every few seconds, and when it ends."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: Update | None = None
        self._shown: Update | None = None
        self._shown_at = -LINE_SECONDS

    def update(self, update: Update) -> None:
        if self._last is not None and self._last.stage != update.stage:
            self._flush()
            self._shown_at = -LINE_SECONDS
        self._last = update
        if self._clock() - self._shown_at >= LINE_SECONDS:
            self._flush()

    def note(self, text: str, **facts: Any) -> None:
        self._flush()
        self._write(text)

    def __enter__(self) -> LineView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()

    def _flush(self) -> None:
        """Write the newest state, once."""
        if self._last is not None and self._last is not self._shown:
            self._write(f"{self._last.stage:<20} {_figures(self._last)}")
            self._shown, self._shown_at = self._last, self._clock()

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class JsonView:
    """One JSON object a line: ``{"event": "progress" | "note", ...}``."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: Update | None = None
        self._pending = False
        self._shown_at = -JSON_SECONDS

    def update(self, update: Update) -> None:
        if self._last is not None and self._last.stage != update.stage:
            self._flush()
            self._shown_at = -JSON_SECONDS
        self._last, self._pending = update, True
        if self._clock() - self._shown_at >= JSON_SECONDS:
            self._flush()

    def note(self, text: str, **facts: Any) -> None:
        self._flush()
        self._write({"event": "note", "text": text, **facts})

    def __enter__(self) -> JsonView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._last is not None and self._pending:
            update = self._last
            self._write(
                {
                    "event": "progress",
                    "stage": update.stage,
                    "done": update.done,
                    "total": update.total,
                    "unit": update.unit,
                    "seconds": round(update.seconds, 3),
                    **update.details,
                }
            )
            self._pending, self._shown_at = False, self._clock()

    def _write(self, record: Mapping[str, Any]) -> None:
        print(json.dumps(record, default=str), file=self._stream, flush=True)


class BarView:
    """A rich bar a stage; rich honours NO_COLOR."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=stream),
        )
        self._stage: str | None = None
        self._task: Any = None

    def update(self, update: Update) -> None:
        total = update.total or None
        if update.stage != self._stage:
            self._finish()
            self._stage = update.stage
            self._task = self._bars.add_task(update.stage, total=total, figures="")
        self._bars.update(self._task, completed=update.done, total=total, figures=_figures(update))

    def note(self, text: str, **facts: Any) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> BarView:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        """A stage whose total was never known ends as a full bar, not as a running one."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            self._bars.update(self._task, total=task.completed or 1, completed=task.completed or 1)


def _figures(update: Update) -> str:
    """``12.3 MB of 40 MB, 8.1 MB/s, 5.0 s`` and the details."""
    show = show_bytes if update.unit == "B" else show_count
    amount = show(update.done)
    if update.total:
        amount += f" of {show(update.total)}"
    if update.unit != "B":
        amount += f" {update.unit}"
    parts = [amount]
    if update.unit == "B" and update.seconds > 0:
        parts.append(show_rate(update.done, update.seconds, "B"))
    parts += [f"{name} {_number(value)}" for name, value in update.details.items()]
    return ", ".join([*parts, show_seconds(update.seconds)])


def _number(value: float) -> str:
    return show_count(value) if value >= 1000 else f"{value:.4g}"
