"""A trained model together with its tokenizer, from a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.config import Config
from penstock.errors import CheckpointError, TokenizerError
from penstock.tokenizer import Tokenizer

if TYPE_CHECKING:
    from penstock.model import Transformer

__all__ = ["TrainedRun", "open_run", "tokenizer_of"]


@dataclass(frozen=True)
class TrainedRun:
    """What evaluation and generation need."""

    model: Transformer
    tokenizer: Tokenizer
    recipe: Config
    device: str


def open_run(path: Path, tokenizer: Path | None = None, device: str = "auto") -> TrainedRun:
    """Load the newest checkpoint of a run, or the one named, on the device that ``auto`` finds.

    Parameters
    ----------
    path
        A folder that ``penstock train`` or ``penstock run`` wrote, or a checkpoint in it.
    tokenizer
        None: the one beside the checkpoint, or the one that the recipe names.

    Raises
    ------
    CheckpointError
        There is no complete checkpoint.
    TokenizerError
        No tokenizer is found, or it is not the one that the model was trained with.
    """
    from penstock.train.hardware import resolve_device
    from penstock.train.state import load_model

    if not path.exists():
        raise CheckpointError(
            f"{path}: no such folder; name one that `penstock train` or `penstock run` wrote"
        )
    where = resolve_device(device)
    loaded = load_model(path, where)
    tok = tokenizer_of(path, loaded.recipe, tokenizer)
    if tok.sha256 != loaded.tokenizer_sha256:
        raise TokenizerError(
            f"{path}: the model was trained on tokens of the tokenizer with sha256 "
            f"{loaded.tokenizer_sha256[:16]}, and this one has {tok.sha256[:16]} ({tok.vocab_size} tokens): "
            "name the right one by --tokenizer"
        )
    return TrainedRun(loaded.model, tok, loaded.recipe, str(where))


def tokenizer_of(path: Path, recipe: Config, given: Path | None) -> Tokenizer:
    """The tokenizer given, or the one beside the run, or the recipe's."""
    if given is not None:
        return Tokenizer.from_file(given)
    places = [folder / "tokenizer" for folder in (path, *path.resolve().parents[:2])]
    if recipe.tokenizer.path:
        places.append(Path(recipe.tokenizer.path))
    for place in places:
        if place.exists():
            return Tokenizer.from_file(place)
    raise TokenizerError(
        f"{path}: no tokenizer beside this run; name the one it was trained with by --tokenizer "
        "(training keeps a copy of what tokenizer.path names)"
    )
