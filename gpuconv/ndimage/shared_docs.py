"""The parts that the docstrings of `gpuconv.ndimage` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["documented"]

_TEXT = {
    "input": """input : array_like
        Of any rank; bool, integers, float16 to float64, bfloat16, complex64 or complex128.""",
    "output": """output : array or dtype, optional
        The array to write, or the dtype of the result; by default the input's dtype. Results are rounded
        towards zero on their way into integers.""",
    "mode": """mode : {"reflect", "constant", "nearest", "mirror", "wrap", "valid"}
        What lies outside: d c b a | a b c d, `cval`, a a a | a b c d, d c b | a b c d, b c d | a b c d. Also
        "grid-mirror", "grid-constant" and "grid-wrap", which here mean the same as the first, second and last.
        "valid" gives only the outputs that need nothing from outside.
    cval : scalar
        What "constant" puts outside.""",
    "modes": """mode : str or sequence of str
        As in `correlate`, one for all filtered axes or one for each.
    cval : scalar
        What "constant" puts outside.""",
    "axes": """axes : int or tuple of int, optional
        The axes to filter; all by default. Sequences among the other arguments have one entry for each.""",
    "how": """dtype : {None, "same", "float32", "float64"}
        What sums are kept in. None: float64, or float32 where input and output are of single precision and that stays
        near enough to SciPy's result; `gpuconv.ndimage.precision` says how near. "same": the input's precision.
    precision : {"high", "highest"}
        "highest": sums in float64 unless `dtype` says otherwise, and no transform.
    backend : {"auto", "cpu", "cuda"}
        Where to compute; "auto" follows the array.
    out : array, optional
        Written and returned, in place of `output`: of the result's shape and dtype, and not overlapping the input.""",
    "missing": """nan : {None, "interpolate", "zero"}
        What to do about NaN. None: it reaches every output whose weights lie over it. "interpolate": it is left out,
        and the weights over the others are scaled to the same sum, as astropy does. "zero": it counts as 0. With
        ``mode="constant", cval=np.nan`` the outside is left out too.
    mask : array_like of bool, optional
        Of the input's shape; elements where it is true are left out, whatever they hold, as `nan` says of NaN.""",
    "returns": """Returns
    -------
    array
        `output`, `out`, or a new array. Of the shape of `input` unless "valid" or `step` say otherwise.""",
    "raises": """Raises
    ------
    RuntimeError, ValueError, TypeError
        Where SciPy raises them: for shapes, modes, origins, axes and dtypes that do not fit.
    ShapeError, DtypeError, ValueError
        If `out`, `step`, `nan` or `mask` do not fit. All errors come before any work.""",
}


_F = TypeVar("_F", bound=Callable[..., Any])


def documented(function: _F) -> _F:
    """Fill the shared parts of a docstring."""
    if function.__doc__:
        for key, text in _TEXT.items():
            function.__doc__ = function.__doc__.replace(f"<{key}>", text)
    return function
