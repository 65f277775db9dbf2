"""The functions of `scipy.signal` that convolve two 2-d arrays, with a choice of border."""

from __future__ import annotations

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

__all__ = ["convolve2d", "correlate2d"]

_BOUNDARIES = {
    "fill": "zeros",
    "pad": "zeros",
    "wrap": "wrap",
    "circular": "wrap",
    "symm": "symmetric",
    "symmetric": "symmetric",
}


def convolve2d(
    in1: Any,
    in2: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: Any = 0,
    *,
    step: Any = 1,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Any:
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
        If an array is not 2-d or is empty, or for an unknown `mode`, `boundary` or `fillvalue`, or a `step` or `out`
        that does not fit.
    DtypeError
        As for `convolve`.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.convolve2d([[1, 2], [3, 4]], [[1, 1]], mode="same", boundary="wrap")
    array([[3, 3],
           [7, 7]])
    """
    how = How(precision, backend)
    a, b = adopt(in1, in2, backend=backend)
    return _convolve2d(a, b, mode, boundary, fillvalue, in1, step, how, out, is_convolution=True)


def correlate2d(
    in1: Any,
    in2: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: Any = 0,
    *,
    step: Any = 1,
    precision: str = "high",
    backend: str = "auto",
    out: Any = None,
) -> Any:
    """Correlate two 2-d arrays: `convolve2d` with `in2` turned around and, if complex, conjugated.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue, step, precision, backend, out
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
    how = How(precision, backend)
    a, b = adopt(in1, in2, backend=backend)
    return _convolve2d(a, b, mode, boundary, fillvalue, in1, step, how, out, is_convolution=False)


def _convolve2d(
    a: Array, b: Array, mode: str, boundary: str, fillvalue: Any, like: Any, step: Any, how: How, out: Any,
    *, is_convolution: bool,
) -> Any:  # fmt: skip
    name = "convolve2d" if is_convolution else "correlate2d"
    if not a.ndim == b.ndim == 2:
        raise ValueError(f"{name} inputs must both be 2-D arrays; they have {a.ndim} and {b.ndim} axes")
    swapped = swap_needed(mode, a.shape, b.shape)
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: Acceptable mode flags are 'valid', 'same', or 'full'.")
    if boundary not in _BOUNDARIES:
        raise ValueError(
            f"boundary={boundary!r}: Acceptable boundary flags are 'fill', 'circular' (or 'wrap'), "
            "and 'symmetric' (or 'symm')."
        )
    if is_foreign(a, b):
        check_plain(a, b, step=step, out=out)
        return scipys(name)(a, b, mode, boundary, fillvalue)
    if not a.size or not b.size:
        raise ValueError(f"{name}: in1 has shape {a.shape} and in2 {b.shape}; neither may be empty")
    border = _BOUNDARIES[boundary]
    fill = _fill(fillvalue if border == "zeros" else 0, np.result_type(a, b))
    if swapped:
        a, b = b, a
    outputs = [outputs_of(mode, s1, s2) for s1, s2 in zip(a.shape, b.shape, strict=True)]
    if not is_convolution:
        b = reversed_conjugate(b, (0, 1))
        if mode == "same":
            outputs = [Output(k // 2, n) for n, k in zip(a.shape, b.shape, strict=True)]
    outputs = with_steps(outputs, (0, 1), step)
    target = target_of(out, a, b, outputs)
    turn = swapped and not is_convolution
    if turn:
        # The result is turned around in the end: its first element is the last of these.
        left = [(o.size - 1) % o.step for o in outputs]
        outputs = [o._replace(start=o.start + n, size=o.size - n) for o, n in zip(outputs, left, strict=True)]
    if border == "zeros" and mode != "valid" and fill != 0:
        around = [n + 2 * (k - 1) for n, k in zip(a.shape, b.shape, strict=True)]
        padded = np.full(around, fill, fill.dtype, like=a)
        padded[tuple(slice(k - 1, n + k - 1) for n, k in zip(a.shape, b.shape, strict=True))] = a
        a = padded
        outputs = [output._replace(start=output.start + k - 1) for output, k in zip(outputs, b.shape, strict=True)]
    border = "zeros" if mode == "valid" else border
    into = target if target is None or not turn else target[::-1, ::-1]
    result = convolve_axes(a, b, (0, 1), outputs, how, border, into)
    if out is not None:
        return out
    return arrays.give_back(result[::-1, ::-1] if turn else result, like)


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the fill value in the result's dtype."""
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"`fillvalue` must be scalar or an array with one element; it has {array.size}")
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise ValueError(f"could not cast `fillvalue` directly to the output type: {value!r} to {dtype.name}")
    if dtype.kind == "u" and array.real < 0:
        raise ValueError(f"could not cast `fillvalue` directly to the output type: {value!r} to {dtype.name}")
    return array.reshape(()).astype(dtype)
