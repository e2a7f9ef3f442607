"""A small tokenizer and dataset, made by the commands themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which with --json holds one value and nothing else."""
        return json.loads(self.out)


def penstock(*arguments: str | Path, text: str = "", **variables: str) -> Ended:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "penstock", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1", **variables}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, stdlib_texts: list[str]) -> Path:
    """Two hundred documents of two sources, one of which spells a special token."""
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    records = [
        {"text": text[:4000], "source": "odd" if i % 2 else "even", "id": f"doc-{i}"}
        for i, text in enumerate(stdlib_texts[:200])
        if text
    ]
    records[0]["text"] += " <|endoftext|> is only text"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A vocabulary of 400."""
    path = tmp_path_factory.mktemp("tokenizer") / "tok"
    ended = penstock("tokenizer", "train", corpus, "--vocab-size", "400", "-o", path)
    assert ended.code == 0, ended.err
    return path


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer: Path) -> Path:
    """Rows of 64 tokens."""
    path = tmp_path_factory.mktemp("packed") / "packed"
    ended = penstock("pack", corpus, "--tokenizer", tokenizer, "--seq-len", "64", "-o", path)
    assert ended.code == 0, ended.err
    return path
