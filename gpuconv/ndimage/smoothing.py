"""Gaussian filters, their derivatives, and means over boxes."""

from __future__ import annotations

import functools
import numbers
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.dtypes import name_of
from gpuconv.ndimage.arguments import (
    adopt,
    border,
    check_axes,
    check_axis,
    check_centred,
    check_origin,
    check_steps,
    per_axis,
)
from gpuconv.ndimage.passes import Pass, Passes
from gpuconv.ndimage.precision import How
from gpuconv.ndimage.ready import remembered
from gpuconv.ndimage.separable import filter_passes
from gpuconv.ndimage.shared_docs import documented

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "gaussian_filter",
    "gaussian_filter1d",
    "gaussian_pass",
    "gaussian_weights",
    "uniform_filter",
    "uniform_filter1d",
]

_MOST_KEPT = 512
"""Largest radius and size whose weights are kept for the next call."""


def gaussian_weights(sigma: float, order: int, radius: int) -> Array:
    """Return a sampled Gaussian of 2*radius + 1 weights and sum 1, or its derivative, as a correlation's weights.

    A derivative is the Gaussian times a polynomial q, and differentiating that gives (q' - q*x/sigma**2) times it.
    """
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    weights /= weights.sum()
    q = np.polynomial.Polynomial([1.0])
    for _ in range(order):
        q = q.deriv() - q * np.polynomial.Polynomial([0.0, 1.0 / sigma**2])
    return (q(x) * weights)[::-1]


def gaussian_pass(axis: int, sigma: Any, order: Any, mode: str, truncate: float, radius: Any, step: int = 1) -> Pass:
    """Return the pass of a Gaussian, or of a derivative of one, along an axis."""
    reach = int(truncate * float(sigma) + 0.5) if radius is None else radius
    if not isinstance(reach, numbers.Integral) or reach < 0:
        raise ValueError(f"radius={reach!r}: Radius must be a nonnegative integer.")
    if order < 0:
        raise ValueError(f"order={order!r}: order must be non-negative")
    make = _kept_gaussian if reach <= _MOST_KEPT else _kept_gaussian.__wrapped__
    return make(axis, float(sigma), operator.index(order), mode, int(reach), step)


@functools.lru_cache(maxsize=256)
def _kept_gaussian(axis: int, sigma: float, order: int, mode: str, radius: int, step: int) -> Pass:
    return Pass(axis, gaussian_weights(sigma, order, radius), mode, step=step)


@documented
def gaussian_filter1d(
    input: Any,
    sigma: float,
    axis: int = -1,
    order: int = 0,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | None = None,
    step: int = 1,
    nan: str | None = None,
    mask: Any = None,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Filter an array along one axis with a Gaussian or a derivative of one.

    Parameters
    ----------
    <input>
    sigma : float
        The Gaussian's standard deviation.
    axis : int
    order : int
        Which derivative; 0 for the Gaussian itself.
    <output>
    <mode>
    truncate : float
        The weights reach round(truncate * sigma) elements to each side.
    radius : int, optional
        How far they reach, in place of `truncate`.
    step : int
        Distance between outputs along the axis, in elements of the input.
    <missing>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> from gpuconv import ndimage
    >>> ndimage.gaussian_filter1d([1.0, 2.0, 3.0, 4.0, 5.0], 1).round(6)
    array([1.427041, 2.067822, 3.      , 3.932178, 4.572959])
    """
    x, how = adopt(input), How.make(input, dtype, precision, backend)
    (stride,) = check_steps(step, 1)
    single = gaussian_pass(check_axis(axis, x.ndim), sigma, order, border(mode), truncate, radius, stride)
    return filter_passes(input, x, Passes([single]), output, cval, nan, mask, how, out, promotes=4)


@documented
def gaussian_filter(
    input: Any,
    sigma: Any,
    order: Any = 0,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    truncate: float = 4.0,
    *,
    radius: Any = None,
    axes: Any = None,
    step: Any = 1,
    nan: str | None = None,
    mask: Any = None,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Filter an array with a Gaussian or its derivatives, one axis after the other.

    Parameters
    ----------
    <input>
    sigma : float or sequence of float
        Standard deviations; an axis with 0 is not filtered.
    order : int or sequence of int
        Which derivative along each axis; 0 for the Gaussian itself.
    <output>
    <modes>
    truncate : float
        The weights reach round(truncate * sigma) elements to each side.
    radius : int or sequence of int, optional
        How far they reach, in place of `truncate`.
    <axes>
    step : int or sequence of int
        Distance between outputs, in elements of the input: ``step=2`` halves an image, filtering only what it keeps.
    <missing>
    <how>

    <returns>

    <raises>
    RuntimeError
        For float16 and bfloat16, as in SciPy, unless ``dtype="same"``.

    Notes
    -----
    Between two axes the values have the output's dtype, as in SciPy: for integers ask for a floating `output`.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.gaussian_filter(np.eye(3), 1).round(3)
    array([[0.502, 0.329, 0.168],
           [0.329, 0.342, 0.329],
           [0.168, 0.329, 0.502]])
    """
    x, how = adopt(input), How.make(input, dtype, precision, backend)
    if name_of(x.dtype) in ("float16", "bfloat16") and how.dtype is None:
        # SciPy's own tests hold this function to it.
        raise RuntimeError(f"input has dtype {name_of(x.dtype)}, which is taken with dtype='same' only")
    passes = _gaussian_passes(x.ndim, sigma, order, mode, truncate, radius, axes, step)
    return filter_passes(input, x, passes, output, cval, nan, mask, how, out)


@remembered
def _gaussian_passes(
    ndim: int, sigma: Any, order: Any, mode: Any, truncate: float, radius: Any, axes: Any, step: Any
) -> Passes:
    axes = check_axes(axes, ndim)
    count = len(axes)
    columns = (
        per_axis("sigma", sigma, count),
        per_axis("order", order, count),
        per_axis("mode", mode, count),
        per_axis("radius", radius, count),
        check_steps(step, count),
    )
    return Passes(
        [
            gaussian_pass(axis, width, derivative, border(name), truncate, reach, stride)
            if width > 1e-15
            else Pass(axis, np.ones(1), border(name), step=stride)
            for axis, width, derivative, name, reach, stride in zip(axes, *columns, strict=True)
            if width > 1e-15 or stride > 1
        ]
    )


@documented
def uniform_filter1d(
    input: Any,
    size: int,
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
    """Replace each element by the mean of `size` elements along one axis.

    Parameters
    ----------
    <input>
    size : int
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
    >>> ndimage.uniform_filter1d([2, 8, 0, 4, 1, 9, 9, 0], size=3)
    array([4, 3, 4, 1, 4, 6, 6, 3])
    """
    x, how = adopt(input), How.make(input, dtype, precision, backend)
    (stride,) = check_steps(step, 1)
    single = _uniform_pass(check_axis(axis, x.ndim), operator.index(size), border(mode), origin, stride)
    return filter_passes(input, x, Passes([single]), output, cval, nan, mask, how, out, promotes=4)


def _uniform_pass(axis: int, size: int, mode: str, origin: Any, step: int) -> Pass:
    if size < 1:
        raise RuntimeError(f"size={size}: incorrect filter size; it must be at least 1")
    check_centred(mode, origin)
    make = _kept_mean if size <= _MOST_KEPT else _kept_mean.__wrapped__
    return make(axis, size, mode, check_origin(origin, size), step)


@functools.lru_cache(maxsize=256)
def _kept_mean(axis: int, size: int, mode: str, origin: int, step: int) -> Pass:
    # Sums of integers are exact, and so are the means that are integers; weights of 1/size would fall short of them.
    return Pass(axis, np.ones(size), mode, origin, float(size), step)


@documented
def uniform_filter(
    input: Any,
    size: Any = 3,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
    step: Any = 1,
    nan: str | None = None,
    mask: Any = None,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Replace each element by the mean of a box, one axis after the other.

    Parameters
    ----------
    <input>
    size : int or sequence of int
        The box; an axis with 1 is not filtered.
    <output>
    <modes>
    origin : int or sequence of int
        Shifts the filter: 0 centres it over the pixel, positive values move it to the left.
    <axes>
    step : int or sequence of int
        Distance between outputs, in elements of the input.
    <missing>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.uniform_filter(9 * np.eye(3), 3)
    array([[5., 3., 1.],
           [3., 3., 3.],
           [1., 3., 5.]])
    """
    x, how = adopt(input), How.make(input, dtype, precision, backend)
    passes = _uniform_passes(x.ndim, size, mode, origin, axes, step)
    return filter_passes(input, x, passes, output, cval, nan, mask, how, out, promotes=4)


@remembered
def _uniform_passes(ndim: int, size: Any, mode: Any, origin: Any, axes: Any, step: Any) -> Passes:
    axes = check_axes(axes, ndim)
    count = len(axes)
    columns = (
        per_axis("size", size, count),
        per_axis("mode", mode, count),
        per_axis("origin", origin, count),
        check_steps(step, count),
    )
    return Passes(
        [
            _uniform_pass(axis, max(int(k), 1), border(name), shift if k > 1 else 0, stride)
            for axis, k, name, shift, stride in zip(axes, *columns, strict=True)
            if k > 1 or stride > 1
        ]
    )
