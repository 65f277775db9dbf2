"""Edges: differences along axes, smoothed along the others or combined to magnitudes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import arrays
from gpuconv.ndimage.arguments import (
    adopt,
    border,
    check_axes,
    check_axis,
    finish,
    per_axis,
    prepare_output,
)
from gpuconv.ndimage.passes import Pass, Passes
from gpuconv.ndimage.precision import How
from gpuconv.ndimage.ready import remembered
from gpuconv.ndimage.separable import filter_passes
from gpuconv.ndimage.shared_docs import documented
from gpuconv.ndimage.smoothing import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "gaussian_derivative",
    "gaussian_gradient_magnitude",
    "generic_gradient_magnitude",
    "prepared",
    "prewitt",
    "sobel",
]


@documented
def prewitt(
    input: Any,
    axis: int = -1,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    *,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Take the difference along one axis and the sum of three elements along every other: Prewitt's filter.

    Parameters
    ----------
    <input>
    axis : int
    <output>
    <modes>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.prewitt(np.arange(9.0).reshape(3, 3), axis=0)
    array([[ 9.,  9.,  9.],
           [18., 18., 18.],
           [ 9.,  9.,  9.]])
    """
    how = How.make(input, dtype, precision, backend)
    return _edge(input, axis, output, mode, cval, 1.0, how, out)


@documented
def sobel(
    input: Any,
    axis: int = -1,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    *,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Take the difference along one axis and smooth by 1, 2, 1 along every other: Sobel's filter.

    Parameters
    ----------
    <input>
    axis : int
    <output>
    <modes>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.sobel(np.arange(9.0).reshape(3, 3))
    array([[4., 8., 4.],
           [4., 8., 4.],
           [4., 8., 4.]])
    """
    how = How.make(input, dtype, precision, backend)
    return _edge(input, axis, output, mode, cval, 2.0, how, out)


def _edge(input: Any, axis: int, output: Any, mode: Any, cval: Any, middle: float, how: How, out: Any) -> Array:
    x = adopt(input)
    passes = _edge_passes(x.ndim, axis, mode, middle)
    return filter_passes(input, x, passes, output, cval, None, None, how, out)


@remembered
def _edge_passes(ndim: int, axis: int, mode: Any, middle: float) -> Passes:
    axis = check_axis(axis, ndim)
    modes = [border(name) for name in per_axis("mode", mode, ndim)]
    passes = [Pass(axis, np.array([-1.0, 0.0, 1.0]), modes[axis])]
    smoothing = np.array([1.0, middle, 1.0])
    return Passes(passes + [Pass(other, smoothing, modes[other]) for other in range(ndim) if other != axis])


@documented
def generic_gradient_magnitude(
    input: Any,
    derivative: Callable[..., Any],
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    extra_arguments: tuple[Any, ...] = (),
    extra_keywords: dict[str, Any] | None = None,
    *,
    axes: Any = None,
    out: Any = None,
) -> Array:
    """Take the root of the sum of a first derivative's squares over the axes.

    Parameters
    ----------
    <input>
    derivative : callable
        Called as ``derivative(input, axis, output, mode, cval, *extra_arguments, **extra_keywords)``; it writes
        `output`, or returns an array, which is then changed, if that is a dtype.
    <output>
    <modes>
    extra_arguments : tuple
    extra_keywords : dict, optional
    <axes>
    out : array, optional
        Written and returned, in place of `output`.

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.generic_gradient_magnitude(np.eye(3), ndimage.sobel).round(2)
    array([[2.83, 3.16, 1.41],
           [3.16, 0.  , 3.16],
           [1.41, 3.16, 2.83]])
    """
    x, result, axes, modes = prepared(input, output, mode, axes, out)
    keywords = extra_keywords or {}
    if not axes:
        result[...] = x
        return finish(result, output, out, input)
    for axis, name in zip(axes, modes, strict=True):
        if axis == axes[0]:
            derivative(arrays.shown(x), axis, arrays.shown(result), name, cval, *extra_arguments, **keywords)
            np.multiply(result, result, out=result)
        else:
            found = derivative(arrays.shown(x), axis, result.dtype, name, cval, *extra_arguments, **keywords)
            part = arrays.workable(found)
            result += np.multiply(part, part, out=part)
    np.sqrt(result, out=result, casting="unsafe")
    return finish(result, output, out, input)


def prepared(
    input: Any, output: Any, mode: Any, axes: Any, out: Any
) -> tuple[Array, Array, tuple[int, ...], list[Any]]:
    """Return the input, an output that does not overlap it, the axes and their modes."""
    x = adopt(input)
    axes = check_axes(axes, x.ndim)
    modes = per_axis("mode", mode, len(axes))
    if "valid" in modes:
        raise ValueError(f"mode={mode!r}: the 'valid' results along different axes differ in shape; name a border")
    result = prepare_output(output, x, x.shape, is_complex=x.dtype.kind == "c", out=out)
    return (x.copy() if np.may_share_memory(x, result) else x), result, axes, modes


@documented
def gaussian_gradient_magnitude(
    input: Any,
    sigma: Any,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    *,
    axes: Any = None,
    out: Any = None,
    **kwargs: Any,
) -> Array:
    """Take the magnitude of the gradient by a Gaussian's first derivatives.

    Parameters
    ----------
    <input>
    sigma : float or sequence of float
        Standard deviations along all axes of the input, as in SciPy: `axes` does not keep the others unsmoothed.
    <output>
    <modes>
    <axes>
    out : array, optional
        Written and returned, in place of `output`.
    **kwargs
        Passed to `gaussian_filter`: `truncate`, `radius`, `dtype`, `precision`, `backend`.

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.gaussian_gradient_magnitude(np.eye(3), 1).round(2)
    array([[0.15, 0.2 , 0.13],
           [0.2 , 0.  , 0.2 ],
           [0.13, 0.2 , 0.15]])
    """
    first = functools.partial(gaussian_derivative, derivative=1)
    return generic_gradient_magnitude(input, first, output, mode, cval, (sigma,), kwargs, axes=axes, out=out)


def gaussian_derivative(
    input: Any, axis: int, output: Any, mode: Any, cval: Any, sigma: Any, *, derivative: int, **kwargs: Any
) -> Array:
    """Filter with a Gaussian of which a derivative is taken along one axis."""
    order = [0] * adopt(input).ndim
    order[axis] = derivative
    return gaussian_filter(input, sigma, order, output, mode, cval, **kwargs)
