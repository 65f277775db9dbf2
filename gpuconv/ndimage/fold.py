"""Arrays of any rank as the dispatcher takes them: a batch, channels, and up to three spatial axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["NARROW", "Fold", "fold_of"]


NARROW = 16
"""Unfiltered elements at an array's end, such as a pixel's channels, of which a vector would hold too few."""
_MOST_FLAT = 128
"""Weights up to which pixels are filtered where they lie: a transform wants planes."""
_MOST_ROWS = 32
"""Weights along rows up to which the rows of an array are one image, several of them filtered at a time."""


class Fold:
    """An array of any rank as (N, 1, up to three spatial axes), without a copy wherever strides allow.

    Neighbouring axes along which the kernel has size 1 become one; the first such group is the batch. If more than
    three groups are left, every unfiltered axis goes to the batch. With `bank` set, results have one axis more, the
    first: their channels.

    The few elements of a pixel, unfiltered axes at the end, would make a last axis too short for vectors. They become
    one with the axis before them, whose taps then lie `pixel` elements apart; with `apart` set, of the batch.
    """

    def __init__(self, kernel: tuple[int, ...], *, bank: bool = False, pixel: int = 0, apart: bool = False) -> None:
        groups: list[list[int]] = []
        for axis, k in enumerate(kernel):
            if groups and k == 1 and kernel[groups[-1][0]] == 1:
                groups[-1].append(axis)
            else:
                groups.append([axis])
        batch: list[int] = []
        if pixel:
            groups[-2:] = [[*groups[-2], *groups[-1]]]
        elif apart:
            batch = groups.pop()
        filtered = [axis for axis, k in enumerate(kernel) if k != 1]
        if len(groups) > 1 and kernel[groups[0][0]] == 1:
            rows = filtered == [groups[-1][0]] and kernel[groups[-1][0]] <= _MOST_ROWS
            batch = batch if rows and not batch else [*groups.pop(0), *batch]
        if len(groups) > 3:
            batch = [axis for axis, k in enumerate(kernel) if k == 1]
            groups, pixel = [[axis] for axis in filtered], 0
        self.pixel = max(pixel, 1)
        self._groups, self._full, self._bank = groups or [[]], kernel, bank
        self._all = (tuple(batch), *(tuple(group) for group in self._groups))
        self._input_order = [*batch, *(axis for group in groups for axis in group)]
        # The bank's axis, the first of a result, comes after the batch.
        order = [axis + 1 for axis in self._input_order]
        self._output_order = [*order[: len(batch)], 0, *order[len(batch) :]] if bank else self._input_order
        self._is_straight = self._output_order == sorted(self._output_order)

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self._groups)

    @property
    def dilation(self) -> tuple[int, ...]:
        """How far apart taps lie along each spatial axis."""
        return (*(1,) * (self.rank - 1), self.pixel)

    def spread(self, padding: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Return the border along each spatial axis from one in pixels."""
        *before, (low, high) = padding
        return (*before, (low * self.pixel, high * self.pixel))

    def pick(self, values: Sequence[Any], default: Any) -> tuple[Any, ...]:
        """Return one value per spatial axis from one per axis: the filtered axis's, or `default`."""
        return tuple(next((values[axis] for axis in group if self._full[axis] != 1), default) for group in self._groups)

    def kernel(self, weights: Array) -> Array:
        """Return weights, one axis for each of the input, in the dispatcher's form."""
        count = weights.shape[0] if self._bank else 1
        return weights.reshape(count, 1, *self.pick(self._full, 1))

    def shape(self, shape: tuple[int, ...], channels: int = 1) -> tuple[int, ...]:
        """Return the dispatcher's shape of an array."""
        return _folded(self._all, shape, channels)

    def apply(self, a: Array) -> Array:
        """Return the input in the dispatcher's form."""
        return (a if self._is_straight else a.transpose(self._input_order)).reshape(self.shape(a.shape))

    def view(self, a: Array) -> Array | None:
        """Return the result `a` in the dispatcher's form if that is a view into its memory."""
        shape = self.shape(a.shape[1:], a.shape[0]) if self._bank else self.shape(a.shape)
        if self._is_straight and a.flags.c_contiguous:
            return a.reshape(shape)
        folded = a.transpose(self._output_order).reshape(shape)
        return folded if np.may_share_memory(folded, a) else None

    def undo(self, folded: Array, shape: tuple[int, ...]) -> Array:
        """Return a result from its folded form."""
        order = self._output_order
        opened = folded.reshape([shape[axis] for axis in order])
        return opened.transpose(np.argsort(order)) if order else opened


@functools.lru_cache(maxsize=1024)
def fold_of(
    kernel: tuple[int, ...],
    x_shape: tuple[int, ...],
    steps: tuple[int, ...],
    *,
    bank: bool = False,
    on_cpu: bool = True,
    in_passes: bool = False,
) -> Fold:
    """Return the fold of an array for weights of so many elements along its axes, and so many steps between outputs.

    `in_passes` says that they are multiplied axis by axis.

    Pixels are one with the axis before them on the CPU only: a GPU has no vectors to fill.
    """
    last = max((axis for axis, k in enumerate(kernel) if k > 1), default=len(kernel))
    pixel = math.prod(x_shape[last + 1 :])
    if last + 1 >= len(kernel) or pixel > NARROW or not on_cpu:
        return Fold(kernel, bank=bank)
    weights = max(kernel) if in_passes else math.prod(kernel)
    is_flat = pixel == 1 or (steps[last] == 1 and weights <= _MOST_FLAT)
    return Fold(kernel, bank=bank, pixel=pixel if is_flat else 0, apart=not is_flat)


@functools.lru_cache(maxsize=1024)
def _folded(groups: tuple[tuple[int, ...], ...], shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    batch, *spatial = (math.prod(shape[axis] for axis in group) for group in groups)
    return batch, channels, *spatial
