"""Arrays of any rank as the dispatcher takes them: a batch, channels, and up to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Fold"]


class Fold:
    """An array of any rank as (N, 1, up to three spatial axes), without a copy wherever strides allow.

    Neighbouring axes along which the kernel has size 1 become one; the first such group is the batch. If more than
    three groups are left, every unfiltered axis goes to the batch. With `bank` set, results have one axis more, the
    first: their channels.
    """

    def __init__(self, kernel: tuple[int, ...], *, bank: bool = False) -> None:
        groups: list[list[int]] = []
        for axis, k in enumerate(kernel):
            if groups and k == 1 and kernel[groups[-1][0]] == 1:
                groups[-1].append(axis)
            else:
                groups.append([axis])
        batch = groups.pop(0) if len(groups) > 1 and kernel[groups[0][0]] == 1 else []
        if len(groups) > 3:
            batch = [axis for axis, k in enumerate(kernel) if k == 1]
            groups = [[axis] for axis, k in enumerate(kernel) if k != 1]
        self._batch, self._groups, self._full, self._bank = batch, groups or [[]], kernel, bank

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self._groups)

    def pick(self, values: Sequence[Any], default: Any) -> tuple[Any, ...]:
        """Return one value per spatial axis from one per axis: the filtered axis's, or `default`."""
        return tuple(next((values[axis] for axis in group if self._full[axis] != 1), default) for group in self._groups)

    def kernel(self, weights: Array) -> Array:
        """Return weights, one axis for each of the input, in the dispatcher's form."""
        count = weights.shape[0] if self._bank else 1
        return weights.reshape(count, 1, *self.pick(self._full, 1))

    def shape(self, shape: tuple[int, ...], channels: int = 1) -> tuple[int, ...]:
        """Return the dispatcher's shape of an array."""
        batch, *spatial = (math.prod(shape[axis] for axis in group) for group in (self._batch, *self._groups))
        return batch, channels, *spatial

    def apply(self, a: Array) -> Array:
        """Return the input in the dispatcher's form."""
        return a.transpose(self._order(0, [])).reshape(self.shape(a.shape))

    def _order(self, first: int, channels: list[int]) -> list[int]:
        spatial = (axis + first for group in self._groups for axis in group)
        return [*(axis + first for axis in self._batch), *channels, *spatial]

    def view(self, a: Array) -> Array | None:
        """Return the result `a` in the dispatcher's form if that is a view into its memory."""
        if self._bank:
            folded = a.transpose(self._order(1, [0])).reshape(self.shape(a.shape[1:], a.shape[0]))
        else:
            folded = self.apply(a)
        return folded if np.may_share_memory(folded, a) else None

    def undo(self, folded: Array, shape: tuple[int, ...]) -> Array:
        """Return a result from its folded form."""
        order = self._order(1, [0]) if self._bank else self._order(0, [])
        opened = folded.reshape([shape[axis] for axis in order])
        return opened.transpose(np.argsort(order)) if order else opened
