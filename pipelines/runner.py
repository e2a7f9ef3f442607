"""``penstock run``: the stages of a recipe in order, each done once.

A finished stage leaves ``stages/<stage>.json`` with its result and a fingerprint of all that it depends
on: its part of the recipe, the fingerprints of the stages it reads, the input files. While it holds, the
stage is skipped; once a setting has changed, that stage and what follows from it are done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import penstock
from penstock.config import Config
from penstock.errors import ConfigError
from penstock.pipelines.recipes import check_recipe, find_recipe, load_recipe
from penstock.pipelines.stages import STAGES, Stage, Work
from penstock.report.progress import View, open_view
from penstock.report.quantities import show_seconds

__all__ = ["RunReport", "StageOutcome", "run", "summary"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class StageOutcome:
    """How a stage went."""

    name: str
    skipped: bool
    """It was done before, under the same settings."""
    seconds: float
    """What it took when it was done."""
    result: Mapping[str, Any]


@dataclass(frozen=True)
class RunReport:
    """What a run made."""

    folder: Path
    report: Path
    """The HTML page."""
    stages: tuple[StageOutcome, ...]
    bits_per_byte_before: float
    bits_per_byte_after: float
    bits_per_byte_bigram: float
    seconds: float
    """Of this call."""


def run(
    recipe: str | Path,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    corpus: Iterable[str | Path] = (),
    restart: bool = False,
    view: View | None = None,
) -> RunReport:
    """Go through a whole recipe: text, tokenizer, packed rows, trained model, report.

    Parameters
    ----------
    recipe
        The name of a built-in recipe or a TOML file.
    overrides
        ``section.key=value`` changes, in order.
    out
        The run's folder; ``runs/<recipe>`` by default.
    corpus
        Files or folders of text, in place of the recipe's ``corpus.paths``.
    restart
        Do every stage again. Checkpoints of an earlier run are moved aside, not deleted.
    view
        Shows progress; one for stderr is opened if it is None.

    Raises
    ------
    PenstockError
        Whatever a stage finds wrong. What was complete stays, and the same call goes on from there.
    """
    config = load_recipe(recipe, overrides)
    paths = tuple(str(p) for p in corpus)
    if paths:
        sections = config.to_mapping()
        sections["corpus"]["paths"] = list(paths)
        config = Config.from_mapping(sections, origin=str(recipe))
    check_recipe(config)
    _check_machine(config)
    folder = Path(out) if out is not None else Path("runs") / find_recipe(recipe).stem
    began = time.monotonic()
    with _locked(folder):
        if view is None:
            with open_view() as own:
                outcomes = _go_through(config, folder, restart, own)
        else:
            outcomes = _go_through(config, folder, restart, view)
    results = {o.name: o.result for o in outcomes}
    return RunReport(
        folder=folder,
        report=folder / "report.html",
        stages=tuple(outcomes),
        bits_per_byte_before=results["evaluate-before"]["bits_per_byte"],
        bits_per_byte_after=results["evaluate-after"]["bits_per_byte"],
        bits_per_byte_bigram=results["bigram"]["bits_per_byte"],
        seconds=time.monotonic() - began,
    )


def _check_machine(config: Config) -> None:
    """Refuse at once what training would refuse after minutes of other stages."""
    from penstock.train.hardware import resolve_device, resolve_precision

    resolve_precision(config.train.precision, resolve_device(config.train.device))


def summary(report: RunReport) -> str:
    """The last lines that a user reads."""
    skipped = sum(stage.skipped for stage in report.stages)
    done = f"{len(report.stages) - skipped} stages done, {skipped} skipped, {show_seconds(report.seconds)}"
    return (
        f"held-out bits per byte: {report.bits_per_byte_before:.3f} before training, "
        f"{report.bits_per_byte_after:.3f} after; a bigram model has {report.bits_per_byte_bigram:.3f}\n"
        f"{done}\nreport: {report.report}\n"
        f'next: penstock generate {report.folder} "def "'
    )


def fingerprint(stage: Stage, config: Config, upstream: Mapping[str, str]) -> str:
    """Of everything that decides a stage's result, in hex."""
    parts = {
        "stage": stage.name,
        "version": penstock.__version__,
        "settings": stage.settings(config),
        "needs": {name: upstream[name] for name in stage.needs},
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _go_through(config: Config, folder: Path, restart: bool, view: View) -> list[StageOutcome]:
    prints: dict[str, str] = {}
    results: dict[str, dict[str, Any]] = {}
    outcomes: list[StageOutcome] = []
    for stage in STAGES:
        prints[stage.name] = fingerprint(stage, config, prints)
        record = _StageRecord(folder / "stages" / f"{stage.name}.json")
        outcome = None if restart else _finished(stage, record, prints[stage.name], folder)
        if outcome is not None:
            view.note(f"{stage.name}: done already, skipped", stage=stage.name, skipped=True)
        else:
            outcome = _do(stage, record, prints[stage.name], config, folder, results, view, restart)
        results[stage.name] = dict(outcome.result)
        results[stage.name]["seconds"] = outcome.seconds
        outcomes.append(outcome)
    return outcomes


def _finished(stage: Stage, record: _StageRecord, wanted: str, folder: Path) -> StageOutcome | None:
    """What an earlier call left, if it is still true and still there."""
    stored = record.read()
    if stored.get("state") != "done" or stored.get("fingerprint") != wanted:
        return None
    result = stored["result"]
    if not all((folder / name).exists() for name in stage.outputs if _makes(stage, name, result)):
        return None
    return StageOutcome(stage.name, True, stored["seconds"], result)


def _makes(stage: Stage, output: str, result: Mapping[str, Any]) -> bool:
    """A corpus used where it lies, or a tokenizer given, leaves nothing in the run's folder."""
    if stage.name == "corpus":
        return bool(result["written"])
    if stage.name == "tokenizer":
        return Path(result["path"]).name == output
    return True


def _do(
    stage: Stage,
    record: _StageRecord,
    wanted: str,
    config: Config,
    folder: Path,
    results: Mapping[str, dict[str, Any]],
    view: View,
    restart: bool,
) -> StageOutcome:
    # A stage that was interrupted under the same settings goes on; the remains of others are removed.
    resume = not restart and record.read().get("fingerprint") == wanted
    if not resume and not stage.keeps_outputs:
        for name in stage.outputs:
            _remove(folder / name)
    record.write({"state": "started", "fingerprint": wanted})
    view.note(f"{stage.name}: {'going on' if resume else 'started'}", stage=stage.name, skipped=False)
    began = time.monotonic()
    result = stage.run(Work(config, folder, results, view, resume))
    seconds = round(time.monotonic() - began, 3)
    record.write({"state": "done", "fingerprint": wanted, "seconds": seconds, "result": result})
    view.note(f"{stage.name}: done in {show_seconds(seconds)}", stage=stage.name, seconds=seconds)
    return StageOutcome(stage.name, False, seconds, result)


class _StageRecord:
    """``stages/<stage>.json``; written by rename, and one that cannot be read counts as none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        fits = isinstance(record, dict) and record.get("version") == FORMAT_VERSION
        return record if fits else {}

    def write(self, record: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(self._path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump({"version": FORMAT_VERSION, **record}, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder. The lock dies with its process."""
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        file = (folder / "stages" / ".lock").open("a")
    except OSError as error:
        raise ConfigError(
            f"{folder}: the run's folder cannot be written: {error.strerror}; choose another with --out"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{folder}: another run works in this folder; wait for it, or choose another with --out"
            ) from error
        yield
