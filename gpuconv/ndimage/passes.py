"""Filters that work axis by axis: one 1-d correlation after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import memory
from gpuconv.dtypes import name_of
from gpuconv.ndimage.engine import correlate_into
from gpuconv.ndimage.precision import LONGEST_PASS, How, between_passes
from gpuconv.ndimage.ready import ByValue, Filter, kept, ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Pass", "Passes", "passes_shape", "run_passes"]

_FEW_PRODUCTS = 16
"""Weights of two passes' product up to which it is computed at once where the two would not share rows in the cache."""
_WHOLE_SUMS = 1 << 31
"""Sums of integers below which the product of two passes wraps around as the passes do one by one."""


class Pass(ByValue):
    """One 1-d correlation of a separable filter."""

    def __init__(
        self, axis: int, weights: Array, mode: str, origin: int = 0, divisor: float = 1.0, step: int = 1
    ) -> None:
        super().__init__(axis, weights, mode, origin, divisor, step)
        self.axis, self.weights, self.mode = axis, weights, mode
        self.origin, self.divisor, self.step = origin, divisor, step

    @functools.cached_property
    def is_whole(self) -> bool:
        """Whether the weights are integers, and their sums exact."""
        return self.weights.dtype.kind != "c" and bool((self.weights == np.rint(self.weights)).all())

    def fractionless(self) -> Pass:
        """Return the pass for sums that lose their fraction, its weights larger by what rounding may take from a sum.

        So a Gaussian of equal numbers is that number, not one less. SciPy sums symmetric weights from both ends, which
        comes to the same nearly always.
        """
        w = self.weights
        if w.dtype.kind == "c" or self.divisor != 1.0 or self.is_whole or (w != w[::-1]).any():
            return self
        larger = w * (1 + (w.size + 8) * 2.0**-53)
        return Pass(self.axis, larger, self.mode, self.origin, self.divisor, self.step)


class Passes(ByValue):
    """Some passes, one after the other."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        super().__init__(*passes)
        self.each = tuple(passes)
        self.nbytes = sum(step.weights.nbytes for step in passes)


def _filter(passes: Sequence[Pass], ndim: int) -> Filter:
    """Return the filter that passes along different axes of arrays of `ndim` axes are."""
    one = np.ones(1)
    vectors, origins, steps, divisor = [one] * ndim, [0] * ndim, [1] * ndim, 1.0
    for step in passes:
        vectors[step.axis], origins[step.axis], steps[step.axis] = step.weights, step.origin, step.step
        divisor *= step.divisor
    # Of several, none is longer than a pass may be.
    longest = LONGEST_PASS ** len(passes)
    return Filter(tuple(vectors), tuple(origins), tuple(steps), passes[0].mode, divisor, longest=longest)


@kept
def passes_shape(passes: Passes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of what some passes make of an array."""
    return functools.reduce(lambda size, step: _filter([step], len(size)).shape(size), passes.each, shape)


class _Stage(NamedTuple):
    """What one or two passes run."""

    filter: Filter
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int
    """Of the result."""

    def result(self, block: Array, like: Any) -> Array:
        """Return the array that is written, in a block of the host's memory if `like` lies there."""
        if not isinstance(like, np.ndarray):
            return np.empty(self.shape, self.dtype, like=like)
        return block[: self.nbytes].view(self.dtype).reshape(self.shape)


def run_passes(x: Array, passes: Passes, cval: Any, output: Array, how: How) -> Array:
    """Run passes one after the other into `output` and return it."""
    if not passes.each:
        output[...] = x
        return output
    if output.dtype.kind == "b":
        output[...] = run_passes(x, passes, cval, np.empty(output.shape, np.uint8, like=output), how) != 0
        return output
    *first, last = _stages(passes, x.shape, x.dtype, output.dtype, bool(cval), how)
    blocks = [memory.take(max(stage.nbytes for stage in first[i::2])) for i in range(min(len(first), 2))]
    try:
        for i, stage in enumerate(first):
            target = stage.result(blocks[i % 2][0], x)
            correlate_into(target, x, stage.filter, cval, how)
            x = target
        correlate_into(output, x, last.filter, cval, how)
    finally:
        memory.give_back(*blocks)
    return output


@kept
def _stages(
    passes: Passes, x_shape: tuple[int, ...], x_dtype: np.dtype[Any], output: np.dtype[Any], has_cval: bool, how: How
) -> list[_Stage]:
    """Return what passes run, each stage's result in the dtype between them."""
    pair = _pair(passes.each, x_shape, x_dtype, output, has_cval, how)
    single = [step for step in passes.each if all(step is not other for other in pair)]
    between = between_passes(output).newbyteorder("=")
    if between.kind in "iu":
        single = [step.fractionless() for step in single]
    stages, shape = [], x_shape
    for together in [(step,) for step in single] + [pair] * bool(pair):
        f = _filter(together, len(shape))
        shape = f.shape(shape)
        stages.append(_Stage(f, shape, between, math.prod(shape) * between.itemsize))
    return stages


def _pair(
    passes: tuple[Pass, ...], x_shape: tuple[int, ...], x: np.dtype[Any], output: np.dtype[Any], has_cval: bool,
    how: How,
) -> tuple[Pass, ...]:  # fmt: skip
    """Return the passes along two neighbouring axes, the last that are filtered, if they are run as one."""
    pair = tuple(sorted(passes, key=lambda step: step.axis)[-2:])
    if len(pair) != 2 or pair[0].axis != pair[1].axis - 1 or pair[0].mode != pair[1].mode or 0 in x_shape:
        return ()
    # Around a constant other than 0 the second pass of SciPy's meets that constant, not what the first makes of it.
    if has_cval and any(step.mode == "zeros" for step in passes):
        return ()
    # Long passes may be transforms, each along its own axis.
    sizes = [step.weights.size for step in pair]
    if any(step.step > 1 or not 1 < k <= LONGEST_PASS for step, k in zip(pair, sizes, strict=True)):
        return ()
    if any(step.weights.dtype.kind == "c" for step in pair):
        return ()
    is_few = sizes[0] * sizes[1] <= _FEW_PRODUCTS
    if x.kind in "iu":
        total = np.abs(pair[0].weights).sum() * np.abs(pair[1].weights).sum() * 2.0 ** (8 * x.itemsize)
        is_whole = all(step.is_whole and step.divisor == 1.0 for step in pair)
        return pair if is_few and is_whole and output.kind in "iu" and total < _WHOLE_SUMS else ()
    if x != output or name_of(x) not in ("float32", "float64"):
        return ()
    if how.sums(x, output, is_long=False) != x or not (is_few or math.prod(x_shape[pair[1].axis + 1 :]) == 1):
        return ()
    others = [step for step in passes if all(step is not other for other in pair)]
    shape = functools.reduce(lambda size, step: _filter([step], len(size)).shape(size), others, x_shape)
    return pair if ready(_filter(pair, len(shape)), shape, x, output, 0.0, how).chosen is not None else ()
