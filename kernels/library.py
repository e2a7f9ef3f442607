"""Kernels as operators of PyTorch: ``torch.ops.penstock.<name>``, which ``torch.compile`` does not look into.

To add one, write the function over tensors and numbers that chooses and launches an implementation, and
declare it::

    @library.op(fake=lambda x: x.new_empty(x.shape[0]))
    def _row_sums(x: Tensor) -> Tensor:
        return _implementation(x).row_sums(x)

The schema is read from the annotations, the name is the function's without leading underscores. ``fake``
takes the same arguments and returns empty tensors of the shapes, dtypes and strides that the function
returns. ``mutates`` names the arguments that are written; what an op returns shares no memory with what it is
given. Operands of several tensors (``RowQ``, ``Groups``, ...) pass as ``Sequence[Tensor]``: see ``parts`` in
``types``.

Gradients stay with ``torch.autograd.Function``, which the compiler traces into, so ops are called where no
gradient is recorded. On a CPU, differentiable functions whose reference is plain PyTorch are no ops. Checks
of arguments stand before the op: under the compiler they run when it traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast, get_args, get_type_hints

import torch
from torch import Tensor

from . import context

NAMESPACE = "penstock"

P = ParamSpec("P")
R = TypeVar("R")

_TYPES: dict[object, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[Tensor]: "Tensor[]",
    Sequence[float]: "float[]",
    torch.dtype: "ScalarType",
    bool: "bool",
    int: "SymInt",
    float: "float",
}

_library = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_names: list[str] = []


def op(
    *, fake: Callable[..., Any], mutates: Sequence[str] = (), name: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register the decorated function as an op and put the op in its place.

    ``torch.library.custom_op`` does the same with layers of Python around each call that cost several times
    as much.

    Parameters
    ----------
    fake
        Gives what the op returns, without data: for the same arguments, of which it reads no data.
    mutates
        Names of the arguments that the op writes.
    name
        Of the op, where the function's does not say enough outside of its module.

    Raises
    ------
    TypeError
        An annotation has no type in schemas, or ``mutates`` names no argument.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        known = name or function.__name__.lstrip("_")
        schema = _schema(function, mutates)
        _library.define(known + schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
        _library.impl(known, _on_any_thread(function), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"{NAMESPACE}::{known}", fake, lib=_library)
        _names.append(known)
        return cast(Callable[P, R], getattr(getattr(torch.ops, NAMESPACE), known).default)

    return register


def _on_any_thread(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        context.bind()
        return function(*arguments, **named)

    return run


def _schema(function: Callable[..., Any], mutates: Sequence[str]) -> str:
    # Older releases of ``torch.library.infer_schema`` read neither postponed annotations nor this Sequence.
    hints = get_type_hints(function)
    returned = hints.pop("return")
    results = [] if returned is type(None) else get_args(returned) or [returned]
    unknown = [name for name in mutates if name not in hints]
    if unknown or any(hint not in _TYPES for hint in (*hints.values(), *results)):
        raise TypeError(f"{function.__name__}: expected annotations among {list(_TYPES)}, got {hints}")
    arguments = [
        f"{_TYPES[hint].replace('Tensor', f'Tensor(a{i}!)') if name in mutates else _TYPES[hint]} {name}"
        for i, (name, hint) in enumerate(hints.items())
    ]
    return f"({', '.join(arguments)}) -> ({', '.join(_TYPES[hint] for hint in results)})"


def writes(*_arguments: object) -> None:
    """The ``fake`` of an op that only writes its arguments."""


def names() -> tuple[str, ...]:
    """The ops registered by the modules imported so far."""
    return tuple(_names)
