"""The L2 norm of all gradients together: each is read once, and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_same_device, check_tensor
from . import reference


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """The square root of the sum of the squares of all elements of ``grads``, summed in float64.

    Repeats bit for bit. NaN and infinity pass on. As by ``torch.nn.utils.get_total_norm`` a norm is infinite
    if float32 cannot hold its square (about 1.8e19).

    Parameters
    ----------
    grads : sequence of float32 or bfloat16 Tensor
        Of any shapes, on one device.

    Returns
    -------
    float32 Tensor [], on the device of ``grads``, not differentiable. No gradients have the norm 0.

    Raises
    ------
    TypeError, ValueError
        ``grads`` is no sequence of such tensors, or they lie on different devices.
    """
    if not isinstance(grads, (list, tuple)):
        raise TypeError(f"grads: expected a list or tuple of tensors, got {type(grads).__name__}")
    for i, grad in enumerate(grads):
        check_tensor(f"grads[{i}]", grad, dtype=(torch.float32, torch.bfloat16))
        check_same_device(**{"grads[0]": grads[0], f"grads[{i}]": grad})
    if not grads:
        return torch.zeros(())  # an op of no tensors would have no device
    with torch.no_grad():
        return _gradient_norm(grads)


@library.op(fake=lambda grads: grads[0].new_empty((), dtype=torch.float32))
def _gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    if registry.backend("gradient_norm", grads[0].device) == "triton":
        from .gradient_norm_triton import gradient_norm as fast  # Triton is imported only where it runs

        return fast(grads)
    return reference.gradient_norm(grads)
