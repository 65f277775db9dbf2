"""Filters that work axis by axis: one 1-d correlation after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import memory
from gpuconv.dtypes import name_of
from gpuconv.ndimage.engine import compute, correlate_into
from gpuconv.ndimage.fold import NARROW
from gpuconv.ndimage.precision import LONGEST_PASS, How, between_passes, is_exact
from gpuconv.ndimage.ready import ByValue, Filter, Ready, kept, ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Pass", "Passes", "passes_shape", "run_passes", "run_sum"]

_FEW_PRODUCTS = 16
"""Weights of two passes' product up to which it is computed at once where the two would not share rows in the cache."""
_WORTH_FUSING = 1 << 14
"""Elements of an image from which on sums of passes run as one."""
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

    def fractionless(self, how: How) -> Pass:
        """Return the pass for sums that lose their fraction, its weights larger by what rounding may take from a sum.

        So a Gaussian of equal numbers is that number, not one less. SciPy sums symmetric weights from both ends, which
        comes to the same nearly always.
        """
        w = self.weights
        if w.dtype.kind == "c" or self.divisor != 1.0 or self.is_whole or (w != w[::-1]).any():
            return self
        larger = w * (1 + (w.size + 8) * (2.0**-24 if how.dtype == "float32" else 2.0**-53))
        return Pass(self.axis, larger, self.mode, self.origin, self.divisor, self.step)


class Passes(ByValue):
    """Some passes, one after the other."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        super().__init__(*passes)
        self.each = tuple(passes)
        self.nbytes = sum(step.weights.nbytes for step in passes)


def _filter(*terms: Sequence[Pass], ndim: int, is_whole: bool = False) -> Filter:
    """Return the filter of arrays of `ndim` axes that passes along different axes are, or the sum of several such.

    With `is_whole` values lose their fraction between two passes.
    """
    one = np.ones(1)
    vectors, origins, steps, divisors = [[one] * ndim for _ in terms], [0] * ndim, [1] * ndim, [1.0] * ndim
    for row, passes in zip(vectors, terms, strict=True):
        for step in passes:
            row[step.axis], origins[step.axis], steps[step.axis] = step.weights, step.origin, step.step
            divisors[step.axis] = step.divisor
    # A sum along several axes is long where it is along one.
    is_long = any(step.weights.size > LONGEST_PASS for passes in terms for step in passes)
    return Filter(
        tuple(map(tuple, vectors)), tuple(origins), tuple(steps), terms[0][0].mode,
        tuple(divisors) if any(divisor != 1.0 for divisor in divisors) else (), is_whole=is_whole,
        longest=0 if is_long else LONGEST_PASS**ndim,
    )  # fmt: skip


@kept
def passes_shape(passes: Passes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of what some passes make of an array."""
    return functools.reduce(lambda size, step: _filter([step], ndim=len(size)).shape(size), passes.each, shape)


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
    idle = [step for step in passes.each if step.weights.size == 1 and step.weights[0] == step.divisor == 1]
    if 0 < len(idle) < len(passes.each):
        # What takes no sums picks elements, which keep their dtype for the passes that do.
        picks = {step.axis: slice(None, None, step.step) for step in idle}
        x = x[tuple(picks.get(axis, slice(None)) for axis in range(x.ndim))]
        passes = Passes([step for step in passes.each if step.axis not in picks])
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


def run_sum(x: Array, terms: tuple[Passes, ...], cval: Any, output: Array, how: How) -> bool:
    """Write the sum of what several lists of passes make of an image; return False where they do not run as one.

    Each list has a pass along each of the two axes of `x`, all with the same border. Inputs under weights of 0 at the
    ends of a pass are not read.
    """
    f = _sum_of(_Sum(terms), x.shape, x.dtype, output.dtype, bool(np.any(cval)))
    if f is None:
        return False
    found = ready(f, x.shape, x.dtype, output.dtype, 0.0, how)
    if found.chosen is None:
        return False
    compute(output, x, found, how)
    return True


class _Sum(ByValue):
    """Some lists of passes whose results are added."""

    def __init__(self, terms: tuple[Passes, ...]) -> None:
        super().__init__(*terms)
        self.terms = terms
        self.nbytes = sum(passes.nbytes for passes in terms)


@kept
def _sum_of(
    total: _Sum, x_shape: tuple[int, ...], x: np.dtype[Any], output: np.dtype[Any], has_cval: bool
) -> Filter | None:
    """Return the filter of an image that a sum of passes is; None where they do not run as one."""
    steps = [step for passes in total.terms for step in passes.each]
    modes = {step.mode for step in steps}
    if len(x_shape) != 2 or len(modes) > 1 or 0 in x_shape or (has_cval and "zeros" in modes):
        return None
    if math.prod(x_shape) < _WORTH_FUSING and not all(step.is_whole for step in steps):
        # SciPy's tests ask for the very sum of the parts, each of them rounded.
        return None
    f = _filter(*(passes.each for passes in total.terms), ndim=2)
    is_whole = x.kind in "iu" and is_exact(x, output, _magnitudes(f), 0.0)
    if f.is_complex or not (is_whole or (x == output and name_of(x) in ("float32", "float64"))):
        return None
    return f


def _magnitudes(f: Filter) -> Array:
    """Return the magnitudes of a filter's terms, added up."""
    parts = (functools.reduce(np.multiply.outer, map(np.abs, term)) for term in f.given)
    total: Array = functools.reduce(np.add, parts)
    return total


@kept
def _stages(
    passes: Passes, x_shape: tuple[int, ...], x_dtype: np.dtype[Any], output: np.dtype[Any], has_cval: bool, how: How
) -> list[_Stage]:
    """Return what passes run, each stage's result in the dtype between them."""
    pair = _pair(passes.each, x_shape, x_dtype, output, has_cval, how)
    axes = () if pair is None else tuple(axis for axis, k in enumerate(pair.kernel) if k > 1)
    single = [step for step in passes.each if step.axis not in axes]
    between = between_passes(output).newbyteorder("=")
    if between.kind in "iu":
        single = [step.fractionless(how) for step in single]
    stages, shape = [], x_shape
    filters = [_filter([step], ndim=len(shape)) for step in single]
    for f in filters if pair is None else [*filters, pair]:
        shape = f.shape(shape)
        stages.append(_Stage(f, shape, between, math.prod(shape) * between.itemsize))
    return stages


def _pair(
    passes: tuple[Pass, ...], x_shape: tuple[int, ...], x: np.dtype[Any], output: np.dtype[Any], has_cval: bool,
    how: How,
) -> Filter | None:  # fmt: skip
    """Return the filter of the passes along two neighbouring axes, the last that are filtered, if it runs as one."""
    pair = tuple(sorted(passes, key=lambda step: step.axis)[-2:])
    if len(pair) != 2 or pair[0].axis != pair[1].axis - 1 or pair[0].mode != pair[1].mode or 0 in x_shape:
        return None
    # Around a constant other than 0 the second pass of SciPy's meets that constant, not what the first makes of it.
    if has_cval and any(step.mode == "zeros" for step in passes):
        return None
    if any(step.step > 1 or step.weights.size == 1 or step.weights.dtype.kind == "c" for step in pair):
        return None
    # Where pixels have many elements two passes do not share rows in the cache: only few products run at once.
    is_few = pair[0].weights.size * pair[1].weights.size <= _FEW_PRODUCTS
    pixel = math.prod(x_shape[pair[1].axis + 1 :])
    if not is_few and pixel > (NARROW if how.backend == "cpu" else 1):
        return None
    ndim = len(x_shape)
    others = [step for step in passes if all(step is not other for other in pair)]
    shape = functools.reduce(lambda size, step: _filter([step], ndim=ndim).shape(size), others, x_shape)
    if x.kind in "iu":
        f = None if others else _integer_pair(pair, passes, ndim, x, output, how)
    else:
        f = _filter(pair, ndim=ndim) if x == output and name_of(x) in ("float32", "float64") else None
    if f is None:
        return None
    found = ready(f, shape, x, output, 0.0, how)
    if found.chosen is None or (x.kind == "f" and not f.longest and not _gains(pair, found, shape, x, how)):
        return None
    return f if found.sums == x or x.kind != "f" or not f.longest else None


def _gains(pair: Sequence[Pass], found: Ready, shape: tuple[int, ...], x: np.dtype[Any], how: How) -> bool:
    """Whether two long passes run sooner as one: as a mean of any length, or as one transform."""
    if found.factored is not None:
        return found.factored.is_mean
    alone = (ready(_filter([step], ndim=len(shape)), shape, x, x, 0.0, how) for step in pair)
    return found.is_transform and found.seconds < sum(each.seconds for each in alone)


def _integer_pair(
    pair: tuple[Pass, ...], passes: tuple[Pass, ...], ndim: int, x: np.dtype[Any], output: np.dtype[Any], how: How
) -> Filter | None:
    """Return the filter of two passes over integers, if it is known what lies between them."""
    is_whole = all(step.is_whole and step.divisor == 1.0 for step in pair)
    if is_whole and output.kind in "iu":
        # Whole sums wrap around in the end as they would in between, if a conversion can hold them.
        total = np.abs(pair[0].weights).sum() * np.abs(pair[1].weights).sum() * 2.0 ** (8 * x.itemsize)
        return _filter(pair, ndim=ndim) if total < _WHOLE_SUMS else None
    if x.itemsize > 2:
        return None
    if output.kind == "f":
        return _filter(pair, ndim=ndim) if name_of(output) in ("float32", "float64") else None
    # Weighted means stay within the range of the input, so that nothing wraps around.
    is_mean = all((step.weights >= 0).all() and step.weights.sum() <= 1.000001 * step.divisor for step in pair)
    if not (is_mean and passes == pair and np.can_cast(x, output, "safe")):
        return None
    return _filter([step.fractionless(how) for step in pair], ndim=ndim, is_whole=True)
