"""The names that users may rely on: a change here changes the public interface and needs a changelog line."""

from __future__ import annotations

from pathlib import Path

import penstock
from penstock.config import Config
from penstock.recipe_values import recipe_keys

FROZEN = Path(__file__).parent


def frozen(name: str) -> list[str]:
    return (FROZEN / name).read_text(encoding="utf-8").split()


def test_top_level_names() -> None:
    assert sorted(penstock.__all__) == frozen("public_names.txt")


def test_every_name_resolves() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None


def test_tokenizer_methods() -> None:
    assert sorted(n for n in dir(penstock.Tokenizer) if not n.startswith("_")) == frozen(
        "tokenizer_methods.txt"
    )


def test_dataset_methods() -> None:
    names = sorted(n for n in dir(penstock.StreamingDataset) if not n.startswith("_"))
    assert names == frozen("dataset_methods.txt")


def test_recipe_keys() -> None:
    assert recipe_keys(Config) == frozen("recipe_keys.txt")
