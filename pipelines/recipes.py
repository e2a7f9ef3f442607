"""Recipes by name or by path."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from penstock.config import Config
from penstock.errors import ConfigError
from penstock.recipe_values import parse_override

__all__ = ["built_in_recipes", "check_recipe", "find_recipe", "load_recipe"]

FOLDER = Path(__file__).parent


def built_in_recipes() -> list[str]:
    """Names of the recipes that come with penstock."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by built-in name or by path.

    Raises
    ------
    ConfigError
        There is neither; the nearest built-in name is suggested.
    """
    path, name = Path(recipe), str(recipe)
    if path.is_file():
        return path
    if name in built_in_recipes():
        return FOLDER / f"{name}.toml"
    near = difflib.get_close_matches(name, built_in_recipes(), n=1, cutoff=0.5)
    if path.suffix == ".toml" and not near:
        near = difflib.get_close_matches(path.stem, built_in_recipes(), n=1, cutoff=0.8)
    hint = f"did you mean {near[0]!r}?" if near else f"built in are {', '.join(built_in_recipes())}"
    raise ConfigError(f"{name}: no such recipe file, and no built-in recipe of that name; {hint}")


def load_recipe(
    recipe: str | Path, overrides: Iterable[str] = (), forced: Mapping[str, str] | None = None
) -> Config:
    """Read a recipe, apply ``overrides``, then set the ``section.key`` entries of ``forced`` as strings.

    Raises
    ------
    ConfigError
        The recipe is not there or not valid; the message names the key.
    """
    changes = list(overrides)
    for change in changes:
        parse_override(change)  # so that a malformed one is reported before the recipe's own faults
    config = Config.from_toml(find_recipe(recipe), changes)
    if not forced:
        return config
    sections = config.to_mapping()
    for name, value in forced.items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    return Config.from_mapping(sections, origin=str(recipe))


def check_recipe(config: Config) -> None:
    """Refuse what a later stage would refuse after minutes of work.

    Raises
    ------
    ConfigError
        Two sections do not fit each other.
    """
    if not config.tokenizer.path and config.tokenizer.vocab_size > config.model.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size={config.tokenizer.vocab_size} is more than "
            f"model.vocab_size={config.model.vocab_size}: set both to the same number"
        )
    if config.pack.seq_len > config.model.max_position_embeddings:
        raise ConfigError(
            f"pack.seq_len={config.pack.seq_len} is more than "
            f"model.max_position_embeddings={config.model.max_position_embeddings}: raise it, or shorten rows"
        )
    if not config.corpus.heldout_paths and not 0 < config.corpus.heldout_fraction < 1:
        raise ConfigError(
            f"corpus.heldout_fraction={config.corpus.heldout_fraction} must lie between 0 and 1, "
            "or corpus.heldout_paths name files"
        )
