"""A CUDA context for threads that have none yet.

Autograd runs backward passes on threads of its own. What torch asks of the CUDA runtime gives such a thread
the context of its device, but memory that is at hand asks for nothing, and descriptors for TMA, which Triton
encodes before it launches a kernel, go straight to the driver: "invalid device context".
"""

from __future__ import annotations

import ctypes
import threading

import torch

_LIBRARY = "libcuda.so.1"
_bound = threading.local()


def bind() -> None:
    """Give this thread the context of torch's current device, if torch uses CUDA and the thread has none.

    Raises
    ------
    RuntimeError
        The driver refuses; its number says why (``CUresult`` in the driver's reference).
    """
    if getattr(_bound, "done", False):
        return
    if torch.version.cuda is None or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    driver, context = ctypes.CDLL(_LIBRARY), ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(context)), "cuCtxGetCurrent")
    if not context.value:
        device = ctypes.c_int()
        _check(driver.cuDeviceGet(ctypes.byref(device), torch.cuda.current_device()), "cuDeviceGet")
        # Kept until the process ends, as the runtime keeps it.
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        _check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    _bound.done = True


def _check(result: int, what: str) -> None:
    if result:
        raise RuntimeError(f"{what}: the CUDA driver returned {result}")
