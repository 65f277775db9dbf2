"""The axes of a problem as kernels go through them: phases, places in the packed input, strides of arrays."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["POINT", "Axis", "axis_of", "flattened", "is_flat", "odd_lines", "offsets", "plane_steps", "strides_of"]


class Axis(NamedTuple):
    """One axis: all of its phases read one packed input."""

    step: int
    outputs: int
    advance: int
    offset: int
    residues: tuple[int, ...]
    reach: int
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    places: tuple[tuple[tuple[int, int, int], ...], ...]
    """For each phase and tap: the number of its residue, its place in that residue's array, its offset in the input."""

    def is_within(self, first: int, end: int) -> bool:
        """Return whether every tap of every output meets an input from `first` on and before `end`."""
        furthest = max((offset for taps in self.places for *_, offset in taps), default=0)
        return self.offset >= first and self.offset + self.advance * (self.outputs - 1) + furthest < end


POINT = Axis(1, 1, 1, 0, (0,), 0, (0,), (1,), (((0, 0, 0),),))
"""An axis that the problem lacks."""


def axis_of(problem: ConvProblem, axis: int) -> Axis:
    """Return one axis of a forward problem."""
    phases = problem.phases(axis)
    offsets = [offset for phase in phases for _, offset in phase.taps]
    least, advance = min(offsets, default=0), phases[0].advance
    residues = tuple(sorted({(offset - least) % advance for offset in offsets})) or (0,)
    places = tuple(
        tuple((residues.index((o - least) % advance), (o - least) // advance, o - least) for _, o in phase.taps)
        for phase in phases
    )
    return Axis(
        phases[0].step, max(phase.count for phase in phases), advance, least, residues,
        max((place for taps in places for _, place, _ in taps), default=0),
        tuple(phase.start for phase in phases), tuple(phase.count for phase in phases), places,
    )  # fmt: skip


def flattened(problem: ConvProblem) -> ConvProblem | None:
    """Return a kernel of size 1's problem with one spatial axis, or None where it is not of that kind."""
    if (
        problem.rank == 1
        or problem.layout != "channels_first"
        or any(n != 1 for n in (*problem.kernel, *problem.stride, *problem.input_dilation))
        or any(p or q for p, q in problem.padding)
    ):
        return None
    return dataclasses.replace(
        problem, spatial=(math.prod(problem.spatial),), kernel=(1,), stride=(1,), dilation=(1,), input_dilation=(1,),
        padding=((0, 0),),
    )  # fmt: skip


def strides_of(problem: ConvProblem, strides: tuple[int, ...]) -> tuple[int, int, list[int]]:
    """Return the bytes between neighbours: batch, channel, and the three spatial axes."""
    batch, *rest = strides if problem.batched else (0, *strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return batch, channel, [0] * (3 - problem.rank) + rest


def plane_steps(problem: ConvProblem, array: Array) -> tuple[int, ...]:
    """Return the bytes between neighbouring images, channels and rows of maps in channels_first."""
    return array.strides[:-1] if problem.batched else (0, *array.strides[:-1])


def is_flat(strides: list[int], shape: tuple[int, ...], size: int) -> bool:
    """Return whether the spatial axes of an array are one line of elements without gaps."""
    for stride, n in zip(reversed(strides), reversed(shape), strict=False):
        if n > 1 and stride != size:
            return False
        size *= n
    return True


def odd_lines(n: int) -> int:
    """Return at least n bytes, an odd number of cache lines: neighbours so far apart meet in no set of a cache."""
    lines = -(-n // 64)
    return (lines + 1 - lines % 2) * 64


@functools.lru_cache(maxsize=256)
def offsets(
    taps: tuple[tuple[tuple[int, int, int], ...], ...], channels: int, strides: tuple[int, ...]
) -> tuple[Array, tuple[Array, ...]]:
    """Return the addresses of tables, and the tables: where sets of taps meet an x of these strides, in bytes."""
    channel, *spatial = strides
    tables = tuple(
        (
            np.arange(channels, dtype=np.int64)[:, None] * channel
            + np.array(members, np.int64).reshape(-1, 3) @ np.array(spatial, np.int64)
        ).ravel()
        for members in taps
    )
    return np.array([table.ctypes.data for table in tables], np.int64), tables
