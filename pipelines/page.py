"""A run's results as the page that ``penstock.report`` draws."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.config import Config
from penstock.report import track
from penstock.report.html import HeldOut, RunPage, Sample, SourceSize, StageSpeed, write_page
from penstock.report.quantities import show_count, show_seconds

__all__ = ["write_report"]

Results = Mapping[str, Mapping[str, Any]]


def write_report(config: Config, folder: Path, results: Results) -> Path:
    """Write ``report.html`` from the results of all stages."""
    path = folder / "report.html"
    write_page(_page(config, folder, results), path)
    return path


def _page(config: Config, folder: Path, results: Results) -> RunPage:
    machine = track.machine()
    metrics = _metrics(folder / "metrics.jsonl")
    before, after = results["evaluate-before"], results["evaluate-after"]
    sample = results["generate"]
    gpu = machine["GPU"] != "none" and results["train"]["device"] != "cpu"
    where = machine["GPU"] if gpu else f"{machine['processor']}, {machine['cores']} cores"
    return RunPage(
        title=f"penstock: {folder.resolve().name}",
        subtitle=f"{datetime.datetime.now().astimezone():%d %B %Y, %H:%M}. {where}. "
        "Raw text to a tokenizer, packed rows and a trained mixture-of-experts model.",
        facts=_facts(results, metrics),
        metrics=metrics,
        held_out=HeldOut(
            before=before["bits_per_byte"],
            after=after["bits_per_byte"],
            bigram=results["bigram"]["bits_per_byte"],
            bytes=after["bytes"],
            documents=after["documents"],
        ),
        stages=_speeds(config, results, metrics),
        sources=[
            SourceSize(label, counts["documents"], counts["text_bytes"], counts["tokens"])
            for label, counts in results["pack"]["by_source"].items()
        ],
        sample=Sample(sample["prompt"], sample["text"]),
        recipe=config.to_mapping(),
        record={"versions": track.versions(), "machine": machine, "run": _identity(config, results)},
    )


def _facts(results: Results, metrics: list[dict[str, Any]]) -> dict[str, str]:
    train = results["train"]
    return {
        "held-out bits per byte": f"{results['evaluate-after']['bits_per_byte']:.3f}",
        "bigram model": f"{results['bigram']['bits_per_byte']:.3f}",
        "parameters": show_count(train["parameters"]),
        "trained on": f"{show_count(sum(m['tokens'] for m in metrics))} tokens",
        "precision": f"{train['precision']}",
        "all stages": show_seconds(sum(r["seconds"] for r in results.values())),
    }


def _speeds(config: Config, results: Results, metrics: list[dict[str, Any]]) -> list[StageSpeed]:
    """What reads text in bytes a second, what reads tokens in tokens a second."""

    def stage(name: str, amount: float, unit: str = "tokens", note: str = "") -> StageSpeed:
        return StageSpeed(name.replace("-", " "), results[name]["seconds"], amount, unit, note)

    pack, tokenizer, train = results["pack"], results["tokenizer"], results["train"]
    counted = min(config.tokenizer.max_bytes or pack["text_bytes"], pack["text_bytes"])
    # Steps alone: a run that was stopped and went on has its time in several processes.
    steps = StageSpeed(
        "train",
        sum(m["step_s"] for m in metrics),
        sum(m["tokens"] for m in metrics),
        "tokens",
        f"{len(metrics):,} steps, {train['precision']} on {train['device']}",
    )
    return [
        stage("corpus", results["corpus"].get("text_bytes", 0), "B"),
        stage(
            "tokenizer", counted if tokenizer["trained"] else 0, "B", f"{tokenizer['vocab_size']:,} tokens"
        ),
        stage("pack", pack["tokens"], note=f"{pack['rows']:,} rows of {config.pack.seq_len:,}"),
        stage("bigram", pack["tokens"]),
        stage("evaluate-before", results["evaluate-before"]["tokens"]),
        steps,
        stage("evaluate-after", results["evaluate-after"]["tokens"]),
        stage("generate", results["generate"]["tokens"]),
    ]


def _identity(config: Config, results: Results) -> dict[str, str]:
    facts = {
        "weights seed": str(config.train.seed),
        "row order seed": str(config.data.seed),
        "packing seed": str(config.pack.seed),
        "tokenizer": results["tokenizer"]["sha256"][:16],
    }
    revision = track.source_revision()
    if revision:
        facts["source revision"] = revision
    return facts


def _metrics(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
