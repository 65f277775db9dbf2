"""Border modes: one table of names and one index map, for every backend and facade.

A border mode says which element stands at a position outside the array. The five
modes, on an array ``a b c``, going left from its first element:

===========  ===================  ==========  =========  ===========  ============
gpuconv      to the left          SciPy       torch      numpy.pad    OpenCV
===========  ===================  ==========  =========  ===========  ============
zeros        0 0 0                constant    zeros      constant     CONSTANT
nearest      a a a                nearest     replicate  edge         REPLICATE
symmetric    c b a                reflect     (none)     symmetric    REFLECT
mirror       (a) c b              mirror      reflect    reflect      REFLECT_101
wrap         a b c                wrap        circular   wrap         WRAP
===========  ===================  ==========  =========  ===========  ============

A border wider than the array continues its pattern.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MODES", "canonical", "source_index", "source_indices"]

MODES = ("zeros", "nearest", "symmetric", "mirror", "wrap")
"""The canonical names; a mode's position here is the code that kernels receive."""

_SPELLINGS = {
    "zeros": ("constant", "grid-constant"),
    "nearest": ("replicate", "edge"),
    "symmetric": ("grid-mirror",),
    "mirror": ("reflect_101", "reflect101"),
    "wrap": ("circular", "grid-wrap"),
}
_CANONICAL = {name: mode for mode, names in _SPELLINGS.items() for name in (mode, *names)}


def canonical(name: str, *, argument: str = "padding_mode", reflect: str = "mirror") -> str:
    """Return the canonical name of a border mode given under any library's spelling.

    Parameters
    ----------
    name : str
        Any name of the table above, in any case; OpenCV's also with ``BORDER_`` before it.
    argument : str
        The caller's argument, for the error message.
    reflect : {"mirror", "symmetric"}
        What "reflect" means to the caller: torch and NumPy leave the edge element out
        ("mirror"), SciPy repeats it ("symmetric").

    Raises
    ------
    UnsupportedError
        If no library has a mode of that name.

    Examples
    --------
    >>> canonical("circular"), canonical("reflect"), canonical("reflect", reflect="symmetric")
    ('wrap', 'mirror', 'symmetric')
    """
    if isinstance(name, str):
        key = name.lower().removeprefix("border_")
        if key == "reflect":
            return reflect
        if key in _CANONICAL:
            return _CANONICAL[key]
    raise UnsupportedError(
        f"{argument}={name!r} is not a border mode; valid are {', '.join(map(repr, sorted([*_CANONICAL, 'reflect'])))}"
    )


def source_index(mode: int, i: int, n: int) -> int:
    """Return the element of ``range(n)`` that stands at position ``i``, or -1 for the fill value.

    Plain integer arithmetic (``%`` is never negative), so that the CPU and CUDA backends
    compile this very function.

    Parameters
    ----------
    mode : int
        Position in `MODES`.
    i : int
        Any position, also outside ``range(n)``.
    n : int
        Number of elements, at least 1.

    Examples
    --------
    >>> [source_index(MODES.index("mirror"), i, 3) for i in range(-4, 6)]
    [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    if 0 <= i < n:
        return i
    if mode == 0:
        return -1
    if mode == 1:
        return 0 if i < 0 else n - 1
    if mode == 4:
        return i % n
    if mode == 2:
        i = i % (2 * n)
        return i if i < n else 2 * n - 1 - i
    if n == 1:
        return 0
    i = i % (2 * n - 2)
    return i if i < n else 2 * n - 2 - i


def source_indices(mode: int, first: int, last: int, n: int) -> NDArray[np.int64]:
    """Return `source_index` of every position from `first` up to `last`, which is not one of them.

    Examples
    --------
    >>> source_indices(MODES.index("zeros"), -2, 4, 3).tolist()
    [-1, -1, 0, 1, 2, -1]
    """
    low = min(max(first, 0), last)
    high = max(min(last, n), low)
    before, after = ([source_index(mode, i, n) for i in span] for span in (range(first, low), range(high, last)))
    parts: list[Any] = [np.array(before, np.int64), np.arange(low, high), np.array(after, np.int64)]
    return np.concatenate(parts)
