"""Calls on NumPy arrays that the GPU's memory cannot hold at once: a part of the batch after another."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.dtypes import result_dtype, to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.cuda.memory import Array
    from gpuconv.dispatch import Call

__all__ = ["images_at_once", "split"]

_VARIABLE = "GPUCONV_MAX_DEVICE_MEMORY"
_ALWAYS_FITS = 256 << 20
"""Bytes of arrays up to which nobody asks how much memory is free: asking takes longer than a small call."""
_SHARE = 0.85
"""Of the free memory, what a call takes at most."""

Run = Callable[..., None]


def split(run: Run) -> Run:
    """Decorate an algorithm's `run`: calls on NumPy arrays that do not fit are run on parts of their batch.

    The gradient by the weights, a sum over the batch, is not parted.
    """

    @functools.wraps(run)
    def whole(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
        each = images_at_once(call, x, y)
        if each >= call.problem.batch:
            run(call, x, w, y, bias, packed)
            return
        for first in range(0, call.problem.batch, each):
            here = slice(first, first + each)
            problem = dataclasses.replace(call.problem, batch=min(each, call.problem.batch - first))
            run(dataclasses.replace(call, problem=problem), x[here], w, y[here], bias, packed)

    return whole


def images_at_once(call: Call, x: Array, y: Array) -> int:
    """Return how many images of a call's batch fit in the memory that it may take, one at least."""
    p = call.problem
    on_host = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    if call.operation == "weight_gradient" or not (p.batched and on_host and p.batch > 1):
        return p.batch
    if call.bytes <= _ALWAYS_FITS and _VARIABLE not in os.environ:
        return p.batch
    dtype = to_numpy(call.dtype)
    widest = max(dtype.itemsize, result_dtype(dtype).itemsize)
    # The sums of a gradient under a border are kept for the padded input besides.
    elements = math.prod(p.x_shape) + math.prod(p.y_shape)
    if call.operation == "input_gradient" and p.padding_mode != "zeros":
        elements += math.prod(p.on_padded().x_shape)
    image = max(elements * max(widest, 4) // p.batch, 1)
    weights = math.prod(p.w_shape) * (dtype.itemsize + 12)
    return min(max((limit() - weights) // image, 1), p.batch)


def limit() -> int:
    """Return the bytes that a call may take: ``GPUCONV_MAX_DEVICE_MEMORY``, or most of what is free.

    Raises
    ------
    ValueError
        If the variable is no number of bytes.
    """
    text = os.environ.get(_VARIABLE)
    if text is not None:
        if not text.isdecimal():
            raise ValueError(f"{_VARIABLE}={text!r} must be a number of bytes")
        return int(text)
    from gpuconv.backends.cuda import launch

    free = launch.free_memory()
    return int(_SHARE * free) if math.isfinite(free) else sys.maxsize
