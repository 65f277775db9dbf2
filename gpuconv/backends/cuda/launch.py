"""What every CUDA kernel needs around it: compiling, grids, and moving arrays to the GPU and back.

The one place for what differs between a GPU, the simulator and the versions of Numba.
"""

# mypy: disable-error-code="attr-defined, no-untyped-call"
# numba puts many of its names together when it is imported, where mypy does not see them, and annotates few.

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

if importlib.util.find_spec("numba_cuda") is not None and not hasattr(np, "row_stack"):
    # NumPy 2.5 removed a name that numba-cuda looks up when it first compiles (NVIDIA/numba-cuda#907).
    np.row_stack = np.vstack  # noqa: NPY201

from numba import cuda

__all__ = [
    "GRID_Y",
    "SIMULATED",
    "compile_device_function",
    "compile_kernel",
    "describe_device",
    "empty",
    "launch",
    "specialise",
    "to_device",
    "to_host",
]

SIMULATED = bool(numba.config.ENABLE_CUDASIM)

GRID_Y = 65535
"""The largest grid along its second and third axis; the first may have 2^31 - 1 blocks."""

_LOCK = threading.Lock()

specialise = functools.lru_cache(maxsize=64)
"""Decorator of a function that makes kernels: one kernel a set of constants, the least used forgotten."""


def compile_kernel(function: Callable[..., None], **options: Any) -> Any:
    """Return `function` as a kernel that compiles at its first launch.

    `options` are those of `numba.cuda.jit`. The simulator refuses most, and none changes a result: there they are
    left out.
    """
    return cuda.jit(**({} if SIMULATED else options))(function)


def compile_device_function(function: Callable[..., Any]) -> Any:
    """Return `function` for calls from kernels."""
    return cuda.jit(device=True)(function)


def describe_device() -> tuple[str, tuple[int, int], int]:
    """Return the name, the compute capability and the number of multiprocessors of the current GPU."""
    current = cuda.get_current_device()
    name = current.name
    return (
        name.decode() if isinstance(name, bytes) else str(name),
        tuple(current.compute_capability),
        int(current.MULTIPROCESSOR_COUNT),
    )


def to_device(array: np.ndarray[Any, Any]) -> Any:
    """Return a flat copy of `array` on the GPU, in C order; an empty array gets one element of zero."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return cuda.to_device(flat if flat.size else np.zeros(1, flat.dtype))


def empty(size: int, dtype: np.dtype[Any]) -> Any:
    """Return an uninitialised flat array on the GPU."""
    return cuda.device_array(size, dtype)


def to_host(source: Any, target: np.ndarray[Any, Any]) -> None:
    """Copy a flat device array into `target`, which may have any strides, and wait for it."""
    if target.flags.c_contiguous:
        source.copy_to_host(target.reshape(-1))
    else:
        target[...] = source.copy_to_host().reshape(target.shape)


def launch(kernel: Any, grid: tuple[int, ...], block: int, *arguments: Any) -> None:
    """Start `kernel`; safe from several threads at once."""
    with _LOCK if SIMULATED else contextlib.nullcontext():
        with _no_occupancy_warning():
            configured = kernel[grid, block]
        configured(*arguments)


@contextlib.contextmanager
def _no_occupancy_warning() -> Iterator[None]:
    """Keep Numba from warning of a small grid: a small problem is no mistake of the user's."""
    if SIMULATED:
        yield
        return
    with _LOCK:
        kept = numba.config.CUDA_LOW_OCCUPANCY_WARNINGS
        numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
        try:
            yield
        finally:
            numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = kept
