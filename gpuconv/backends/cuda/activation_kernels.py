"""Device code of activations: a function for sums, and a kernel that passes over a result."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars

__all__ = ["activated", "activating", "storer"]

i64 = np.int64


@functools.cache
def activated(name: str, sums: str) -> Any:
    """Return the device function of an activation of sums of a dtype."""
    number = np.dtype(sums).type
    zero, half, root = number(0), number(0.5), number(math.sqrt(0.5))
    linear, cubic = number(math.sqrt(2 / math.pi)), number(math.sqrt(2 / math.pi) * 0.044715)

    if name == "relu":

        def activate(x):  # type: ignore[no-untyped-def]
            return zero if x < zero else x  # noqa: FURB136 - NaN stays NaN

    elif name == "gelu":

        def activate(x):  # type: ignore[no-untyped-def]
            return number(x * half * number(math.erfc(-x * root)))

    elif name == "gelu_tanh":

        def activate(x):  # type: ignore[no-untyped-def]
            return number(x * (half + half * number(math.tanh(x * (linear + cubic * x * x)))))

    else:

        def activate(x):  # type: ignore[no-untyped-def]
            return number(x * (half + half * number(math.tanh(x * half))))

    return launch.compile_device_function(activate)


@functools.cache
def storer(name: str, kind: str) -> Any:
    """Return the device function that makes a number to store of a sum's activation; of the sum itself for ""."""
    store = scalars.storer(kind)
    if not name:
        return store
    activate = activated(name, scalars.of(kind).sums.name)

    def store_activated(value):  # type: ignore[no-untyped-def]
        return store(activate(value))

    return launch.compile_device_function(store_activated)


@launch.specialise
def activating(name: str, kind: str) -> Any:
    """Return the kernel ``(source, target, size)`` that writes the activation of each element."""
    load, store = scalars.loader(kind), storer(name, kind)

    def kernel(source, target, size):  # type: ignore[no-untyped-def]
        element = i64(cuda.blockIdx.x) * i64(cuda.blockDim.x) + i64(cuda.threadIdx.x)
        step = i64(cuda.gridDim.x) * i64(cuda.blockDim.x)
        while element < size:
            place = np.uint64(element)
            target[place] = store(load(source[place]))
            element = element + step

    return launch.compile_kernel(kernel)
