"""Calls on NumPy arrays in parts: those that the GPU's memory cannot hold, and those whose copies should overlap work.

A part is some images of the batch or, where one image is too large, some rows of its first spatial axis. While one part
is computed the next is on its way to the GPU and the last on its way back.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cuda import slabs
from gpuconv.backends.cuda.interop import DeviceArray
from gpuconv.dtypes import ACCUMULATORS, result_dtype, to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.cuda.memory import Array
    from gpuconv.dispatch import Call

__all__ = ["Cut", "cut", "limit", "split"]

_VARIABLE = "GPUCONV_MAX_DEVICE_MEMORY"
_ALWAYS_FITS = 64 << 20
"""Bytes of arrays up to which a call is not cut, and nobody asks how much memory is free: asking takes longer than a
small call."""
_PART = 32 << 20
"""Bytes of a part; memory of the host is page-locked for two of them. Not measured."""
_LARGE = 8
"""Times a part's bytes that one image of several may have before it is cut."""
_SHARE = 0.85
"""Of the free memory, what a call takes at most."""
_HALO = 8
"""Times the rows that a part shares with its neighbours, which it has at least where memory allows."""

Run = Callable[..., None]


class Cut(NamedTuple):
    """How a call is cut: images of a part, and rows of one image."""

    images: int
    rows: int


def split(run: Run | None = None, *, temporary: Callable[[Call], int] = lambda _: 0) -> Any:
    """Decorate an algorithm's `run`: calls on large NumPy arrays are run on parts of them, and faults are put in words.

    `temporary` tells the bytes that a call takes on the GPU besides its arrays. The gradient by the weights is summed
    over the parts in their order, and so are the rows that a border makes parts of an input gradient share.
    """
    if run is None:
        return functools.partial(split, temporary=temporary)

    @functools.wraps(run)
    def whole(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
        from gpuconv.backends.cuda import launch

        with launch.faults():
            on_host = not any(isinstance(array, DeviceArray) for array in (x, w, y))
            how = cut(call, temporary) if on_host else None
            if how is None or how == Cut(call.problem.batch, _rows(call)):
                run(call, x, w, y, bias, packed)
            else:
                _in_parts(run, how, call, x, w, y, bias, packed)

    return whole


# How to cut


def cut(call: Call, temporary: Callable[[Call], int] = lambda _: 0) -> Cut:
    """Return how a call on NumPy arrays is cut: into images if one fits, else into rows, one at least."""
    p, rows = call.problem, _rows(call)
    uncut = Cut(p.batch, rows)
    if not call.bytes or (call.bytes <= _ALWAYS_FITS and _VARIABLE not in os.environ):
        return uncut
    room = limit()
    if call.bytes <= _ALWAYS_FITS and _needed(call, uncut, temporary) <= room:
        return uncut
    # Two parts are on the GPU at a time.
    each = room // 2
    part = min(each, _PART)
    images = _most(p.batch, lambda n: _needed(call, Cut(n, rows), temporary) <= part)
    if images:
        return Cut(images, rows)
    if p.input_dilation[0] > 1 or (p.batch > 1 and _needed(call, Cut(1, rows), temporary) <= min(each, _LARGE * part)):
        return Cut(1, rows)
    step = _step(call)
    wanted, most = (
        step * _most(-(-rows // step), lambda n: _needed(call, Cut(1, n * step), temporary) <= size)  # noqa: B023
        for size in (part, each)
    )
    # Parts that are hardly larger than what they share would compute, or copy, most of it twice.
    wanted = max(wanted, _HALO * p.extent[0] // step * step)
    return Cut(1, min(max(min(wanted, most), step), rows))


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `count` that fits, or 0: what fits is all below it."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _is_along_x(call: Call) -> bool:
    """Return whether a call is cut along x, and not along y."""
    return call.operation not in {"weight_gradient", "forward"} and call.problem.padding_mode == "zeros"


def _rows(call: Call) -> int:
    """Return the rows that are cut."""
    return call.problem.spatial[0] if _is_along_x(call) else call.problem.output[0]


def _step(call: Call) -> int:
    """Return what the rows of a part are a multiple of: so many that its phases are those of the whole."""
    return call.problem.stride[0] if _is_along_x(call) else 1


def _needed(call: Call, how: Cut, temporary: Callable[[Call], int]) -> int:
    """Return the bytes that a part takes on the GPU."""
    rows = _rows(call)
    begin = (rows - min(how.rows, rows)) // 2 // _step(call) * _step(call)
    part = _part_of(call, how.images, begin, min(begin + how.rows, rows))
    p, dtype = part.problem, to_numpy(part.dtype)
    widest = max(dtype.itemsize, result_dtype(dtype).itemsize, 4)
    elements = math.prod(p.x_shape) + math.prod(p.y_shape)
    if part.operation == "input_gradient" and p.padding_mode != "zeros":
        # The sums are kept for the padded input besides.
        elements += math.prod(p.on_padded().x_shape)
    return elements * widest + math.prod(p.w_shape) * (dtype.itemsize + 12) + temporary(part)


def _part_of(call: Call, images: int, begin: int, end: int) -> Call:
    """Return the call of some images and rows; of rows that are made of nothing, the call of all."""
    p = dataclasses.replace(call.problem, batch=images)
    if (begin, end) == (0, _rows(call)):
        return dataclasses.replace(call, problem=p)
    if _is_along_x(call):
        found = slabs.adjoint(p, begin, end)
        return dataclasses.replace(call, problem=p if found is None else found[0])
    part = slabs.spread(p, begin, end) if call.operation == "input_gradient" else slabs.forward(p, begin, end)[0]
    return dataclasses.replace(call, problem=part)


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


# The parts


def _in_parts(run: Run, how: Cut, call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any) -> None:
    from gpuconv.backends.cuda import memory

    summed = call.operation == "weight_gradient" or (how.rows < _rows(call) and not _is_simple(call))
    if not summed:
        with memory.Pipeline() as pipeline:
            for part, images, begin, end in _parts(call, how):
                with pipeline.turn():
                    _run_simple(run, part, call, x[images], w, y[images], bias, packed, begin, end)
        return
    # Sums over parts, and their parts, have the precision of the accumulator: they are rounded once.
    written = w if call.operation == "weight_gradient" else x
    precise = _precise(call)
    exact = to_numpy(precise.dtype)
    total = written
    if precise.dtype != call.dtype:
        total, packed = np.empty(written.shape, exact), None
        x, w, y = (array if array is written else array.astype(exact) for array in (x, w, y))
    total[...] = 0
    with memory.Pipeline() as pipeline:
        for part, images, begin, end in _parts(precise, how):
            with pipeline.turn():
                into = total if written is w else total[images]
                _run_summed(pipeline, into, run, part, call, x[images], w, y[images], packed, begin, end)
    if total is not written:
        written[...] = total.astype(written.dtype)


def _is_simple(call: Call) -> bool:
    return call.operation == "forward" or _is_along_x(call)


def _precise(call: Call) -> Call:
    """Return a call with its halves as float32."""
    if call.dtype in ("float16", "bfloat16"):
        return dataclasses.replace(call, dtype=ACCUMULATORS[call.dtype])
    return call


def _parts(call: Call, how: Cut) -> Iterator[tuple[Call, Any, int, int]]:
    """Yield each part: its call, its images as an index of x and y, and its rows."""
    p, rows = call.problem, _rows(call)
    for first in range(0, p.batch, how.images):
        count = min(how.images, p.batch - first)
        images = slice(first, first + count) if p.batched else ...
        for begin in range(0, rows, how.rows):
            end = min(begin + how.rows, rows)
            yield _part_of(call, count, begin, end), images, begin, end


def _run_simple(
    run: Run, part: Call, call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any, begin: int, end: int
) -> None:
    """Run a part that writes elements of its own."""
    p = call.problem
    if (begin, end) == (0, _rows(call)):
        run(part, x, w, y, bias, packed)
    elif call.operation == "forward":
        there = slabs.take(p, x, slabs.forward(p, begin, end)[1])
        run(part, there, w, slabs.take(p, y, slabs.Rows(begin, end)), bias, packed)
    else:
        target, found = slabs.take(p, x, slabs.Rows(begin, end)), slabs.adjoint(p, begin, end)
        if found is not None:
            run(part, target, w, slabs.take(p, y, found[1]), bias, packed)
        elif bias is None:
            target[...] = 0  # which every activation leaves alone
        else:
            alone = _alone(run, call, bias)
            target[...] = alone if p.layout == "channels_last" else alone.reshape(-1, *(1,) * p.rank)


def _alone(run: Run, call: Call, bias: Any) -> Any:
    """Return a bias as a result that it is alone: after the call's activation, if the algorithm applies that itself."""
    from gpuconv.backends.cpu import activation
    from gpuconv.backends.cuda.memory import to_host

    result = to_host(bias) if isinstance(bias, DeviceArray) else np.array(bias)
    if call.activation in getattr(sys.modules[run.__module__], "FUSES", ()):
        activation.apply(result, call.activation)
    return result


def _run_summed(
    pipeline: Any, total: Any, run: Run, part: Call, call: Call, x: Any, w: Any, y: Any, packed: Any, begin: int,
    end: int,
) -> None:  # fmt: skip
    """Run a part whose result is added to those of others, when its turn is over."""
    p = call.problem
    there = slabs.take(p, y, slabs.Rows(begin, end)) if (begin, end) != (0, _rows(call)) else y
    if call.operation == "weight_gradient":
        partial = np.empty(total.shape, total.dtype)
        inputs = slabs.take(p, x, slabs.forward(p, begin, end)[1]) if there is not y else x
        run(part, inputs, partial, there, None)
        pipeline.then(lambda: np.add(total, partial, out=total))
        return
    partial = np.empty(part.problem.x_shape, total.dtype)
    run(part, partial, w, there, None, packed)
    pipeline.then(lambda: slabs.fold(p, partial, total, begin, end))
