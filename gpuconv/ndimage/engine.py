"""How one correlation of SciPy's becomes a call of the dispatcher: borders, folded axes, dtypes, complex parts.

`gpuconv.ndimage` has the names and signatures; every filter there ends in `correlate_into` here, and what it settles
before it reads an element is in `gpuconv.ndimage.ready`.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import arrays
from gpuconv.api import run
from gpuconv.boundary import MODES, source_index
from gpuconv.ndimage.ready import Filter, Ready, kept, ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.ndimage.precision import How

    Array = NDArray[Any]

__all__ = ["compute", "correlate_into", "store"]

_WIDE = 4
"""How many times the kernel a row is at least, for its ends to be filtered apart."""


def correlate_into(output: Array, x: Array, f: Filter, cval: Any, how: How) -> None:
    """Write the correlation of `x` with a filter into `output`, which has the filter's shape and may overlap `x`."""
    if not output.size:
        return
    if any(step > 1 and k == 1 for k, step in zip(f.kernel, f.steps, strict=True)):
        # Where a filter has one weight it passes over elements of the input, not of the result.
        x = x[tuple(slice(None, None, step if k == 1 else 1) for k, step in zip(f.kernel, f.steps, strict=True))]
        f = f.replace(steps=tuple(1 if k == 1 else step for k, step in zip(f.kernel, f.steps, strict=True)))
    if x.dtype.kind == "c" or f.is_complex:
        _complex_into(output, x, f, cval, how)
        return
    if output.dtype.kind == "b":
        numbers = np.empty(output.shape, np.uint8, like=output)
        correlate_into(numbers, x, f, cval, how)
        output[...] = numbers != 0
        return
    if not output.dtype.isnative:
        native = np.empty(output.shape, output.dtype.newbyteorder("="), like=output)
        correlate_into(native, x, f, cval, how)
        output[...] = native
        return
    x = x.view(np.uint8) if x.dtype.kind == "b" else x
    if sum(k > 1 for k in f.kernel) > 3:
        _by_taps(output, x, f, cval, how)
        return
    found = ready(f, x.shape, x.dtype, output.dtype, float(cval) if f.mode == "zeros" else 0.0, how)
    knows_pixels = found.factored is not None and found.factored.pixel == found.fold.pixel
    if found.fold.pixel > 1 and f.mode != "zeros" and any(found.geometry.padding[-1]) and not knows_pixels:
        _ends_apart(output, x, f, cval, how)
    else:
        compute(output, x, found, how)


def compute(output: Array, x: Array, found: Ready, how: How) -> None:
    """Run what is ready for a filter."""
    fold, overlaps = found.fold, np.may_share_memory(output, x)
    if found.chosen is not None:
        call, module = found.chosen
        target = None if overlaps else fold.view(output)
        y = np.empty(call.problem.y_shape, output.dtype, like=output) if target is None else target
        module.run(call, arrays.bare(fold.apply(x)), found.w, arrays.bare(y), None, found.packed)
        if found.otherwise is not None and not _is_finite(y):
            compute(output, x, found.otherwise, how)
            return
        if target is None:
            output[...] = fold.undo(y, output.shape)
        return
    target = fold.view(output) if output.dtype == found.sums and not overlaps else None
    geometry = found.geometry
    result = run(
        "forward", fold.rank, fold.apply(x.astype(found.sums, copy=False)), found.w, None,
        (geometry.steps, geometry.padding, 0, geometry.dilation, 1, geometry.mode, "channels_first"), found.precision,
        how.backend, "auto", target, names=("input", "weights"), padding_value=geometry.fill,
    )  # fmt: skip
    if found.divisor != 1.0:
        np.divide(result, found.divisor, out=result)
    if target is None:
        store(output, fold.undo(result, output.shape))


def _is_finite(y: Array) -> bool:
    """Whether all elements are finite; False too where their sum is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(y.sum()))


def _ends_apart(output: Array, x: Array, f: Filter, cval: Any, how: How) -> None:
    """Correlate rows of pixels: where the filter reaches beyond a row, with the pixels that stand there copied to it.

    Only `separable` knows a border of pixels, whose elements keep their order where the pixels are reversed.
    """
    axis = max(axis for axis, k in enumerate(f.kernel) if k > 1)
    (before, after), n, bare = f.padding[axis], x.shape[axis], _bare(f, axis)
    reach = before + after
    x = x.copy() if np.may_share_memory(output, x) else x
    if n < _WIDE * (reach + 1):
        correlate_into(output, np.take(x, _places(f.mode, n, -before, n + after), axis), bare, cval, how)
        return
    along = (slice(None),) * (axis + f.bank)
    correlate_into(output[(*along, slice(before, n - after))], x, bare, cval, how)
    # The ends of a row, one beside the other: what lies between their results belongs to neither.
    places = (*_places(f.mode, n, -before, reach), *_places(f.mode, n, n - reach, n + after))
    shape = list(output.shape)
    shape[axis + f.bank] = 2 * reach
    ends = np.empty(shape, output.dtype, like=output)
    correlate_into(ends, np.take(x, places, axis), bare, cval, how)
    output[(*along, slice(None, before))] = ends[(*along, slice(None, before))]
    output[(*along, slice(n - after, None))] = ends[(*along, slice(2 * reach - after, None))]


@kept
def _bare(f: Filter, axis: int) -> Filter:
    """Return a filter without its border along one axis."""
    return f.replace(bare=(axis,))


@functools.lru_cache(maxsize=256)
def _places(mode: str, n: int, first: int, end: int) -> tuple[int, ...]:
    """Return the elements of an axis of n that stand at places from `first` on."""
    return tuple(source_index(MODES.index(mode), i, n) for i in range(first, end))


def _complex_into(output: Array, x: Array, f: Filter, cval: Any, how: How) -> None:
    """Correlate real and imaginary parts apart, so that each meets its own part of `cval`, as SciPy does."""
    x = x.copy() if np.may_share_memory(output, x) else x
    if not f.is_complex:
        correlate_into(output.real, x.real, f, np.real(cval), how)
        correlate_into(output.imag, x.imag, f, np.imag(cval), how)
        return
    real, imaginary = (f.replace(given=getattr(f.weights, part)) for part in ("real", "imag"))
    correlate_into(output.real, x.real, real, np.real(cval), how)
    if x.dtype.kind != "c":
        correlate_into(output.imag, x, imaginary, cval, how)
        return
    correlate_into(output.imag, x.imag, real, np.imag(cval), how)
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
        origins = tuple(0 if axis in looped else shift for axis, shift in enumerate(f.origins))
        here = f.replace(given=f.weights[tuple(pick)], origins=origins, steps=steps, divisors=())
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
