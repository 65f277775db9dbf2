"""The parts that the docstrings of `gpuconv.ndimage` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["documented"]

_TEXT = {
    "input": """input : array_like
        Of any rank and any real or complex dtype.""",
    "output": """output : array or dtype, optional
        The array to write, or the dtype of the result; by default the input's dtype. Results are rounded
        towards zero on their way into integers.""",
    "mode": """mode : {"reflect", "constant", "nearest", "mirror", "wrap"}
        What lies outside: d c b a | a b c d, `cval`, a a a | a b c d, d c b | a b c d, b c d | a b c d. Also
        "grid-mirror", "grid-constant" and "grid-wrap", which here mean the same as the first, second and last.
    cval : scalar
        What "constant" puts outside.""",
    "modes": """mode : str or sequence of str
        As in `correlate`, one for all filtered axes or one for each.
    cval : scalar
        What "constant" puts outside.""",
    "axes": """axes : int or tuple of int, optional
        The axes to filter; all by default. Sequences among the other arguments have one entry for each.""",
    "returns": """Returns
    -------
    array
        `output`, or a new array of the shape of `input`.""",
}


_F = TypeVar("_F", bound=Callable[..., Any])


def documented(function: _F) -> _F:
    """Fill the shared parts of a docstring."""
    if function.__doc__:
        for key, text in _TEXT.items():
            function.__doc__ = function.__doc__.replace(f"<{key}>", text)
    return function
