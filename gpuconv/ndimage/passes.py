"""Filters that work axis by axis: one 1-d correlation after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.dtypes import name_of
from gpuconv.factors import Factored, Factors
from gpuconv.ndimage.engine import (
    Filter,
    Geometry,
    compute,
    correlate_into,
    geometry_of,
    is_transform,
    padding_of,
    rounded,
    seconds,
)
from gpuconv.ndimage.fold import fold_of
from gpuconv.ndimage.precision import LONGEST_PASS, How, between_passes, is_exact_in_single

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Pass", "passes_shape", "run_passes", "run_sum"]


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
    meets_constant = bool(np.any(cval)) and any(step.mode == "zeros" for step in passes)
    pair = None if meets_constant else _pair(x, passes, output, how)
    if pair is None:
        _run_each(x, passes, cval, output, output, how)
        return output
    single = [step for step in passes if step.axis < x.ndim - 2]
    x = _run_each(x, single, cval, None, output, how)
    if not _run_pair(x, pair, cval, output, how):
        _run_each(x, pair.passes, cval, output, output, how)
    return output


def run_sum(x: Array, terms: Sequence[Sequence[Pass]], cval: Any, output: Array, how: How) -> bool:
    """Write the sum of what several lists of passes make of an image; return False where they do not run as one.

    Each list has a pass along each of the two axes of `x`, all with the same border. Weights that are 0 at the ends of
    a pass meet nothing: what is beyond them is not read.
    """
    modes = {step.mode for steps in terms for step in steps}
    if x.ndim != 2 or len(modes) > 1 or not x.size or (np.any(cval) and "zeros" in modes):
        return False
    weights = [step.weights for steps in terms for step in steps]
    names = name_of(x.dtype), name_of(output.dtype)
    is_long = any(w.size > LONGEST_PASS for w in weights)
    sums = how.sums(x.dtype, output.dtype, is_long=is_long)
    reach = sum(math.prod(float(np.abs(step.weights).sum()) for step in steps) for steps in terms)
    if names[0] != names[1] or names[0] not in ("float32", "float64"):
        whole = np.ones(1) if all((w == np.rint(w)).all() for w in weights) else np.full(1, 0.5)
        if not is_exact_in_single(x.dtype, output.dtype, whole, largest=reach):
            return False
        sums = np.dtype(np.float32)
    vectors = tuple(
        tuple(rounded(step.weights, sums) for step in sorted(steps, key=lambda step: step.axis)) for steps in terms
    )
    return _run_factors(x, Factors(vectors), next(iter(modes)), (0, 0), cval, output, sums, how)


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


class _Pair(NamedTuple):
    """The passes along an array's last two axes, as one filter."""

    passes: tuple[Pass, ...]
    sums: np.dtype[Any]
    is_whole: bool
    """Whether values between the passes lose their fraction."""


def _pair(x: Array, passes: Sequence[Pass], output: Array, how: How) -> _Pair | None:
    """Return the passes along the last two axes if they can run as one, with the same border for both."""
    if not x.size:
        return None
    pair = tuple(step for axis in (x.ndim - 2, x.ndim - 1) for step in passes if step.axis == axis)
    if len(pair) != 2 or pair[0].axis == pair[1].axis or pair[0].mode != pair[1].mode:
        return None
    if any(step.step > 1 or step.weights.size == 1 or step.weights.dtype.kind == "c" for step in pair):
        return None
    is_mean = all((step.weights == 1).all() for step in pair)
    is_long = any(step.weights.size > LONGEST_PASS for step in pair)
    names = name_of(x.dtype), name_of(output.dtype)
    if is_long and not is_mean:
        return _Pair(pair, x.dtype, False) if _is_transform(x, pair, output, how) else None
    if names[0] == names[1] and names[0] in ("float32", "float64"):
        sums = how.sums(x.dtype, output.dtype, is_long=is_long)
        return _Pair(pair, sums, False) if sums == x.dtype or is_mean else None
    if len(passes) > 2 or x.dtype.kind not in "iu" or x.dtype.itemsize > 2 or names[1] in ("float16", "bfloat16"):
        return None
    first, second = pair
    enlarged = float(np.abs(first.weights).sum())
    exact = is_exact_in_single(x.dtype, output.dtype, first.weights, first.divisor)
    if output.dtype.kind == "f" or (exact and first.divisor == second.divisor == 1.0):
        exact &= is_exact_in_single(x.dtype, output.dtype, second.weights, second.divisor, largest=enlarged)
        # Whole sums wrap around in the end as they would in between, if a conversion can hold them.
        if output.dtype.kind != "f" and not exact:
            return None
        return _Pair(pair, np.dtype(np.float32) if exact else how.sums(x.dtype, output.dtype, is_long=is_long), False)
    is_weighing = all((step.weights >= 0).all() and step.weights.sum() <= 1.000001 * step.divisor for step in pair)
    if not (is_weighing and passes[0] is first and np.can_cast(x.dtype, output.dtype, "safe")):
        return None
    exact &= is_exact_in_single(x.dtype, output.dtype, second.weights, second.divisor)
    sums = np.dtype(np.float32) if exact else how.sums(x.dtype, output.dtype, is_long=is_long)
    return _Pair(tuple(step.whole() for step in pair), sums, True)


def _is_transform(x: Array, pair: Sequence[Pass], output: Array, how: How) -> bool:
    """Whether long passes would run as one transform, sooner than as one each."""
    sizes, origins = [step.weights.size for step in pair], [step.origin for step in pair]
    alone = [_geometry(x, [n if i == j else 1 for j, n in enumerate(sizes)], (0, 0), "zeros", 0) for i in (0, 1)]
    whole = _geometry(x, sizes, origins, pair[0].mode, 0)
    if not is_transform(x, output, whole, how, Factored()):
        return False
    return seconds(x, whole, how, Factored()) < sum(seconds(x, geometry, how) for geometry in alone)


def _run_pair(x: Array, pair: _Pair, cval: Any, output: Array, how: How) -> bool:
    """Run a pass along each of the last two axes as one filter; return whether there is an algorithm for it."""
    vectors = tuple(rounded(step.weights, pair.sums) for step in pair.passes)
    w = Factors((vectors,), tuple(step.divisor for step in pair.passes), pair.is_whole)
    origins = tuple(step.origin for step in pair.passes)
    return _run_factors(x, w, pair.passes[0].mode, origins, cval, output, pair.sums, how)


def _run_factors(
    x: Array, w: Factors, mode: str, origins: tuple[int, ...], cval: Any, output: Array, sums: np.dtype[Any], how: How
) -> bool:
    """Run a filter of the last two axes given as factors; return whether there is an algorithm for it."""
    geometry = _geometry(x, [vector.size for vector in w.terms[0]], origins, mode, cval)
    return compute(
        output, x, fold_of((*(1,) * (x.ndim - 2), *(vector.size for vector in w.terms[0]))), w, geometry, sums, how
    )


def _geometry(x: Array, sizes: Sequence[int], origins: Sequence[int], mode: str, cval: Any) -> Geometry:
    """Return the geometry of a filter along the last two axes."""
    before = (1,) * (x.ndim - 2)
    kernel = (*before, *sizes)
    padding = padding_of(kernel, (*(0,) * len(before), *origins), mode)
    return geometry_of(x.shape, kernel, False, padding, (1,) * x.ndim, mode, float(cval) if mode == "zeros" else 0.0)
