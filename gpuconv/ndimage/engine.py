"""How one correlation of SciPy's becomes a call of the dispatcher: borders, folded axes, dtypes, complex parts.

`gpuconv.ndimage` has the names and signatures; every filter there ends in `correlate_into` here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import arrays
from gpuconv.api import run
from gpuconv.boundary import MODES, source_index
from gpuconv.dispatch import Call, choose, estimate, rows
from gpuconv.dtypes import name_of
from gpuconv.errors import UnsupportedError
from gpuconv.factors import Factored, Factors, low_rank
from gpuconv.ndimage.fold import Fold, fold_of
from gpuconv.ndimage.precision import LARGEST_KERNEL, LONGEST_PASS, How, is_exact_in_single
from gpuconv.problem import ConvProblem

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "Filter",
    "Geometry",
    "compute",
    "correlate_into",
    "geometry_of",
    "is_transform",
    "padding_of",
    "rounded",
    "store",
]

_WORTH_FACTORING = 1 << 14
"""Elements of an image from which on its weights are looked at for factors."""
_WORTH_DECOMPOSING, _LEAST_DECOMPOSED, _MOST_TERMS = 1 << 24, 5, 4
"""Products, and weights along both axes, from which on a sum of factors is looked for, and the most of them."""


class Filter(NamedTuple):
    """A correlation along any of an array's axes.

    Attributes
    ----------
    weights : array
        One axis for each of the input; with `bank`, before them one for a bank's filters, which the result has too.
        Complex weights are multiplied as they are: conjugating them is the caller's part.
    origins, steps : tuple of int
        One for each axis.
    mode : str
        Canonical, or "valid".
    divisor : float
        What sums are divided by before they take the output's dtype.
    longest : int
        Weights from which on a sum is long: see `gpuconv.ndimage.precision`.
    tolerance : float
        How much the weights may be changed where that makes them a sum of few products: see `gpuconv.factors`.
    """

    weights: Array
    origins: tuple[int, ...]
    steps: tuple[int, ...]
    mode: str
    divisor: float = 1.0
    bank: bool = False
    longest: int = LARGEST_KERNEL
    tolerance: float = 0.0

    @property
    def kernel(self) -> tuple[int, ...]:
        """The weights' sizes along the axes of the input."""
        return self.weights.shape[1:] if self.bank else self.weights.shape

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """The border before and after each axis."""
        return padding_of(self.kernel, self.origins, self.mode)

    def shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result.

        Raises
        ------
        ShapeError
            If the weights are longer than the input in "valid" mode.
        """
        sizes = _outputs(x_shape, self.kernel, self.padding, self.steps)
        return (self.weights.shape[0], *sizes) if self.bank else sizes


@functools.lru_cache(maxsize=1024)
def padding_of(kernel: tuple[int, ...], origins: tuple[int, ...], mode: str) -> tuple[tuple[int, int], ...]:
    """Return the border before and after each axis."""
    if mode == "valid":
        return ((0, 0),) * len(origins)
    return tuple((k // 2 + shift, k - 1 - k // 2 - shift) for k, shift in zip(kernel, origins, strict=True))


@functools.lru_cache(maxsize=1024)
def _outputs(
    x_shape: tuple[int, ...], kernel: tuple[int, ...], padding: tuple[tuple[int, int], ...], steps: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(
        ConvProblem.make((1, 1, n), (1, 1, k), padding=(pair,), stride=step).output[0] if n else 0
        for n, k, pair, step in zip(x_shape, kernel, padding, steps, strict=True)
    )


def correlate_into(output: Array, x: Array, f: Filter, cval: Any, how: How) -> None:
    """Write the correlation of `x` with a filter into `output`, which has the filter's shape and may overlap `x`."""
    if not output.size:
        return
    if any(step > 1 and k == 1 for k, step in zip(f.kernel, f.steps, strict=True)):
        # Where a filter has one weight it passes over elements of the input, not of the result.
        x = x[tuple(slice(None, None, step if k == 1 else 1) for k, step in zip(f.kernel, f.steps, strict=True))]
        f = f._replace(steps=tuple(1 if k == 1 else step for k, step in zip(f.kernel, f.steps, strict=True)))
    if x.dtype.kind == "c" or f.weights.dtype.kind == "c":
        _complex_into(output, x, f, cval, how)
        return
    if output.dtype.kind == "b":
        numbers = np.empty(output.shape, np.uint8, like=output)
        correlate_into(numbers, x, f, cval, how)
        output[...] = numbers != 0
        return
    x = x.view(np.uint8) if x.dtype.kind == "b" else x
    if sum(k > 1 for k in f.kernel) > 3:
        _by_taps(output, x, f, cval, how)
        return
    fold = fold_of(f.kernel, bank=f.bank)
    fill = float(cval) if f.mode == "zeros" else 0.0
    geometry = geometry_of(x.shape, f.weights.shape, f.bank, f.padding, f.steps, f.mode, fill)
    if name_of(output.dtype) not in ("float16", "bfloat16", "float32", "float64"):
        how = how._replace(precision="highest")
    is_long = math.prod(f.kernel) > f.longest
    transforms = is_long and is_transform(x, output, geometry, how)
    dtype = how.sums(x.dtype, output.dtype, is_long=is_long and not transforms)
    if how.dtype in (None, "same") and is_exact_in_single(x.dtype, output.dtype, f.weights, f.divisor):
        dtype = np.dtype(np.float32)
    kernel = fold.kernel(f.weights)
    w: Array | Factors = rounded(kernel, dtype)
    if f.divisor != 1.0 and not transforms:
        # Filters with a divisor are one pass along one axis.
        w = Factors((tuple(kernel.reshape(-1) if k > 1 else np.ones(1) for k in kernel.shape[2:]),), (f.divisor,))
    elif x.size >= _WORTH_FACTORING and fold.rank == 2 and min(kernel.shape[2:]) > 2 and not f.bank:
        factors = _factors(kernel[0, 0], x, output, geometry, dtype, f.tolerance, how)
        # What was allowed as a transform may not become two passes of long sums.
        is_short = max(kernel.shape[2:]) <= LONGEST_PASS or dtype == np.float64 or how.dtype is not None
        w = factors if factors is not None and is_short else w
    if (f.divisor == 1.0 or not transforms) and compute(output, x, fold, w, geometry, dtype, how):
        return
    target = fold.view(output) if output.dtype == dtype and not np.may_share_memory(output, x) else None
    result = run(
        "forward", fold.rank, fold.apply(x.astype(dtype, copy=False)),
        rounded(kernel, dtype), None,
        (geometry.steps, geometry.padding, 0, 1, 1, geometry.mode, "channels_first"), how.precision, how.backend,
        "auto", target, names=("input", "weights"), padding_value=geometry.fill,
    )  # fmt: skip
    if f.divisor != 1.0:
        np.divide(result, f.divisor, out=result)
    if target is None:
        store(output, fold.undo(result, output.shape))


class Geometry(NamedTuple):
    """What a filter's call of the dispatcher depends on, besides dtypes: hashable."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]
    mode: str
    fill: float


@functools.lru_cache(maxsize=4096)
def geometry_of(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], bank: bool, padding: tuple[tuple[int, int], ...],
    steps: tuple[int, ...], mode: str, fill: float,
) -> Geometry:  # fmt: skip
    """Return the geometry of a filter: see `Filter`."""
    kernel, count = (w_shape[1:], w_shape[0]) if bank else (w_shape, 1)
    fold = fold_of(kernel, bank=bank)
    return Geometry(
        fold.shape(x_shape), (count, 1, *fold.pick(kernel, 1)), fold.pick(padding, (0, 0)), fold.pick(steps, 1),
        "zeros" if mode == "valid" else mode, fill,
    )  # fmt: skip


def compute(
    output: Array, x: Array, fold: Fold, w: Array | Factors, geometry: Geometry, dtype: np.dtype[Any], how: How
) -> bool:
    """Run the algorithm that reads `x` and writes `output` in their own dtypes; return whether there is one."""
    if not (x.dtype.isnative and output.dtype.isnative):
        return False
    dtypes = name_of(x.dtype), name_of(dtype), name_of(output.dtype)
    factored = w.described if isinstance(w, Factors) else None
    found = _ready(geometry, dtypes, factored, how.precision, how.backend)
    if found is None:
        return False
    call, module = found
    target = None if np.may_share_memory(output, x) else fold.view(output)
    y = np.empty(call.problem.y_shape, output.dtype, like=output) if target is None else target
    module.run(call, arrays.bare(fold.apply(x)), w, arrays.bare(y), None)
    if target is None:
        output[...] = fold.undo(y, output.shape)
    return True


@functools.lru_cache(maxsize=4096)
def _ready(
    geometry: Geometry, dtypes: tuple[str, str, str], factored: Factored | None, precision: str, backend: str
) -> tuple[Call, ModuleType] | None:
    """Return the call that a filter is and the algorithm that serves it; None where none does.

    `dtypes` are those of the input, the sums and the result.
    """
    source, sums, result = dtypes
    problem = ConvProblem.make(
        geometry.x_shape, geometry.w_shape, stride=geometry.steps, padding=geometry.padding,
        padding_mode=geometry.mode, padding_value=geometry.fill,
    )  # fmt: skip
    other = {} if source == sums == result else {"sums": sums, "result": result}
    call = Call(problem, "forward", source, precision, factored=factored, **other)
    try:
        return call, choose(call, backend)
    except UnsupportedError:
        return None


def is_transform(x: Array, output: Array, geometry: Geometry, how: How, factored: Factored | None = None) -> bool:
    """Whether a filter of many weights on floats would run as a transform: by what "highest" precision rules out.

    The sums that it would have otherwise may be of higher precision, and take their time.
    """
    name = name_of(x.dtype)
    if name not in ("float32", "float64") or x.dtype != output.dtype or how.dtype not in (None, "same", name):
        return False
    found = _ready(geometry, (name,) * 3, factored, how.precision, how.backend)
    if found is None:
        return False
    call, module = found
    exact = dataclasses.replace(call, precision="highest")
    if estimate(exact, how.backend) == math.inf or choose(exact, how.backend) is not module:
        return True
    sums = how.sums(x.dtype, output.dtype, is_long=True).name
    transforms = [
        row.seconds
        for row, other in zip(rows(call, how.backend), rows(exact, how.backend), strict=True)
        if row.seconds is not None and other.seconds is None
    ]
    return sums != name and min(transforms, default=math.inf) < estimate(
        dataclasses.replace(exact, sums=sums, result=name), how.backend
    )


def seconds(x: Array, geometry: Geometry, how: How, factored: Factored | None = None) -> float:
    """Return the estimated seconds of a filter whose sums and result have the dtype of `x`."""
    found = _ready(geometry, (name_of(x.dtype),) * 3, factored, how.precision, how.backend)
    return math.inf if found is None else estimate(found[0], how.backend)


def _factors(
    weights: Array, x: Array, output: Array, geometry: Geometry, dtype: np.dtype[Any], tolerance: float, how: How
) -> Factors | None:
    """Return products of vectors that weights are the sum of, if it is estimated to take less time; else None."""
    is_worth = x.size * weights.size >= _WORTH_DECOMPOSING and min(weights.shape) >= _LEAST_DECOMPOSED
    found = low_rank(weights, dtype, _MOST_TERMS if is_worth else 1, tolerance)
    if found is None or len(found.terms) == 1:
        return found
    dtypes = name_of(x.dtype), name_of(dtype), name_of(output.dtype)
    factored, whole = (
        math.inf if ready is None else estimate(ready[0], how.backend)
        for ready in (_ready(geometry, dtypes, kind, how.precision, how.backend) for kind in (found.described, None))
    )
    return found if factored < whole else None


def rounded(weights: Array, dtype: np.dtype[Any]) -> Array:
    """Return the weights in `dtype`; the largest takes up what rounding changed in their sum.

    The sum is the filter's response to a constant: a Gaussian's must not brighten or darken an image.
    """
    if weights.dtype == dtype:
        return weights
    result = np.array(weights, dtype, order="C")
    # A bank's filters, along the first of the dispatcher's axes, each have a sum of their own.
    count = weights.shape[0] if weights.ndim > 2 else 1
    for rounded_one, exact in zip(result.reshape(count, -1), weights.reshape(count, -1), strict=True):
        change = (exact - rounded_one).sum()
        if change != 0 and np.isfinite(change):
            rounded_one[np.abs(exact).argmax()] += change
    return result


def _complex_into(output: Array, x: Array, f: Filter, cval: Any, how: How) -> None:
    """Correlate real and imaginary parts apart, so that each meets its own part of `cval`, as SciPy does."""
    x = x.copy() if np.may_share_memory(output, x) else x
    real, imaginary = (f._replace(weights=getattr(f.weights, part)) for part in ("real", "imag"))
    correlate_into(output.real, x.real, real, np.real(cval), how)
    if x.dtype.kind != "c":
        correlate_into(output.imag, x, imaginary, cval, how)
        return
    correlate_into(output.imag, x.imag, real, np.imag(cval), how)
    if f.weights.dtype.kind == "c":
        part = np.empty(output.shape, output.real.dtype, like=output)
        correlate_into(part, x.imag, imaginary, np.imag(cval), how)
        output.real -= part
        correlate_into(part, x.real, imaginary, np.real(cval), how)
        output.imag += part


def _by_taps(output: Array, x: Array, f: Filter, cval: Any, how: How) -> None:
    """Correlate along more than three axes: those where the weights are shortest are summed tap by tap."""
    filtered = sorted((axis for axis, k in enumerate(f.kernel) if k > 1), key=lambda axis: f.kernel[axis])
    looped, first = filtered[:-3], int(f.bank)
    sums = np.zeros(output.shape, np.float64, like=output)
    part = np.empty_like(sums)
    steps = tuple(1 if axis in looped else step for axis, step in enumerate(f.steps))
    for taps in itertools.product(*(range(f.kernel[axis]) for axis in looped)):
        source, pick = x, [slice(None)] * f.weights.ndim
        for axis, t in zip(looped, taps, strict=True):
            source = _shifted(source, axis, t - f.padding[axis][0], output.shape[axis + first], f, cval)
            pick[axis + first] = slice(t, t + 1)
        here = f._replace(weights=f.weights[tuple(pick)], steps=steps, divisor=1.0)
        here = here._replace(origins=tuple(0 if axis in looped else shift for axis, shift in enumerate(f.origins)))
        correlate_into(part, source, here, cval, how)
        sums += part
    store(output, sums / f.divisor)


def _shifted(x: Array, axis: int, shift: int, count: int, f: Filter, cval: Any) -> Array:
    """Return the elements of `x` at shift, shift + step ... along an axis, beyond its ends those of the border."""
    code, n = 0 if f.mode == "valid" else MODES.index(f.mode), x.shape[axis]
    places = [source_index(code, i * f.steps[axis] + shift, n) for i in range(count)]
    before = (slice(None),) * axis
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    taken = np.empty(shape, np.float64 if -1 in places else x.dtype, like=x)
    first = 0
    while first < count:
        # Elements the same distance apart are taken at once, and so are those that the border fills.
        end, step = first + 1, places[first + 1] - places[first] if first + 1 < count else 1
        while end < count and places[end] - places[end - 1] == step and (places[end] < 0) == (places[first] < 0):
            end += 1
        run = (*before, slice(first, end))
        if places[first] < 0:
            taken[run] = cval
        else:
            taken[run] = x[(*before, _slice(places[first], step if end > first + 1 else 1, end - first))]
        first = end
    return taken


def _slice(first: int, step: int, count: int) -> slice:
    """Return the slice of `count` elements from `first` on; of one element, to be broadcast, where the step is 0."""
    end = first + step * count
    return slice(first, first + 1) if step == 0 else slice(first, None if end < 0 else end, step)


def store(output: Array, values: Array) -> None:
    """Write floats into `output` as C converts them: integers lose their fraction, unsigned ones wrap around.

    NumPy leaves a negative float's conversion to an unsigned integer to the processor.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if output.dtype.kind == "u":
            magnitude = np.abs(values).astype(np.uint64)
            output[...] = np.where(values < 0, np.uint64(0) - magnitude, magnitude).astype(output.dtype)
        elif output.dtype.kind == "i":
            output[...] = values.astype(np.int64).astype(output.dtype)
        elif output.dtype.kind == "b":
            output[...] = ~(np.abs(values) < 1)
        else:
            np.copyto(output, values, casting="unsafe")
