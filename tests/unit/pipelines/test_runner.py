"""What is done is skipped, and what depends on a changed setting is done again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError, InputError
from penstock.pipelines import runner
from penstock.pipelines.stages import STAGES, Stage, Work
from penstock.report.progress import LineView

NAMES = [stage.name for stage in STAGES]


class Fakes:
    """Stages that only note that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.resumed: list[str] = []
        self.fail_in: str | None = None

    def stages(self) -> tuple[Stage, ...]:
        return tuple(self._fake(stage) for stage in STAGES)

    def _fake(self, stage: Stage) -> Stage:
        def work_on(work: Work) -> dict[str, Any]:
            self.ran.append(stage.name)
            if work.resume:
                self.resumed.append(stage.name)
            for output in stage.outputs:
                (work.folder / output).mkdir(exist_ok=True)
            if stage.name == self.fail_in:
                raise InputError("stopped here")
            return {"written": True, "path": str(work.folder / "tokenizer"), "bits_per_byte": 1.0}

        return Stage(stage.name, stage.needs, stage.settings, stage.outputs, work_on, stage.keeps_outputs)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes()
    monkeypatch.setattr(runner, "STAGES", made.stages())
    return made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "some words"}\n')
    return path


def go(out: Path, *overrides: str, **arguments: Any) -> tuple[runner.RunReport, str]:
    stream = io.StringIO()
    report = runner.run("tiny", overrides, out=out, view=LineView(stream), **arguments)
    return report, stream.getvalue()


def test_a_second_run_skips_every_stage(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    first, _ = go(tmp_path / "run", corpus=[text])
    assert fakes.ran == NAMES
    assert not any(stage.skipped for stage in first.stages)
    second, lines = go(tmp_path / "run", corpus=[text])
    assert fakes.ran == NAMES
    assert all(stage.skipped for stage in second.stages)
    assert lines.splitlines() == [f"{name}: done already, skipped" for name in NAMES]
    assert [s.result for s in second.stages] == [s.result for s in first.stages]


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("train.steps=7", ["train", "evaluate-after", "generate", "report"]),
        ("train.log_every=5", ["report"]),
        ("evaluate.prompt=class", ["generate", "report"]),
        ("model.n_shared_experts=2", ["evaluate-before", "train", "evaluate-after", "generate", "report"]),
        ("tokenizer.vocab_size=4096", [n for n in NAMES if n != "corpus"]),
        ("corpus.heldout_fraction=0.5", NAMES),
        ("evaluate.max_bytes=9", ["bigram", "evaluate-before", "evaluate-after", "report"]),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it(
    fakes: Fakes, tmp_path: Path, text: Path, change: str, redone: list[str]
) -> None:
    go(tmp_path / "run", corpus=[text])
    fakes.ran.clear()
    go(tmp_path / "run", change, corpus=[text])
    assert fakes.ran == redone


def test_another_corpus_redoes_everything(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    go(tmp_path / "run", corpus=[text])
    fakes.ran.clear()
    text.write_text('{"text": "more words than before"}\n')
    go(tmp_path / "run", corpus=[text])
    assert fakes.ran == NAMES


def test_a_lost_output_is_made_again(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    go(tmp_path / "run", corpus=[text])
    fakes.ran.clear()
    (tmp_path / "run" / "packed").rmdir()
    go(tmp_path / "run", corpus=[text])
    assert fakes.ran == ["pack"]


def test_restart_does_everything_again(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    go(tmp_path / "run", corpus=[text])
    fakes.ran.clear()
    go(tmp_path / "run", corpus=[text], restart=True)
    assert fakes.ran == NAMES
    assert fakes.resumed == []


def test_an_interrupted_stage_goes_on_and_one_of_other_settings_does_not(
    fakes: Fakes, tmp_path: Path, text: Path
) -> None:
    fakes.fail_in = "pack"
    with pytest.raises(InputError, match="stopped here"):
        go(tmp_path / "run", corpus=[text])
    half = tmp_path / "run" / "packed" / "half"
    half.mkdir()
    with pytest.raises(InputError, match="stopped here"):
        go(tmp_path / "run", corpus=[text])
    assert fakes.resumed == ["pack"]
    assert half.exists()
    fakes.fail_in = None
    go(tmp_path / "run", "pack.seed=3", corpus=[text])
    assert fakes.resumed == ["pack"]
    assert not half.exists()


def test_a_damaged_stage_record_counts_as_none(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    go(tmp_path / "run", corpus=[text])
    fakes.ran.clear()
    (tmp_path / "run" / "stages" / "bigram.json").write_text('{"state": "do')
    go(tmp_path / "run", corpus=[text])
    assert fakes.ran == ["bigram"]


def test_two_runs_in_one_folder_are_refused(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    with runner._locked(tmp_path / "run"), pytest.raises(ConfigError, match="another run works"):
        go(tmp_path / "run", corpus=[text])


def test_records_are_json_of_a_known_version(fakes: Fakes, tmp_path: Path, text: Path) -> None:
    go(tmp_path / "run", corpus=[text])
    for name in NAMES:
        record = json.loads((tmp_path / "run" / "stages" / f"{name}.json").read_text())
        assert (record["version"], record["state"]) == (1, "done")
    assert not list((tmp_path / "run" / "stages").glob("*.part"))
