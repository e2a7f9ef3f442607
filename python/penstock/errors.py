"""The exceptions that penstock raises: one class a way in which an input or a machine can be wrong.

Every message names the file and the place, what was expected, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "CorruptionError",
    "DataError",
    "DecodeError",
    "HardwareError",
    "InputError",
    "InternalError",
    "PenstockError",
    "TokenizerError",
    "TrainingError",
]


class PenstockError(Exception):
    """The parent of everything that penstock raises on purpose."""


class InputError(PenstockError):
    """A text file cannot be read as asked: missing, cut, not UTF-8, without the text field."""


class ConfigError(PenstockError):
    """A recipe, an override or an argument is not valid."""


class TokenizerError(PenstockError, ValueError):
    """A tokenizer file, a vocabulary, a pattern or an id is not valid, or an id is outside the vocabulary."""


class DecodeError(TokenizerError):
    """The bytes of some ids are not UTF-8, and the caller asked for ``errors="strict"``.

    Attributes
    ----------
    token_index : int
        The place, among the ids, of the token that holds the first wrong byte.
    byte_offset : int
        The place of that byte in the bytes of all ids.
    """

    def __init__(self, message: str, token_index: int = 0, byte_offset: int = 0) -> None:
        super().__init__(message)
        self.token_index = token_index
        self.byte_offset = byte_offset


class DataError(PenstockError):
    """A packed dataset does not fit what is asked of it: other parameters, another tokenizer."""


class CorruptionError(DataError):
    """Stored bytes are not those that were written: a flipped bit, a cut or swapped file."""


class CheckpointError(PenstockError):
    """A checkpoint is incomplete, damaged, or of another model."""


class HardwareError(PenstockError):
    """The machine lacks what was asked for, such as a GPU with FP8 support."""


class TrainingError(PenstockError):
    """Training cannot go on: the loss or a gradient is not finite."""


class Cancelled(PenstockError):  # noqa: N818 (named as concurrent.futures does)
    """The work was stopped on request; what is complete stays, and a rerun goes on from there."""


class InternalError(PenstockError):
    """A bug in penstock itself. Please report it with the message."""


@contextmanager
def numbers_in_range() -> Iterator[None]:
    """A number too small or too large for the extension, as a ``ConfigError`` that names the argument."""
    try:
        yield
    except OverflowError as error:
        raise ConfigError("; ".join([str(error), *getattr(error, "__notes__", ())])) from error
