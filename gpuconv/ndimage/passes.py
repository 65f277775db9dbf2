"""Filters that work axis by axis: one 1-d correlation after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.dispatch import Factors
from gpuconv.dtypes import name_of
from gpuconv.ndimage.engine import Filter, compute, correlate_into, geometry_of, padding_of, rounded
from gpuconv.ndimage.fold import fold_of
from gpuconv.ndimage.precision import LONGEST_PASS, How, between_passes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Pass", "passes_shape", "run_passes"]


class Pass(NamedTuple):
    """One 1-d correlation of a separable filter."""

    axis: int
    weights: Array
    mode: str
    origin: int = 0
    divisor: float = 1.0
    step: int = 1

    def whole(self) -> Pass:
        """Return the pass for sums that lose their fraction, its weights larger by what rounding may take from a sum.

        So a Gaussian of equal numbers is that number, not one less. SciPy sums symmetric weights from both ends, which
        comes to the same nearly always. Whole weights have exact sums.
        """
        w = self.weights
        if w.dtype.kind == "c" or self.divisor != 1.0 or (w == np.rint(w)).all() or (w != w[::-1]).any():
            return self
        return self._replace(weights=w * (1 + (w.size + 8) * 2.0**-53))

    def filter(self, ndim: int) -> Filter:
        """Return the filter of arrays of `ndim` axes that the pass is."""
        shape, origins, steps = [1] * ndim, [0] * ndim, [1] * ndim
        shape[self.axis], origins[self.axis], steps[self.axis] = -1, self.origin, self.step
        weights = self.weights.reshape(shape)
        return Filter(weights, tuple(origins), tuple(steps), self.mode, self.divisor, longest=LONGEST_PASS)


def passes_shape(shape: tuple[int, ...], passes: Sequence[Pass]) -> tuple[int, ...]:
    """Return the shape of what some passes make of an array."""
    return functools.reduce(lambda size, step: step.filter(len(size)).shape(size), passes, shape)


def run_passes(x: Array, passes: Sequence[Pass], cval: Any, output: Array, how: How) -> Array:
    """Run passes one after the other into `output` and return it."""
    if not passes:
        output[...] = x
        return output
    if output.dtype.kind == "b":
        output[...] = run_passes(x, passes, cval, np.empty(output.shape, np.uint8, like=output), how) != 0
        return output
    # Around a constant other than 0 the second pass of SciPy's meets that constant, not what the first makes of it.
    pair = () if np.any(cval) and any(step.mode == "zeros" for step in passes) else _pair(x, passes, output, how)
    single = [step for step in passes if all(step is not other for other in pair)] if pair else list(passes)
    if pair:
        x = _run_each(x, single, cval, None, output, how)
        if not _run_pair(x, pair, cval, output, how):
            _run_each(x, pair, cval, output, output, how)
    else:
        _run_each(x, single, cval, output, output, how)
    return output


def _run_each(x: Array, passes: Sequence[Pass], cval: Any, last: Array | None, like: Array, how: How) -> Array:
    """Run passes one by one, the last into `last` or an array of the dtype of `like`; return what it wrote."""
    dtype = between_passes(like.dtype)
    scratch: list[Array] = []
    for index, step in enumerate(passes):
        f = (step.whole() if dtype.kind in "iu" else step).filter(x.ndim)
        shape = f.shape(x.shape)
        if index == len(passes) - 1 and last is not None:
            target = last
        elif len(scratch) > 1 and scratch[-2].shape == shape:
            target = scratch[-2]
        else:
            target = np.empty(shape, dtype, like=x)
        scratch.append(target)
        correlate_into(target, x, f, cval, how)
        x = target
    return x


def _pair(x: Array, passes: Sequence[Pass], output: Array, how: How) -> tuple[Pass, ...]:
    """Return the passes along the last two axes if they can run as one: floats, and the same border for both."""
    if x.dtype != output.dtype or name_of(x.dtype) not in ("float32", "float64") or not x.size:
        return ()
    pair = tuple(step for axis in (x.ndim - 2, x.ndim - 1) for step in passes if step.axis == axis)
    if len(pair) != 2 or pair[0].axis == pair[1].axis or pair[0].mode != pair[1].mode:
        return ()
    if how.sums(x.dtype, output.dtype, is_long=False) != x.dtype:
        return ()
    # Long passes may be transforms, each along its own axis.
    if any(step.step > 1 or step.weights.size > LONGEST_PASS for step in pair):
        return ()
    return pair if all(step.weights.size > 1 and step.weights.dtype.kind != "c" for step in pair) else ()


def _run_pair(x: Array, pair: tuple[Pass, ...], cval: Any, output: Array, how: How) -> bool:
    """Run a pass along each of the last two axes as one filter; return whether there is an algorithm for it."""
    w = Factors(tuple(rounded(step.weights, x.dtype) for step in pair), math.prod(step.divisor for step in pair))
    before, mode = (1,) * (x.ndim - 2), pair[0].mode
    kernel = (*before, *(step.weights.size for step in pair))
    padding = padding_of(kernel, (*(0 for _ in before), *(step.origin for step in pair)), mode)
    fill = float(cval) if mode == "zeros" else 0.0
    geometry = geometry_of(x.shape, kernel, False, padding, (1,) * x.ndim, mode, fill)
    return compute(output, x, fold_of(kernel), w, geometry, x.dtype, how)
