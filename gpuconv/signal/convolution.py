"""The functions of `scipy.signal` that convolve."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import arrays
from gpuconv.signal.engine import (
    Output,
    adopt,
    convolve_axes,
    convolve_lines,
    is_foreign,
    outputs_of,
    scipys,
    swap_needed,
)

if TYPE_CHECKING:
    from gpuconv.signal.engine import Array

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "fftconvolve", "oaconvolve"]

_MODES = ("valid", "same", "full")
_PRECISION = {"auto": "high", "fft": "high", "direct": "highest"}
_BOUNDARIES = {
    "fill": "zeros",
    "pad": "zeros",
    "wrap": "wrap",
    "circular": "wrap",
    "symm": "symmetric",
    "symmetric": "symmetric",
}


def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """Convolve two arrays of equal rank.

    y[j] = sum over t of in1[j - t] * in2[t]

    Parameters
    ----------
    in1, in2 : array_like
        Of equal rank and any dtype; object arrays and long doubles are computed by SciPy.
    mode : {"full", "valid", "same"}
        "full": every j for which a term exists; "valid": those that need no zeros beyond either array, one of which
        must be at least as large as the other along every axis; "same": the centre of "full", of the size of `in1`.
    method : {"auto", "direct", "fft"}
        "direct" multiplies and adds without any transform; "auto" and "fft" allow one where it is cheaper. Integers
        are exact with all three.

    Returns
    -------
    array
        Of the dtype that NumPy gives a product of the two.

    Raises
    ------
    ValueError
        If ranks differ, an array is empty, or `mode` or `method` is unknown.

    See Also
    --------
    gpuconv.conv1d : with strides, dilation, channels and batches.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.convolve([1, 2, 3], [0, 1, 2])
    array([0, 1, 4, 7, 6])
    """
    a, b = adopt(in1), adopt(in2)
    return _convolve(a, b, mode, method, "convolve", in1)


def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """Correlate two arrays of equal rank: `convolve` with `in2` reversed and, if complex, conjugated.

    Parameters
    ----------
    in1, in2, mode, method
        As for `convolve`.

    Returns
    -------
    array
        In "full" mode, element k stands for lag k - (in2's size - 1); see `correlation_lags`.

    Raises
    ------
    ValueError
        As for `convolve`.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.correlate([1, 2, 3], [0, 1, 2])
    array([2, 5, 8, 3, 0])
    """
    a, b = adopt(in1), adopt(in2)
    return _convolve(a, _reversed_conjugate(b), mode, method, "correlate", in1)


def _convolve(a: Array, b: Array, mode: str, method: str, name: str, like: Any) -> Any:
    if a.ndim == b.ndim == 0:
        return a * b
    if a.ndim != b.ndim:
        raise ValueError(
            f"volume and kernel should have the same dimensionality; in1 has {a.ndim} axes and in2 has {b.ndim}"
        )
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r}: Acceptable mode flags are 'valid', 'same', or 'full'.")
    if method not in _PRECISION:
        raise ValueError(f"method={method!r}: Acceptable method flags are 'auto', 'direct', or 'fft'.")
    if is_foreign(a, b):
        return scipys("convolve")(a, b, mode, method)
    if not a.size or not b.size:
        raise ValueError(f"{name}: in1 has shape {a.shape} and in2 {b.shape}; neither may be empty")
    if a.ndim == 1 and a.dtype == b.dtype and a.dtype.kind in "fc":
        result = convolve_lines(a, b, mode, _PRECISION[method])
    else:
        swap_needed(mode, a.shape, b.shape)
        outputs = [outputs_of(mode, s1, s2) for s1, s2 in zip(a.shape, b.shape, strict=True)]
        result = convolve_axes(a, b, range(a.ndim), outputs, _PRECISION[method])
    if method == "fft" and result.dtype.kind in "fc" and not np.isfinite(result).all():
        warnings.warn(
            "Use of fft convolution on input with NAN or inf: the outputs that these reach are computed directly, "
            "and are NAN or inf",
            RuntimeWarning,
            stacklevel=3,
        )
    return arrays.give_back(result, like)


def _reversed_conjugate(a: Array) -> Array:
    turned = a[(slice(None, None, -1),) * a.ndim]
    return turned.conj() if a.dtype.kind == "c" else turned


def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """Convolve two arrays along some of their axes, broadcasting along the others.

    Parameters
    ----------
    in1, in2 : array_like
        Of equal rank. Integers are computed, and returned, in float64, float16 in float32.
    mode : {"full", "valid", "same"}
        As for `convolve`.
    axes : int or iterable of int, optional
        The axes to convolve along; all by default. Along the others the sizes must be equal or 1.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If ranks differ or shapes do not fit, or for an unknown `mode` or `axes` that the arrays do not have.

    Notes
    -----
    The name is SciPy's. The cost model chooses between transforms of short overlapping blocks and a direct sum.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.fftconvolve([[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0]], axes=1)
    array([[1., 3., 2.],
           [3., 7., 4.]])
    """
    a, b = adopt(in1), adopt(in2)
    if a.ndim == b.ndim == 0:
        return a * b
    if a.ndim != b.ndim:
        raise ValueError(f"in1 and in2 should have the same dimensionality; they have {a.ndim} and {b.ndim} axes")
    if not a.size or not b.size:
        return np.asarray([])
    if is_foreign(a, b):
        return scipys("fftconvolve")(a, b, mode, axes)
    wanted = _axes(axes, a.ndim)
    along = [i for i in wanted if a.shape[i] != 1 and b.shape[i] != 1]
    for i in range(a.ndim):
        if i not in along and a.shape[i] != b.shape[i] and 1 not in (a.shape[i], b.shape[i]):
            raise ValueError(f"incompatible shapes for in1 and in2: {a.shape} and {b.shape}")
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r}: acceptable mode flags are 'valid', 'same', or 'full'")
    if swap_needed(mode, a.shape, b.shape, along):
        a, b = b, a
    if along:
        a, b = _as_floats(a), _as_floats(b)
    outputs = []
    for i, (s1, s2) in enumerate(zip(a.shape, b.shape, strict=True)):
        if i in along:
            outputs.append(outputs_of(mode, s1, s2))
        else:
            # SciPy's "same" takes the centre along broadcast axes too.
            size = s1 if mode == "same" else max(s1, s2)
            outputs.append(Output((max(s1, s2) - size) // 2, size))
    return arrays.give_back(convolve_axes(a, b, along, outputs, "high"), in1)


def _as_floats(a: Array) -> Array:
    """Return the array in the dtype that SciPy's transforms give: float64 for integers, at least float32."""
    if a.dtype.kind in "biu":
        return a.astype(np.float64)
    return a.astype(np.float32) if a.dtype == np.float16 else a


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes, none negative, once they are known to be valid."""
    if axes is None:
        return tuple(range(ndim))
    given = list(axes) if isinstance(axes, Iterable) else [axes]
    if not given:
        raise ValueError("when provided, axes cannot be empty")
    try:
        found = [operator.index(axis) for axis in given]
    except TypeError:
        raise ValueError(f"axes={axes!r}: axes must be a scalar or iterable of integers") from None
    if any(not -ndim <= axis < ndim for axis in found):
        raise ValueError(f"axes={axes!r}: axes exceeds dimensionality of input, which is {ndim}")
    places = tuple(axis % ndim for axis in found)
    if len(set(places)) != len(places):
        raise ValueError(f"axes={axes!r}: all axes must be unique")
    return places


def oaconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """Convolve two arrays along some of their axes; the same as `fftconvolve`, which works in blocks too.

    Parameters
    ----------
    in1, in2, mode, axes
        As for `fftconvolve`.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        As for `fftconvolve`.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.oaconvolve([1.0, 2.0, 3.0, 4.0], [1.0, -1.0], mode="valid")
    array([1., 1., 1.])
    """
    return fftconvolve(in1, in2, mode, axes)


def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """Convolve two 2-d arrays, with a choice of what lies beyond the first.

    Parameters
    ----------
    in1, in2 : array_like, 2-d
    mode : {"full", "valid", "same"}
        As for `convolve`.
    boundary : {"fill", "wrap", "symm"}
        What stands beyond the edges of `in1`: `fillvalue`, its periodic or its symmetric continuation. Also under
        SciPy's other names "pad", "circular" and "symmetric".
    fillvalue : scalar

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If an array is not 2-d or is empty, or for an unknown `mode`, `boundary` or `fillvalue`.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.convolve2d([[1, 2], [3, 4]], [[1, 1]], mode="same", boundary="wrap")
    array([[3, 3],
           [7, 7]])
    """
    return _convolve2d(adopt(in1), adopt(in2), mode, boundary, fillvalue, in1, is_convolution=True)


def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """Correlate two 2-d arrays: `convolve2d` with `in2` turned around and, if complex, conjugated.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue
        As for `convolve2d`. In "same" mode an even kernel of size k is anchored at (k - 1) // 2.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        As for `convolve2d`.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.correlate2d([[1, 2, 3]], [[1, 0, -1]], mode="same")
    array([[-2, -2,  2]])
    """
    return _convolve2d(adopt(in1), adopt(in2), mode, boundary, fillvalue, in1, is_convolution=False)


def _convolve2d(
    a: Array, b: Array, mode: str, boundary: str, fillvalue: Any, like: Any, *, is_convolution: bool
) -> Any:
    name = "convolve2d" if is_convolution else "correlate2d"
    if not a.ndim == b.ndim == 2:
        raise ValueError(f"{name} inputs must both be 2-D arrays; they have {a.ndim} and {b.ndim} axes")
    swapped = swap_needed(mode, a.shape, b.shape)
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r}: Acceptable mode flags are 'valid', 'same', or 'full'.")
    if boundary not in _BOUNDARIES:
        raise ValueError(
            f"boundary={boundary!r}: Acceptable boundary flags are 'fill', 'circular' (or 'wrap'), "
            "and 'symmetric' (or 'symm')."
        )
    if is_foreign(a, b):
        return scipys(name)(a, b, mode, boundary, fillvalue)
    if not a.size or not b.size:
        raise ValueError(f"{name}: in1 has shape {a.shape} and in2 {b.shape}; neither may be empty")
    fill = _fill(fillvalue, np.result_type(a, b))
    if swapped:
        a, b = b, a
    outputs = [outputs_of(mode, s1, s2) for s1, s2 in zip(a.shape, b.shape, strict=True)]
    if not is_convolution:
        b = _reversed_conjugate(b)
        if mode == "same":
            outputs = [Output(k // 2, n) for n, k in zip(a.shape, b.shape, strict=True)]
    border = _BOUNDARIES[boundary]
    if border == "zeros" and mode != "valid" and fill != 0:
        a = np.pad(a.astype(fill.dtype), [(k - 1, k - 1) for k in b.shape], constant_values=fill)
        outputs = [Output(output.start + k - 1, output.size) for output, k in zip(outputs, b.shape, strict=True)]
    result = convolve_axes(a, b, (0, 1), outputs, "high", "zeros" if mode == "valid" else border)
    if swapped and not is_convolution:
        result = result[::-1, ::-1]
    return arrays.give_back(result, like)


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the fill value in the result's dtype."""
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"`fillvalue` must be scalar or an array with one element; it has {array.size}")
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise ValueError(f"could not cast `fillvalue` directly to the output type: {value!r} to {dtype.name}")
    return array.reshape(()).astype(dtype)
