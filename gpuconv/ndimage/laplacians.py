"""Second derivatives, summed over the axes: of the array itself, of a smoothed one, or whatever a caller gives."""

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
    finish,
    per_axis,
)
from gpuconv.ndimage.correlation import correlate1d
from gpuconv.ndimage.derivatives import gaussian_derivative, prepared
from gpuconv.ndimage.passes import Pass, Passes, run_sum
from gpuconv.ndimage.precision import How
from gpuconv.ndimage.shared_docs import documented
from gpuconv.ndimage.smoothing import gaussian_pass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["gaussian_laplace", "generic_laplace", "laplace"]


@documented
def generic_laplace(
    input: Any,
    derivative2: Callable[..., Any],
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    extra_arguments: tuple[Any, ...] = (),
    extra_keywords: dict[str, Any] | None = None,
    *,
    axes: Any = None,
    out: Any = None,
) -> Array:
    """Sum a second derivative over the axes.

    Parameters
    ----------
    <input>
    derivative2 : callable
        Called as ``derivative2(input, axis, output, mode, cval, *extra_arguments, **extra_keywords)``; it writes
        `output`, or returns an array if that is a dtype.
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
    >>> def second(input, axis, output, mode, cval):
    ...     return ndimage.correlate1d(input, [1, -2, 1], axis, output, mode, cval)
    >>> ndimage.generic_laplace(np.array([0.0, 1.0, 4.0, 9.0, 16.0]), second)
    array([ 1.,  2.,  2.,  2., -7.])
    """
    x, result, axes, modes = prepared(input, output, mode, axes, out)
    keywords = extra_keywords or {}
    _sum_over_axes(x, result, axes, modes, functools.partial(derivative2, **keywords), cval, extra_arguments)
    return finish(result, output, out, input)


def _sum_over_axes(
    x: Array, result: Array, axes: tuple[int, ...], modes: list[Any], derivative2: Callable[..., Any], cval: Any,
    arguments: tuple[Any, ...],
) -> None:  # fmt: skip
    if not axes:
        result[...] = x
    for axis, name in zip(axes, modes, strict=True):
        if axis == axes[0]:
            derivative2(arrays.shown(x), axis, arrays.shown(result), name, cval, *arguments)
        else:
            part = derivative2(arrays.shown(x), axis, result.dtype, name, cval, *arguments)
            result += arrays.workable(part)


@documented
def laplace(
    input: Any,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    *,
    axes: Any = None,
    dtype: Any = None,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Array:
    """Sum the second differences along the axes.

    Parameters
    ----------
    <input>
    <output>
    <modes>
    <axes>
    <how>

    <returns>

    <raises>

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import ndimage
    >>> ndimage.laplace(np.eye(3))
    array([[-2.,  2.,  0.],
           [ 2., -4.,  2.],
           [ 0.,  2., -2.]])
    """
    how = How.make(input, dtype, precision, backend)
    x, result, axes, modes = prepared(input, output, mode, axes, out)
    terms = _difference_terms(tuple(axes), tuple(border(name) for name in modes))
    if len(axes) != 2 or not run_sum(x, terms, cval, result, how):
        second = functools.partial(_second_difference, dtype=dtype, precision=precision, backend=backend)
        _sum_over_axes(x, result, axes, modes, second, cval, ())
    return finish(result, output, out, input)


@functools.lru_cache(maxsize=64)
def _difference_terms(axes: tuple[int, ...], borders: tuple[str, ...]) -> tuple[Passes, ...]:
    return tuple(
        Passes([Pass(axis, _DIFFERENCE if axis == of else _ITSELF, name) for axis in axes])
        for of, name in zip(axes, borders, strict=True)
    )


_DIFFERENCE, _ITSELF = np.array([1.0, -2.0, 1.0]), np.array([0.0, 1.0, 0.0])


def _second_difference(input: Any, axis: int, output: Any, mode: str, cval: Any, **how: Any) -> Array:
    return correlate1d(input, _DIFFERENCE, axis, output, mode, cval, **how)


@documented
def gaussian_laplace(
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
    """Sum the second derivatives of a Gaussian along the axes: `laplace` of the smoothed input.

    Parameters
    ----------
    <input>
    sigma : float or sequence of float
        Standard deviations along the axes.
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
    >>> ndimage.gaussian_laplace(np.eye(3), 1).round(2)
    array([[-0.38,  0.04,  0.35],
           [ 0.04, -0.07,  0.04],
           [ 0.35,  0.04, -0.38]])
    """
    x = adopt(input)
    filtered = check_axes(axes, x.ndim)
    widths = per_axis("sigma", sigma, len(filtered))
    if len(filtered) < x.ndim:
        # As in SciPy; where all axes are filtered the widths stay in the order of the input's axes.
        given, widths = widths, [0.0] * x.ndim
        for axis, width in zip(filtered, given, strict=True):
            widths[axis] = width
    x, result, filtered, modes = prepared(input, output, mode, axes, out)
    terms = _gaussian_terms(filtered, widths, modes, kwargs)
    how = {name: value for name, value in kwargs.items() if name in ("dtype", "precision", "backend")}
    if not terms or not run_sum(x, terms, cval, result, _how(input, **how)):
        second = functools.partial(gaussian_derivative, derivative=2, **kwargs)
        _sum_over_axes(x, result, filtered, modes, second, cval, (widths,))
    return finish(result, output, out, input)


def _how(input: Any, dtype: Any = None, precision: str = "high", backend: str = "auto") -> How:
    return How.make(input, dtype, precision, backend)


def _gaussian_terms(
    axes: tuple[int, ...], widths: list[Any], modes: list[Any], kwargs: dict[str, Any]
) -> tuple[Passes, ...]:
    """Return the passes of each axis's second derivative; () where they are not those of `gaussian_filter`."""
    known = {"truncate", "radius", "dtype", "precision", "backend"}
    if len(axes) != 2 or min(widths) <= 1e-15 or not known.issuperset(kwargs):
        return ()
    truncate, radius = kwargs.get("truncate", 4.0), kwargs.get("radius")
    reach = per_axis("radius", radius, 2)
    return tuple(
        Passes(
            [
                gaussian_pass(axis, widths[axis], 2 if axis == of else 0, border(name), truncate, reach[place])
                for place, axis in enumerate(axes)
            ]
        )
        for of, name in zip(axes, modes, strict=True)
    )
