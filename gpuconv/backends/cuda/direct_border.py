"""The border of an input gradient: each element gathers the padded positions that showed it."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars
from gpuconv.backends.cuda.memory import View
from gpuconv.boundary import source_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda.memory import Job
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = ["FIELDS", "fold", "gathering", "padded"]

u64, i64 = np.uint64, np.int64

FIELDS = ("total", "size0", "size1", "size2", "inner", "padded0", "padded1", "padded2", "at0", "at1", "at2")
"""The head of the kernel's `meta`: the sizes of dx, of the padded gradient, and where each axis's lists begin."""
TOTAL, SIZE0, SIZE1, SIZE2, INNER, PADDED0, PADDED1, PADDED2, AT0, AT1, AT2 = range(len(FIELDS))


def padded(call: Call, job: Job) -> View:
    """Return memory for the sums of the gradient by the padded input, in C order."""
    kinds, shape = scalars.of(call.dtype), call.problem.on_padded().x_shape
    strides = [kinds.parts]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    return View(job.empty(math.prod(shape) * kinds.parts, kinds.sums), tuple(strides))


def fold(call: Call, job: Job, source: Any, target: Any) -> None:
    """Write the gradient by x, from that by the padded x."""
    kinds = scalars.of(call.dtype)
    total = math.prod(call.problem.x_shape) * kinds.parts
    meta = job.resident(_numbers, call.problem, kinds.parts)
    job.launch(gathering(kinds.kind), (-(-total // launch.THREADS),), launch.THREADS, source, target, meta)


def _numbers(p: ConvProblem, parts: int) -> NDArray[np.int64]:
    """Return what the kernel reads: the head, and for each axis its lists."""
    missing = 3 - p.rank
    sizes, lists = (*(1,) * missing, *p.spatial), [_shown(0, 0, 1, p.mode_code)] * missing
    lists += [_shown(*pair, n, p.mode_code) for pair, n in zip(p.padding, p.spatial, strict=True)]
    padded_sizes = [1] * missing + [n + before + after for n, (before, after) in zip(p.spatial, p.padding, strict=True)]
    inner = (p.in_channels if p.layout == "channels_last" else 1) * parts
    starts = np.cumsum([len(FIELDS)] + [bounds.size + found.size for bounds, found in lists])
    total = math.prod(p.x_shape) * parts
    numbers = [np.array([total, *sizes, inner, *padded_sizes, *starts[:3]], np.int64)]
    for start, (bounds, found) in zip(starts, lists, strict=False):
        numbers += [bounds + start + bounds.size, found]
    return np.concatenate(numbers)


def _shown(before: int, after: int, n: int, mode: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the padded positions that show each element of an axis, one list after another, and the lists' bounds."""
    low, high = max(-before, 0), n - max(-after, 0)
    source = np.arange(-before, n + after)
    for i in (*range(low + before), *range(high + before, len(source))):
        source[i] = low + source_index(mode, int(source[i]) - low, high - low)
    order = np.argsort(source, kind="stable")
    return np.searchsorted(source[order], np.arange(n + 1)), order


@launch.specialise
def gathering(kind: str) -> Any:
    """Return the kernel ``(padded, dx, meta)`` that adds each element of a padded gradient to the one that it showed.

    One thread gathers one element of dx, from the lists of padded positions that its index on each axis has. The lists
    of an axis of size n are n + 1 bounds, counted from the start of `meta`, and the positions.
    """
    seen = scalars.of(kind)
    zero, store = seen.sums.type(0), scalars.storer(seen.result)

    def kernel(source, target, meta):  # type: ignore[no-untyped-def]
        element = u64(u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x))
        if element < u64(meta[TOTAL]):
            inner = u64(element % u64(meta[INNER]))
            rest = u64(element // u64(meta[INNER]))
            at2 = u64(u64(meta[AT2]) + u64(rest % u64(meta[SIZE2])))
            rest = u64(rest // u64(meta[SIZE2]))
            at1 = u64(u64(meta[AT1]) + u64(rest % u64(meta[SIZE1])))
            rest = u64(rest // u64(meta[SIZE1]))
            at0 = u64(u64(meta[AT0]) + u64(rest % u64(meta[SIZE0])))
            outer = u64(rest // u64(meta[SIZE0]))
            total = zero
            for j0 in range(meta[at0], meta[u64(at0 + u64(1))]):
                plane = u64(outer * u64(meta[PADDED0]) + u64(meta[u64(j0)]))
                for j1 in range(meta[at1], meta[u64(at1 + u64(1))]):
                    row = u64(plane * u64(meta[PADDED1]) + u64(meta[u64(j1)]))
                    for j2 in range(meta[at2], meta[u64(at2 + u64(1))]):
                        place = u64(row * u64(meta[PADDED2]) + u64(meta[u64(j2)]))
                        total += source[u64(place * u64(meta[INNER]) + inner)]
            target[element] = store(total)

    return launch.compile_kernel(kernel)
