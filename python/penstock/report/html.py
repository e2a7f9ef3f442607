"""One self-contained page about a run: no script, no font, no picture is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.report import plots
from penstock.report.page import escaped, facts, picture, render, section, table, write_text
from penstock.report.quantities import show_bytes, show_count, show_rate, show_seconds
from penstock.report.theme import inline_svg, style

__all__ = ["HeldOut", "RunPage", "Sample", "SourceSize", "StageSpeed", "render_page", "write_page"]


@dataclass(frozen=True)
class HeldOut:
    """Bits per byte of text that was never trained on."""

    before: float
    after: float
    bigram: float | None
    bytes: int
    documents: int


@dataclass(frozen=True)
class StageSpeed:
    """How long a stage took for how much."""

    name: str
    seconds: float
    amount: float
    unit: str
    """B, or a plural such as tokens."""
    note: str = ""


@dataclass(frozen=True)
class SourceSize:
    """What one source label gave to the packed rows."""

    label: str
    documents: int
    text_bytes: int
    tokens: int


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Everything that the page shows."""

    title: str
    subtitle: str
    facts: Mapping[str, str]
    """Headline figures, label to value."""
    metrics: Sequence[Mapping[str, Any]]
    """Lines of ``metrics.jsonl``."""
    held_out: HeldOut | None
    stages: Sequence[StageSpeed]
    sources: Sequence[SourceSize]
    sample: Sample | None
    recipe: Mapping[str, Mapping[str, Any]]
    record: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Tables that tell one run from another: versions, machine, seeds."""


def write_page(page: RunPage, path: Path) -> None:
    """Write the page, by rename."""
    write_text(path, render_page(page))


def render_page(page: RunPage) -> str:
    """The page as text."""
    sections = [
        facts(page.facts),
        _held_out(page.held_out),
        _training(page),
        _sample(page.sample),
        _speed(page.stages),
        _compression(page.sources),
        _recipe(page.recipe),
        _record(page.record),
    ]
    return render(page.title, page.subtitle, [s for s in sections if s])


def _held_out(held: HeldOut | None) -> str:
    if held is None:
        return ""
    with style():
        figure = plots.bits_per_byte_plot(held.before, held.after, held.bigram)
        svg = inline_svg(figure, "heldout", "held-out bits per byte before and after training")
    words = (
        f"{held.documents:,} documents ({show_bytes(held.bytes)}) that neither the tokenizer nor the model "
        "was trained on. Bits per byte do not depend on the tokenizer."
    )
    if held.bigram is not None:
        words += (
            " The dashed line is a smoothed bigram model, which knows how often each token follows each "
            "other one, counted over the same training tokens and scored on the same held-out tokens."
        )
    return section("Held-out text", words, picture(svg))


def _training(page: RunPage) -> str:
    if not page.metrics:
        return ""
    with style():
        body = picture(inline_svg(plots.loss_plot(page.metrics), "loss", "training loss by step"))
        loads = [(m["step"], m["expert_load"]) for m in page.metrics if m.get("expert_load")]
        if loads:
            figure = plots.expert_load_plot([load for _, load in loads], [step for step, _ in loads])
            svg = inline_svg(figure, "experts", "expert load by layer and step")
            body += picture(
                svg,
                "Expert load: the fullest expert's tokens over the mean, by layer. The router's bias moves "
                "once a step against the load.",
            )
    tokens = sum(m.get("tokens", 0) for m in page.metrics)
    words = f"{len(page.metrics):,} steps over {show_count(tokens)} tokens; thin lines are single steps."
    return section("Training", words, body)


def _sample(sample: Sample | None) -> str:
    if sample is None:
        return ""
    body = f'<pre class="sample"><b>{escaped(sample.prompt)}</b>{escaped(sample.text)}</pre>'
    return section("A sample", "The prompt is bold; the rest is the model's.", body)


def _speed(stages: Sequence[StageSpeed]) -> str:
    if not stages:
        return ""
    longest = max(stage.seconds for stage in stages) or 1.0
    rows = "".join(
        f"<tr><th>{escaped(s.name)}</th><td class=n>{escaped(show_seconds(s.seconds))}</td>"
        f'<td class=bar><i style="width:{100 * s.seconds / longest:.1f}%"></i></td>'
        f"<td class=n>{escaped(_amount(s))}</td>"
        f"<td class=n>{escaped(show_rate(s.amount, s.seconds, s.unit) if s.amount else '')}</td>"
        f"<td>{escaped(s.note)}</td></tr>"
        for s in stages
    )
    total = show_seconds(sum(s.seconds for s in stages))
    head = "<tr><th>stage<th class=n>time<th><th class=n>amount<th class=n>speed<th></tr>"
    return section("Speed", f"{total} in all, as measured when each stage ran.", table(head, rows))


def _amount(stage: StageSpeed) -> str:
    if not stage.amount:
        return ""
    return show_bytes(stage.amount) if stage.unit == "B" else f"{show_count(stage.amount)} {stage.unit}"


def _compression(sources: Sequence[SourceSize]) -> str:
    sources = [s for s in sources if s.tokens]
    if not sources:
        return ""
    with style():
        figure = plots.compression_plot({s.label: s.text_bytes / s.tokens for s in sources})
        svg = inline_svg(figure, "compression", "bytes a token by source")
    rows = "".join(
        f"<tr><th>{escaped(s.label)}</th><td class=n>{s.documents:,}</td>"
        f"<td class=n>{escaped(show_bytes(s.text_bytes))}</td><td class=n>{s.tokens:,}</td>"
        f"<td class=n>{s.text_bytes / s.tokens:.3f}</td></tr>"
        for s in sources
    )
    head = (
        "<tr><th>source<th class=n>documents<th class=n>text<th class=n>tokens<th class=n>bytes a token</tr>"
    )
    words = "How much text a token stands for, by the source labels of the documents."
    return section("Compression", words, picture(svg) + table(head, rows))


def _recipe(recipe: Mapping[str, Mapping[str, Any]]) -> str:
    blocks = []
    for name, values in recipe.items():
        lines = "\n".join(f"{key} = {_toml(value)}" for key, value in values.items())
        blocks.append(f"<details><summary>[{escaped(name)}]</summary><pre>{escaped(lines)}</pre></details>")
    words = "Every setting of this run, defaults included; a recipe file needs only what differs from them."
    return section("Recipe", words, "".join(blocks)) if blocks else ""


def _record(record: Mapping[str, Mapping[str, str]]) -> str:
    tables = "".join(
        f"<div><h3>{escaped(name)}</h3>"
        + table("", "".join(f"<tr><th>{escaped(k)}</th><td>{escaped(v)}</td></tr>" for k, v in rows.items()))
        + "</div>"
        for name, rows in record.items()
    )
    return section("Record", "", f'<div class="record">{tables}</div>') if tables else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    return str(value)
