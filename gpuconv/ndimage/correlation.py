"""Correlation and convolution with weights that the caller gives."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.ndimage.engine import (
    Pass,
    adopt,
    border,
    check_axes,
    check_axis,
    check_cval,
    check_origin,
    correlate_into,
    per_axis,
    prepare_output,
    run_passes,
)
from gpuconv.ndimage.shared_docs import documented

if TYPE_CHECKING:
    from gpuconv.ndimage.engine import Array

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
) -> Array:
    """Correlate an array with weights of the same rank; complex weights are conjugated.

    y[i] = sum over t of x[i + t - k//2 - origin] * conj(weights[t])

    Parameters
    ----------
    <input>
    weights : array_like
        One axis for each of `axes`; longer than 1 along at most three.
    <output>
    <mode>
    origin : int or sequence of int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the left.
    axes : int or tuple of int, optional
        The axes to filter; all by default. The axes of `weights` meet them in increasing order.

    <returns>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.correlate([[1, 2, 3], [4, 5, 6]], [[1, 1], [1, 1]], mode="constant")
    array([[ 1,  3,  5],
           [ 5, 12, 16]])
    """
    return _correlate(input, weights, output, mode, cval, origin, axes, flip=False)


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
) -> Array:
    """Convolve an array with weights of the same rank: `correlate` with the weights reversed along every axis.

    Parameters
    ----------
    <input>
    weights : array_like
        One axis for each of `axes`; longer than 1 along at most three.
    <output>
    <mode>
    origin : int or sequence of int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the right.
    axes : int or tuple of int, optional
        The axes to filter; all by default. The axes of `weights` meet them in increasing order.

    <returns>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.convolve([0, 0, 1, 0, 0], [1, 2, 3])
    array([0, 1, 2, 3, 0])
    """
    return _correlate(input, weights, output, mode, cval, origin, axes, flip=True)


def _weights(weights: Any) -> Array:
    array = adopt(weights)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)


def _correlate(
    input: Any, weights: Any, output: Any, mode: str, cval: Any, origin: Any, axes: Any, *, flip: bool
) -> Array:
    x, w = adopt(input), _weights(weights)
    check_cval(cval, x)
    axes = check_axes(axes, x.ndim)
    if w.ndim != len(axes):
        raise RuntimeError(f"weights.ndim ({w.ndim}) must match len(axes) ({len(axes)})")
    if not w.size:
        raise RuntimeError(f"weights has shape {w.shape}; it must have at least one element along every axis")
    origins = per_axis("origin", origin, len(axes))
    if w.ndim < x.ndim:
        # As in SciPy, the axes of the weights go to the filtered axes in increasing order, the origins in their own.
        origins = [shift for _, shift in sorted(zip(axes, origins, strict=True))]
        axes = tuple(sorted(axes))
    else:
        axes = tuple(range(x.ndim))
    w, origins = _flipped(w, origins) if flip else (w.conj(), origins)
    origins = [check_origin(shift, k) for shift, k in zip(origins, w.shape, strict=True)]
    name = border(mode)
    result = prepare_output(output, x, is_complex="c" in (x.dtype.kind, w.dtype.kind))
    w = np.expand_dims(w, tuple(axis for axis in range(x.ndim) if axis not in axes))
    shifts = [0] * x.ndim
    for axis, shift in zip(axes, origins, strict=True):
        shifts[axis] = shift
    correlate_into(result, x, w, shifts, name, cval)
    return result


def _flipped(w: Array, origins: Sequence[int]) -> tuple[Array, list[int]]:
    """Return the weights and origins of the correlation that a convolution is: an even kernel's centre moves by one."""
    shifts = [-shift - (k % 2 == 0) for shift, k in zip(origins, w.shape, strict=True)]
    return np.flip(w), shifts


@documented
def correlate1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
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

    <returns>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.correlate1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    return _correlate1d(input, weights, axis, output, mode, cval, origin, flip=False)


@documented
def convolve1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
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

    <returns>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.convolve1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([14, 24,  4, 13, 12, 36, 27,  0])
    """
    return _correlate1d(input, weights, axis, output, mode, cval, origin, flip=True)


def _correlate1d(
    input: Any, weights: Any, axis: int, output: Any, mode: str, cval: Any, origin: Any, *, flip: bool
) -> Array:
    x, w = adopt(input), _weights(weights)
    check_cval(cval, x)
    if w.ndim != 1 or not w.size:
        raise RuntimeError(f"no filter weights given: weights has shape {w.shape}; it must have one axis, not empty")
    axis = check_axis(axis, x.ndim)
    w, (shift,) = _flipped(w, [operator.index(origin)]) if flip else (w.conj(), [origin])
    step = Pass(axis, w, border(mode), check_origin(shift, w.size))
    result = prepare_output(output, x, is_complex="c" in (x.dtype.kind, w.dtype.kind))
    return run_passes(x, [step], cval, result)
