"""Parts of a problem along its first spatial axis: which rows of x and y a part has, and what problem that is.

What is read reaches over a part's edges by the kernel's extent. All of it is arithmetic of Python's integers on one
axis, without arrays but for the rows at a border.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.boundary import source_indices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.problem import ConvProblem

    Array = NDArray[Any]

__all__ = ["Rows", "adjoint", "axis", "fold", "forward", "spread", "take"]


class Rows(NamedTuple):
    """Rows of an array: a range of it or, where a border is among them, one by one."""

    begin: int
    end: int
    shown: NDArray[np.int64] | None = None
    """The row that stands in each place, -1 for the fill value; None for those from `begin` to `end`."""


def _with(p: ConvProblem, spatial: int, before: int, after: int) -> ConvProblem:
    """Return a problem with another size and padding of its first axis."""
    sizes, pairs = (spatial, *p.spatial[1:]), ((before, after), *p.padding[1:])
    return dataclasses.replace(p, spatial=sizes, padding=pairs)


def forward(p: ConvProblem, begin: int, end: int) -> tuple[ConvProblem, Rows]:
    """Return the problem whose y are the rows from `begin` to `end` of y, and the rows of x that it reads.

    Examples
    --------
    >>> from gpuconv.problem import ConvProblem
    >>> part, rows = forward(ConvProblem.make((1, 1, 100), (1, 1, 5), padding=2), 0, 10)
    >>> part.spatial, part.padding, rows.begin, rows.end
    ((12,), ((2, 0),), 0, 12)
    """
    before = p.padding[0][0]
    first, last = begin * p.stride[0] - before, (end - 1) * p.stride[0] + p.extent[0] - before
    low, high = p.cropped[0]
    inside = max(first, low), min(last, high)
    if inside == (first, last):
        return _with(p, last - first, 0, 0), Rows(first, last)
    if p.padding_mode == "zeros" and inside[0] < inside[1]:
        return _with(p, inside[1] - inside[0], inside[0] - first, last - inside[1]), Rows(*inside)
    return _with(p, last - first, 0, 0), Rows(first, last, _shown(p, first, last))


def _shown(p: ConvProblem, first: int, last: int) -> NDArray[np.int64]:
    """Return the row of x that stands at each position, -1 for the fill value."""
    low, high = p.cropped[0]
    found = source_indices(p.mode_code, first - low, last - low, high - low)
    found[found >= 0] += low
    return found


def adjoint(p: ConvProblem, begin: int, end: int) -> tuple[ConvProblem, Rows] | None:
    """Return the problem whose x are the rows from `begin` to `end` of x, and the rows of y that they are made of.

    None where they are made of nothing. The border is one of zeros. Packed weights of the whole problem fit where
    `begin` is a multiple of the stride.

    Examples
    --------
    >>> from gpuconv.problem import ConvProblem
    >>> part, rows = adjoint(ConvProblem.make((1, 1, 100), (1, 1, 5), padding=2), 50, 60)
    >>> part.spatial, part.padding, rows.begin, rows.end
    ((10,), ((4, 4),), 48, 62)
    """
    s, e, before = p.stride[0], p.extent[0], p.padding[0][0]
    first = max(-(-(begin + before - e + 1) // s), 0)
    last = min((end - 1 + before) // s + 1, p.output[0])
    if last <= first:
        return None
    new = before + begin - first * s
    return _with(p, end - begin, new, (last - first - 1) * s + e - (end - begin) - new), Rows(first, last)


def spread(p: ConvProblem, begin: int, end: int) -> ConvProblem:
    """Return the problem whose y are the rows from `begin` to `end` of y, and whose x are all padded rows of these."""
    return _with(p, (end - begin - 1) * p.stride[0] + p.extent[0], 0, 0)


def fold(p: ConvProblem, partial: Array, total: Array, begin: int, end: int) -> None:
    """Add the gradient by the padded rows of `spread` to that by the rows of x which they show."""
    first = begin * p.stride[0] - p.padding[0][0]
    last = first + (end - begin - 1) * p.stride[0] + p.extent[0]
    low, high = p.cropped[0]
    inner, outer = max(first, low), max(min(last, high), first, low)
    at: tuple[Any, ...] = (slice(None),) * axis(p)
    if inner < outer:
        total[(*at, slice(inner, outer))] += partial[(*at, slice(inner - first, outer - first))]
    for i, row in enumerate(_shown(p, first, last)):
        if not inner <= first + i < outer:
            total[(*at, row)] += partial[(*at, i)]


def axis(p: ConvProblem) -> int:
    """Return which axis of x and y is their first spatial one."""
    return p.batched + (p.layout == "channels_first")


def take(p: ConvProblem, array: Array, rows: Rows) -> Array:
    """Return rows of an x or y: a view or, where a border is among them, a copy."""
    at: tuple[Any, ...] = (slice(None),) * axis(p)
    if rows.shown is None:
        view: Array = array[(*at, slice(rows.begin, rows.end))]
        return view
    index = rows.shown
    if (index < 0).all():
        shape = list(array.shape)
        shape[axis(p)] = len(index)
        return np.full(shape, p.padding_value, array.dtype)
    copy = np.take(array, np.maximum(index, 0), axis=axis(p))
    copy[(*at, index < 0)] = p.padding_value
    return copy
