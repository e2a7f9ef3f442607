"""The commands as a user runs them: results, messages, exit codes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import penstock as package
from penstock.cli.outcome import guarded
from penstock.errors import Cancelled, ConfigError

from .conftest import penstock

COMMANDS = [
    ["run"], ["tokenizer", "train"], ["tokenizer", "encode"], ["tokenizer", "decode"],
    ["tokenizer", "inspect"], ["tokenizer", "convert"], ["tokenizer", "compare"],
    ["pack"], ["train"], ["evaluate"], ["generate"], ["inspect"], ["doctor"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_the_json_flag(command: list[str]) -> None:
    ended = penstock(*command, "--help")
    assert ended.code == 0
    assert f"Example: penstock {' '.join(command)}" in " ".join(ended.out.split())
    assert "--json" in ended.out


def test_version() -> None:
    assert penstock("--version").out == f"penstock {package.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['penstock', '--help']\n"
        "from penstock.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'pyarrow', 'matplotlib', 'numpy', 'triton', 'penstock._core'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "HEAVY []"


def test_encode_and_decode(tokenizer: Path) -> None:
    text = "def f(x):\n    return x  # naïve 🙂"
    encoded = penstock("tokenizer", "encode", "-t", tokenizer, text, "--json")
    ids = encoded.json["ids"]
    assert encoded.json["tokens"] == len(ids) > 5
    decoded = penstock("tokenizer", "decode", "-t", tokenizer, *map(str, ids), "--json")
    assert decoded.json == {"text": text}
    options = ["--dropout", "0.5", "--seed", "3", "--json"]
    varied = penstock("tokenizer", "encode", "-t", tokenizer, text, *options).json["ids"]
    assert varied != ids
    assert penstock("tokenizer", "decode", "-t", tokenizer, *map(str, varied), "--json").json == {
        "text": text
    }
    from_pipe = penstock("tokenizer", "encode", "-t", tokenizer, text=text)
    assert from_pipe.out.split() == [str(i) for i in ids]


def test_decode_says_what_becomes_of_broken_text(tokenizer: Path) -> None:
    face = penstock("tokenizer", "encode", "-t", tokenizer, "a🙂", "--json").json["ids"]
    half = [str(i) for i in face[:-1]]
    shown = {
        e: penstock("tokenizer", "decode", "-t", tokenizer, *half, "--errors", e)
        for e in ("replace", "ignore")
    }
    assert [ended.out for ended in shown.values()] == ["a\ufffd\n", "a\n"]
    refused = penstock("tokenizer", "decode", "-t", tokenizer, *half, "--errors", "strict", "--json")
    assert json.loads(refused.err)["type"] == "DecodeError"
    assert "not UTF-8 at byte 1" in refused.err
    assert "expected replace" in penstock("tokenizer", "decode", "-t", tokenizer, "1", "--errors", "x").err


def test_a_special_token_in_a_text_is_text_unless_allowed(tokenizer: Path) -> None:
    text = "a<|endoftext|>b"
    assert 0 not in penstock("tokenizer", "encode", "-t", tokenizer, text, "--json").json["ids"]
    assert (
        0 in penstock("tokenizer", "encode", "-t", tokenizer, text, "--allow-special", "--json").json["ids"]
    )


def test_pack_reports_what_it_did(corpus: Path, tokenizer: Path, packed: Path) -> None:
    again = penstock("pack", corpus, "-t", tokenizer, "--seq-len", "64", "-o", packed, "--json")
    assert again.code == 0
    report = again.json
    assert report["tasks_reused"] == 1
    assert report["documents"] == sum(1 for _ in corpus.open())
    assert sorted(report["by_source"]) == ["even", "odd"]
    for line in again.err.splitlines():
        assert json.loads(line)["event"] in ("progress", "note")


def test_inspect_tells_what_things_are(tokenizer: Path, packed: Path, tmp_path: Path) -> None:
    assert penstock("inspect", tokenizer, "--json").json["tokens"] == 400
    dataset = penstock("inspect", packed, "--verify", "--json").json
    assert dataset["kind"] == "packed dataset"
    assert dataset["verified"] is True
    assert penstock("inspect", packed / "manifest.json", "--json").json["rows"] == dataset["rows"]
    shard = penstock("inspect", next((packed / "shards").glob("*.arrow")), "--json").json
    assert (shard["kind"], shard["rows"]) == ("shard", dataset["rows"])
    assert penstock("inspect", packed).out.startswith("kind")
    other = tmp_path / "something.xyz"
    other.write_text("?")
    ended = penstock("inspect", other)
    assert ended.code == 1
    assert "neither a tokenizer" in ended.err


def test_inspect_verify_finds_a_flipped_bit(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "packed"
    shutil.copytree(packed, copy)
    shard = next((copy / "shards").glob("*.arrow"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    ended = penstock("inspect", copy, "--verify", "--json")
    assert ended.code == 1
    assert json.loads(ended.err.splitlines()[-1])["type"] == "CorruptionError"
    assert ended.out == ""


def test_doctor() -> None:
    facts = penstock("doctor", "--json").json
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["extension"] == "loads"
    assert facts["advice"]


@pytest.mark.parametrize(
    ("arguments", "kind", "expected"),
    [
        (["tokenizer", "train", "missing.jsonl", "-o", "t"], "InputError", "missing.jsonl"),
        (["tokenizer", "encode", "-t", "missing/", "x"], "TokenizerError", "missing"),
        (["tokenizer", "decode", "-t", "missing/", "one"], "TokenizerError", "whole numbers"),
        (["run", "tinny"], "ConfigError", "did you mean 'tiny'"),
        (["run", "tiny", "--set", "model.hiden_size=4"], "ConfigError", "did you mean 'model.hidden_size'"),
        (["run", "tiny", "--set", "steps=4"], "ConfigError", "section.key=value"),
        (["run", "tiny", "--set", "tokenizer.vocab_size=9000"], "ConfigError", "model.vocab_size=8192"),
        (["run", "tiny", "--set", "pack.seq_len=9000"], "ConfigError", "max_position_embeddings"),
        (["train", "tiny"], "ConfigError", "data.path is empty"),
        (["train", "tiny", "--set", "data.path=missing"], "DataError", "missing"),
        (["train", "tiny", "--set", "data.seed=-1"], "ConfigError", "data.seed=-1 must be at least 0"),
        (["train", "tiny", "--set", "model.v_head_dim=0"], "ConfigError", "v_head_dim=0 must be at least 1"),
        (["train", "tiny", "--set", "optimizer.lr=nan"], "ConfigError", "optimizer.lr=nan"),
        (["train", "tiny", "--set", "optimizer.beta2=1.0"], "ConfigError", "must be less than 1"),
        (["run", "tiny", "--set", "tokenizer.vocab_size=256"], "ConfigError", "must be at least 257"),
        (
            ["run", "tiny", "--set", "train.device=cpu", "--set", "train.precision=fp8"],
            "HardwareError",
            "fp8",
        ),
        (["generate", "missing/", "x"], "CheckpointError", "missing"),
        (["generate", "missing/", "x", "--top-p", "2"], "ConfigError", "top_p"),
        (["evaluate", "missing/"], "ConfigError", "--data"),
        (["inspect", "missing/"], "InputError", "no such file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_user_error_is_one_message_and_exit_code_1(
    arguments: list[str], kind: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = penstock(*arguments)
    assert (plain.code, plain.out) == (1, "")
    assert "Traceback" not in plain.err
    assert plain.err.splitlines()[-1].startswith("error: ")
    assert expected in plain.err
    event = json.loads(penstock(*arguments, "--json").err.splitlines()[-1])
    assert (event["event"], event["type"]) == ("error", kind)
    assert expected in event["message"]


def test_an_empty_corpus_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty.jsonl", tmp_path / "out"
    empty.touch()
    for command in (
        ["tokenizer", "train", empty, "-o", out],
        ["pack", empty, "-t", tokenizer, "-o", out],
        ["run", "tiny", "--corpus", empty, "-o", tmp_path / "run"],
    ):
        ended = penstock(*command)
        assert (ended.code, ended.out) == (1, "")
        last = ended.err.splitlines()[-1]
        assert "is empty" in last or "no text" in last


def test_a_number_out_of_range_names_the_argument(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command in (
        ["pack", corpus, "-t", tokenizer, "-o", out, "--mtp-depth", "-1"],
        ["tokenizer", "train", corpus, "-o", out, "--max-bytes", "-1"],
    ):
        ended = penstock(*command)
        assert ended.code == 1
        assert ended.err.startswith("error: ") or "\nerror: " in ended.err
        assert str(command[-2]).strip("-").replace("-", "_") in ended.err.splitlines()[-1]
        assert not out.exists()


def test_a_run_of_its_own_can_be_evaluated_and_sampled(
    corpus: Path, packed: Path, tokenizer: Path, tmp_path: Path
) -> None:
    recipe, run = _recipe_of_seconds(tmp_path, packed), tmp_path / "run"
    assert penstock("train", recipe, "-o", run, "--set", f"tokenizer.path={tokenizer}").code == 0
    score = penstock("evaluate", run, "--data", corpus, "--max-bytes", "2000", "--json")
    assert score.json["bytes"] == 2000
    assert penstock("generate", run, "def ", "--max-tokens", "3").out.startswith("def ")

    refused = penstock("generate", run, "def ", "--max-tokens", "100000")
    assert (refused.code, refused.out) == (1, "")
    for arguments, expected in (
        (["--device", "gpu"], "expected auto, cpu or cuda"),
        (["--seq-len", "100000"], "max_position_embeddings"),
    ):
        refused = penstock("evaluate", run, "--data", corpus, "--max-bytes", "2000", *arguments)
        assert (refused.code, refused.out) == (1, "")
        assert expected in refused.err
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    refused = penstock("evaluate", run, "--data", empty)
    assert refused.code == 1
    assert str(empty) in refused.err


def test_a_run_goes_on_with_its_own_data_only(corpus: Path, packed: Path, tmp_path: Path) -> None:
    recipe, run = _recipe_of_seconds(tmp_path, packed), tmp_path / "run"
    assert penstock("train", recipe, "-o", run).code == 0
    other, others_rows = tmp_path / "other", tmp_path / "others-rows"
    assert penstock("tokenizer", "train", corpus, "--vocab-size", "399", "-o", other).code == 0
    assert penstock("pack", corpus, "-t", other, "--seq-len", "64", "-o", others_rows).code == 0
    more = ["--set", "train.steps=3", "-o", run]
    refused = penstock("train", recipe, "--set", f"data.path={others_rows}", *more)
    assert refused.code == 1
    assert str(others_rows) in refused.err
    assert "tokenizer" in refused.err
    refused = penstock("train", recipe, "--set", "data.seed=5", *more)
    assert refused.code == 1
    assert str(run) in refused.err
    assert "Name the same data" in refused.err
    refused = penstock("train", recipe, "--set", f"tokenizer.path={other}", "-o", tmp_path / "new")
    assert refused.code == 1
    assert str(other) in refused.err
    assert not (tmp_path / "new" / "metrics.jsonl").exists()


def _recipe_of_seconds(folder: Path, packed: Path) -> Path:
    """Two steps of a model that is as small as the shapes allow."""
    recipe = folder / "seconds.toml"
    recipe.write_text(
        f'[data]\npath = "{packed}"\nglobal_batch_size = 2\n'
        "[model]\nvocab_size = 400\nhidden_size = 32\nintermediate_size = 64\nmoe_intermediate_size = 16\n"
        "num_hidden_layers = 2\nnum_attention_heads = 2\nn_shared_experts = 1\nn_routed_experts = 8\n"
        "num_experts_per_tok = 2\nn_group = 2\ntopk_group = 1\nkv_lora_rank = 16\nqk_rope_head_dim = 8\n"
        "qk_nope_head_dim = 8\nv_head_dim = 8\nmax_position_embeddings = 128\n"
        '[train]\nsteps = 2\nmicro_batch_size = 2\ndevice = "cpu"\n'
    )
    return recipe


def test_debug_shows_the_traceback() -> None:
    ended = penstock("run", "tinny", PENSTOCK_DEBUG="1")
    assert ended.code == 1
    assert "Traceback" in ended.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tokenizer", "train", "x.jsonl", "-o", "t", "--vocab-sise", "400"], "--vocab-size"),
        (["pack", "x.jsonl"], "--tokenizer"),
        (["pack", "x", "-t", "t", "-o", "o", "--mode", "tight"], "best_fit"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str], expected: str) -> None:
    ended = penstock(*arguments)
    assert ended.code == 2
    assert expected in ended.err


def test_no_color_means_no_escape_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(typer.Exit):
        guarded(_refuse)()
    assert sys.stderr.getvalue() == "error: no\n"  # type: ignore[attr-defined]
    monkeypatch.delenv("NO_COLOR")
    with pytest.raises(typer.Exit):
        guarded(_refuse)()
    assert "\x1b[" in sys.stderr.getvalue()  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    """A stderr that someone looks at."""

    def isatty(self) -> bool:
        return True


def _refuse() -> None:
    raise ConfigError("no")


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), Cancelled("stopped after step 3")])
def test_an_interrupt_is_exit_code_130(stopped: BaseException) -> None:
    app = typer.Typer()

    @app.command()
    @guarded
    def work() -> None:
        raise stopped

    result = CliRunner().invoke(app, [])
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_missing_extra_says_what_to_install(tmp_path: Path, packed: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, No())\n"
    )
    ended = penstock(
        "train", "tiny", "--set", f"data.path={packed}", "-o", tmp_path / "run", PYTHONPATH=str(blocked)
    )
    assert ended.code == 1
    assert ended.err.strip() == "error: torch is not installed: pip install 'penstock[train]'"
