"""The functions of `scipy.signal` that convolve along any axes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import arrays
from gpuconv.signal.engine import (
    MODES,
    How,
    Output,
    adopt,
    check_plain,
    convolve_axes,
    convolve_lines,
    is_foreign,
    outputs_of,
    reversed_conjugate,
    scipys,
    swap_needed,
    target_of,
    with_steps,
)

if TYPE_CHECKING:
    from gpuconv.signal.engine import Array

__all__ = ["convolve", "correlate", "fftconvolve", "oaconvolve"]

_PRECISION = {"auto": "high", "fft": "high", "direct": "highest"}


def convolve(
    in1: Any,
    in2: Any,
    mode: str = "full",
    method: str = "auto",
    *,
    axes: Any = None,
    step: Any = 1,
    backend: str = "auto",
    out: Any = None,
) -> Any:
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
    axes : int or iterable of int, optional
        The axes to convolve along; all by default. Along the others sizes must be equal or 1, and are broadcast: many
        signals and many kernels in one call.
    step : int or sequence of int
        Distance between the elements of `mode`'s result that are computed; for all of `axes` or one for each.
    backend : {"auto", "cpu", "cuda"}
        Where to compute; "auto" follows the arrays.
    out : array, optional
        Of the result's shape and dtype, not overlapping an input: written and returned.

    Returns
    -------
    array
        Of the dtype that NumPy gives a product of the two.

    Raises
    ------
    ValueError
        If ranks differ, an array is empty, `mode` or `method` is unknown, or `axes`, `step` or `out` do not fit.
    DtypeError
        For a dtype that is no number, or an addition to SciPy's arguments where SciPy computes.

    See Also
    --------
    gpuconv.conv1d : with strides, dilation, channels and batches.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.convolve([1, 2, 3], [0, 1, 2])
    array([0, 1, 4, 7, 6])
    >>> signal.convolve([[1, 2, 3, 4]], [[1, 1], [1, -1]], "valid", axes=1, step=2)
    array([[3, 7],
           [1, 1]])
    """
    a, b = adopt(in1, in2, backend=backend)
    return _convolve(a, b, mode, method, "convolve", in1, axes, step, backend, out)


def correlate(
    in1: Any,
    in2: Any,
    mode: str = "full",
    method: str = "auto",
    *,
    axes: Any = None,
    step: Any = 1,
    backend: str = "auto",
    out: Any = None,
) -> Any:
    """Correlate two arrays of equal rank: `convolve` with `in2` reversed and, if complex, conjugated.

    Parameters
    ----------
    in1, in2, mode, method, axes, step, backend, out
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
    a, b = adopt(in1, in2, backend=backend)
    along = range(b.ndim) if axes is None else _axes(axes, b.ndim)
    return _convolve(a, reversed_conjugate(b, along), mode, method, "correlate", in1, axes, step, backend, out)


def _convolve(
    a: Array, b: Array, mode: str, method: str, name: str, like: Any, axes: Any, step: Any, backend: str, out: Any
) -> Any:
    if a.ndim == b.ndim == 0:
        return a * b if arrays.home(a) == "cpu" else arrays.give_back(a * b, like)
    if a.ndim != b.ndim:
        raise ValueError(
            f"volume and kernel should have the same dimensionality; in1 has {a.ndim} axes and in2 has {b.ndim}"
        )
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: Acceptable mode flags are 'valid', 'same', or 'full'.")
    if method not in _PRECISION:
        raise ValueError(f"method={method!r}: Acceptable method flags are 'auto', 'direct', or 'fft'.")
    if is_foreign(a, b):
        check_plain(a, b, axes=axes, step=step, out=out)
        return scipys("convolve")(a, b, mode, method)
    if not a.size or not b.size:
        raise ValueError(f"{name}: in1 has shape {a.shape} and in2 {b.shape}; neither may be empty")
    is_plain = axes is None and step == 1 and out is None and backend == "auto"
    if is_plain and a.ndim == 1 and a.dtype == b.dtype and a.dtype.kind in "fc":
        result = convolve_lines(a, b, mode, _PRECISION[method])
    else:
        along = range(a.ndim) if axes is None else _axes(axes, a.ndim)
        _check_broadcast(a, b, along)
        swap_needed(mode, a.shape, b.shape, along)
        outputs = [
            outputs_of(mode, s1, s2) if i in along else Output(0, max(s1, s2))
            for i, (s1, s2) in enumerate(zip(a.shape, b.shape, strict=True))
        ]
        outputs = with_steps(outputs, along, step)
        target = target_of(out, a, b, outputs)
        result = convolve_axes(a, b, along, outputs, How(_PRECISION[method], backend), out=target)
    if method == "fft" and result.dtype.kind in "fc" and not np.isfinite(result).all():
        warnings.warn(
            "Use of fft convolution on input with NAN or inf: the outputs that these reach are computed directly, "
            "and are NAN or inf",
            RuntimeWarning,
            stacklevel=3,
        )
    return arrays.give_back(result, like) if out is None else out


def _check_broadcast(a: Array, b: Array, along: Sequence[int]) -> None:
    """Raise where sizes differ along an axis that is not convolved."""
    for i in range(a.ndim):
        if i not in along and a.shape[i] != b.shape[i] and 1 not in (a.shape[i], b.shape[i]):
            raise ValueError(f"incompatible shapes for in1 and in2: {a.shape} and {b.shape}")


def fftconvolve(
    in1: Any,
    in2: Any,
    mode: str = "full",
    axes: Any = None,
    *,
    step: Any = 1,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Any:
    """Convolve two arrays along some of their axes, broadcasting along the others.

    Parameters
    ----------
    in1, in2 : array_like
        Of equal rank. Integers are computed, and returned, in float64, float16 in float32.
    mode : {"full", "valid", "same"}
        As for `convolve`.
    axes : int or iterable of int, optional
        The axes to convolve along; all by default. Along the others the sizes must be equal or 1.
    step, backend, out
        As for `convolve`.
    precision : {"high", "highest"}
        "highest": no transform.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If ranks differ or shapes do not fit, or for an unknown `mode` or `axes` that the arrays do not have.
    DtypeError
        As for `convolve`.

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
    a, b = adopt(in1, in2, backend=backend)
    if a.ndim == b.ndim == 0:
        return a * b if arrays.home(a) == "cpu" else arrays.give_back(a * b, in1)
    if a.ndim != b.ndim:
        raise ValueError(f"in1 and in2 should have the same dimensionality; they have {a.ndim} and {b.ndim} axes")
    if not a.size or not b.size:
        return arrays.give_back(np.asarray([], like=a), in1)
    if is_foreign(a, b):
        check_plain(a, b, step=step, out=out)
        return scipys("fftconvolve")(a, b, mode, axes)
    wanted = _axes(axes, a.ndim)
    along = [i for i in wanted if a.shape[i] != 1 and b.shape[i] != 1]
    _check_broadcast(a, b, along)
    if mode not in MODES:
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
    outputs = with_steps(outputs, wanted, step)
    target = target_of(out, a, b, outputs)
    result = convolve_axes(a, b, along, outputs, How(precision, backend), out=target)
    return arrays.give_back(result, in1) if out is None else out


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


def oaconvolve(
    in1: Any,
    in2: Any,
    mode: str = "full",
    axes: Any = None,
    *,
    step: Any = 1,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Any:
    """Convolve two arrays along some of their axes; the same as `fftconvolve`, which works in blocks too.

    Parameters
    ----------
    in1, in2, mode, axes, step, precision, backend, out
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
    return fftconvolve(in1, in2, mode, axes, step=step, precision=precision, backend=backend, out=out)
