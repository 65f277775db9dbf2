"""Correlation and convolution with weights that the caller gives."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.ndimage.arguments import (
    adopt,
    border,
    check_axes,
    check_axis,
    check_centred,
    check_cval,
    check_origin,
    check_steps,
    finish,
    per_axis,
    prepare_output,
)
from gpuconv.ndimage.engine import correlate_into
from gpuconv.ndimage.missing import check_missing, present, run_present
from gpuconv.ndimage.passes import Pass, Passes
from gpuconv.ndimage.precision import How
from gpuconv.ndimage.ready import Filter, remembered
from gpuconv.ndimage.separable import filter_passes
from gpuconv.ndimage.shared_docs import documented

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["convolve", "convolve1d", "correlate", "correlate1d"]


@documented
def correlate(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
    step: Any = 1,
    bank: bool = False,
    nan: str | None = None,
    mask: Any = None,
    tolerance: float = 0.0,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Correlate an array with weights of the same rank; complex weights are conjugated.

    y[i] = sum over t of x[i*step + t - k//2 - origin] * conj(weights[t])

    Parameters
    ----------
    <input>
    weights : array_like
        One axis for each of `axes`; fastest where at most three are longer than 1.
    <output>
    <mode>
    origin : int or sequence of int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the left.
    axes : int or tuple of int, optional
        The axes to filter; all by default. The axes of `weights` meet them in increasing order.
    step : int or sequence of int
        Distance between outputs, in elements of the input; one for all of `axes` or one for each.
    bank : bool
        Whether `weights` are many filters at once, along one axis before the others. The result has that axis too,
        before those of `input`.
    tolerance : float
        How much the weights of an image's filter may be changed, in sum and relative to their own, where that makes
        them a sum of few products of two vectors and the filter fast: no result then differs by more than `tolerance`
        times the sum of the weights' magnitudes times the largest magnitude of `input`. Weights that are such a sum
        as they are need none.
    <missing>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.correlate([[1, 2, 3], [4, 5, 6]], [[1, 1], [1, 1]], mode="constant")
    array([[ 1,  3,  5],
           [ 5, 12, 16]])
    >>> ndimage.correlate([1, 2, 4, 8, 16], [[-1, 0, 1], [1, 1, 1]], mode="valid", bank=True)
    array([[ 3,  6, 12],
           [ 7, 14, 28]])
    """
    how = How.make(input, dtype, precision, backend, weights)
    return _correlate(
        input, weights, output, mode, cval, origin, axes, step, bank, tolerance, nan, mask, how, out, flip=False
    )  # fmt: skip


@documented
def convolve(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
    step: Any = 1,
    bank: bool = False,
    nan: str | None = None,
    mask: Any = None,
    tolerance: float = 0.0,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Convolve an array with weights of the same rank: `correlate` with the weights reversed along every axis.

    Parameters
    ----------
    <input>
    weights : array_like
        One axis for each of `axes`; fastest where at most three are longer than 1.
    <output>
    <mode>
    origin : int or sequence of int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the right.
    axes : int or tuple of int, optional
        The axes to filter; all by default. The axes of `weights` meet them in increasing order.
    step, bank, tolerance
        As for `correlate`.
    <missing>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.convolve([0, 0, 1, 0, 0], [1, 2, 3])
    array([0, 1, 2, 3, 0])
    >>> ndimage.convolve([1.0, np.nan, 3.0, 4.0], [0.25, 0.5, 0.25], nan="interpolate")
    array([1.        , 2.        , 3.33333333, 3.75      ])
    """
    how = How.make(input, dtype, precision, backend, weights)
    return _correlate(
        input, weights, output, mode, cval, origin, axes, step, bank, tolerance, nan, mask, how, out, flip=True
    )  # fmt: skip


def _weights(weights: Any) -> Array:
    array: Any = adopt(weights)
    if not isinstance(array, np.ndarray):
        # Weights are few, and looked at: a GPU's come to the host.
        array = array.get()
    wide: Array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)
    return wide


def _correlate(
    input: Any, weights: Any, output: Any, mode: str, cval: Any, origin: Any, axes: Any, step: Any, bank: bool,
    tolerance: float, nan: str | None, mask: Any, how: How, out: Any, *, flip: bool,
) -> Array:  # fmt: skip
    x, w = adopt(input), _weights(weights)
    check_cval(cval, x, w)
    f = _filter_of(x.ndim, w, mode, origin, axes, step, bank, tolerance, flip)
    w = f.weights
    along = tuple(range(int(bank), w.ndim))
    mask = check_missing(nan, mask, x, lambda: (w.sum(along), np.abs(w).sum(along)))
    is_complex = "c" in (x.dtype.kind, w.dtype.kind)
    result = prepare_output(output, x, f.shape(x.shape), is_complex=is_complex, promotes=4, out=out)
    there = present(x, nan, mask, cval)
    if there is None:
        correlate_into(result, x, f, cval, how)
    else:
        total = w.sum(along, keepdims=True)
        run_present(x, there, total, nan, cval, result, how, lambda a, y, c, h: correlate_into(y, a, f, c, h))
    return finish(result, output, out, input)


@remembered
def _filter_of(
    ndim: int, w: Array, mode: str, origin: Any, axes: Any, step: Any, bank: bool, tolerance: float, flip: bool
) -> Filter:
    axes = check_axes(axes, ndim)
    if w.ndim - bank != len(axes):
        more = "; with bank=True weights have one axis more" if bank or w.ndim == len(axes) + 1 else ""
        raise RuntimeError(f"weights.ndim ({w.ndim}) must match len(axes) ({len(axes)}){more}")
    if not w.size:
        raise RuntimeError(f"weights has shape {w.shape}; it must have at least one element along every axis")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} must be at least 0 and less than 1")
    name = border(mode)
    check_centred(name, origin)
    origins, steps = per_axis("origin", origin, len(axes)), check_steps(step, len(axes))
    # As in SciPy, the axes of the weights go to the filtered axes in increasing order, origins and steps to their own;
    # but where all are filtered, in the order of the axes.
    if len(axes) == ndim:
        axes = tuple(range(ndim))
    ordered = sorted(zip(axes, origins, steps, strict=True))
    kernel = w.shape[bank:]
    shifts, strides, sizes = [0] * ndim, [1] * ndim, [1] * ndim
    for (axis, shift, stride), k in zip(ordered, kernel, strict=True):
        shifts[axis], strides[axis], sizes[axis] = operator.index(shift), stride, k
    w = w.reshape(w.shape[0], *sizes) if bank else w.reshape(sizes)
    if flip:
        w, shifts = _flipped(w, shifts, bank=bank)
    else:
        w = w.conj()
    origins = [check_origin(shift, k) for shift, k in zip(shifts, sizes, strict=True)]
    return Filter(np.array(w), tuple(origins), tuple(strides), name, bank=bank, tolerance=tolerance)


def _flipped(w: Array, origins: Sequence[int], *, bank: bool = False) -> tuple[Array, list[int]]:
    """Return the weights and origins of the correlation that a convolution is: an even kernel's centre moves by one."""
    sizes = w.shape[bank:]
    shifts = [-shift - (k % 2 == 0) for shift, k in zip(origins, sizes, strict=True)]
    return np.flip(w, tuple(range(int(bank), w.ndim))), shifts


@documented
def correlate1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
    *,
    step: int = 1,
    nan: str | None = None,
    mask: Any = None,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Correlate an array along one axis; complex weights are conjugated.

    Parameters
    ----------
    <input>
    weights : array_like
        One axis.
    axis : int
    <output>
    <mode>
    origin : int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the left.
    step : int
        Distance between outputs along the axis, in elements of the input.
    <missing>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.correlate1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    how = How.make(input, dtype, precision, backend, weights)
    return _correlate1d(input, weights, axis, output, mode, cval, origin, step, nan, mask, how, out, flip=False)


@documented
def convolve1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
    *,
    step: int = 1,
    nan: str | None = None,
    mask: Any = None,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Convolve an array along one axis.

    Parameters
    ----------
    <input>
    weights : array_like
        One axis.
    axis : int
    <output>
    <mode>
    origin : int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the right.
    step : int
        Distance between outputs along the axis, in elements of the input.
    <missing>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.convolve1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([14, 24,  4, 13, 12, 36, 27,  0])
    """
    how = How.make(input, dtype, precision, backend, weights)
    return _correlate1d(input, weights, axis, output, mode, cval, origin, step, nan, mask, how, out, flip=True)


def _correlate1d(
    input: Any, weights: Any, axis: int, output: Any, mode: str, cval: Any, origin: Any, step: int, nan: str | None,
    mask: Any, how: How, out: Any, *, flip: bool,
) -> Array:  # fmt: skip
    x, w = adopt(input), _weights(weights)
    check_cval(cval, x, w)
    if w.ndim != 1 or not w.size:
        raise RuntimeError(f"no filter weights given: weights has shape {w.shape}; it must have one axis, not empty")
    axis = check_axis(axis, x.ndim)
    name = border(mode)
    check_centred(name, origin)
    w, (shift,) = _flipped(w, [operator.index(origin)]) if flip else (w.conj(), [origin])
    (stride,) = check_steps(step, 1)
    single = Pass(axis, np.array(w), name, check_origin(shift, w.size), step=stride)
    return filter_passes(input, x, Passes([single]), output, cval, nan, mask, how, out, promotes=5)
