"""Weight gradients of one backward pass that wait for one another, to be launched together."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..types import RowQ, TokQ
from .op import Gradient, wgrads
from .tiles import LONGEST_LIST, fills

# By the id of the pass. The engine alone holds a pass: when it ends, or fails, what waits goes with it.
_passes: WeakValueDictionary[int, _Pass] = WeakValueDictionary()


class Key(NamedTuple):
    """What gradients of one launch share."""

    operands: type
    device: torch.device
    accumulate: bool


class _Pass:
    def __init__(self) -> None:
        self._waiting: dict[Key, list[Gradient]] = {}

    def add(self, g: RowQ | TokQ, x: RowQ | TokQ, out: Tensor, accumulate: bool) -> None:
        self.launch_those_to(out)
        key = Key(type(g), out.device, accumulate)
        gradients = self._waiting.setdefault(key, [])
        gradients.append((g, x, out))
        sizes = [(o.shape[0], o.shape[1]) for *_, o in gradients]
        if len(gradients) == LONGEST_LIST or fills(sizes, out.device):
            self._launch(key)

    def launch_those_to(self, out: Tensor) -> None:
        for key, gradients in list(self._waiting.items()):
            if any(o.data_ptr() == out.data_ptr() for *_, o in gradients):
                self._launch(key)

    def launch_all(self) -> None:
        for key in list(self._waiting):
            self._launch(key)

    def _launch(self, key: Key) -> None:
        wgrads(self._waiting.pop(key), key.accumulate)


def make_later(g: RowQ | TokQ, x: RowQ | TokQ, out: Tensor, accumulate: bool) -> bool:
    """``wgrad`` before this backward pass ends; False, and nothing done, outside of one.

    What waits is launched as soon as it fills the card. What goes to one ``out`` keeps its order.
    """
    task = torch._C._current_graph_task_id()
    if task < 0:
        return False
    current = _passes.get(task)
    if current is None:
        current = _passes[task] = _Pass()
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(current.launch_all)
    current.add(g, x, out, accumulate)
    return True


def launch_those_to(out: Tensor) -> None:
    """Launch what this backward pass still has to make in ``out``."""
    current = _passes.get(torch._C._current_graph_task_id())
    if current is not None:
        current.launch_those_to(out)
