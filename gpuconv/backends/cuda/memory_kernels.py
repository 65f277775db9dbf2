"""Device code that moves elements: from any strides to any others, and by an index."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars

__all__ = ["copy", "gather"]

u64, i64 = np.uint64, np.int64


@launch.specialise
def copy(storage: str) -> Any:
    """Return the kernel ``(source, target, meta)`` that copies an array between memories of different strides.

    `meta` holds the number of elements, that of axes, the places of the first element, and for each axis, the
    last one first, its size and its two strides.
    """

    def kernel(source, target, meta):  # type: ignore[no-untyped-def]
        element = i64(cuda.blockIdx.x) * i64(cuda.blockDim.x) + i64(cuda.threadIdx.x)
        step = i64(cuda.gridDim.x) * i64(cuda.blockDim.x)
        while element < meta[0]:
            rest = element
            place = meta[2]
            to = meta[3]
            for axis in range(meta[1]):
                at = 4 + 3 * axis
                size = meta[u64(at)]
                here = rest % size
                rest = rest // size
                place = place + here * meta[u64(at + 1)]
                to = to + here * meta[u64(at + 2)]
            target[u64(to)] = source[u64(place)]
            element = element + step

    return launch.compile_kernel(kernel)


@launch.specialise
def gather(kind: str) -> Any:
    """Return the kernel ``(source, index, target)`` that writes source[i], or for an entry ~i its negative."""
    load = scalars.loader(kind)

    def kernel(source, index, target):  # type: ignore[no-untyped-def]
        element = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        step = u64(cuda.gridDim.x) * u64(cuda.blockDim.x)
        while element < u64(target.size):
            place = i64(index[element])
            if place < 0:
                target[element] = -load(source[u64(-1 - place)])
            else:
                target[element] = load(source[u64(place)])
            element = u64(element + step)

    return launch.compile_kernel(kernel)
