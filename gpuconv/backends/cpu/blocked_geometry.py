"""What the blocked algorithm is told of a call: blocks of outputs, phases, offsets of inputs, scratch memory."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.axes import POINT, Axis, axis_of
from gpuconv.backends.cpu.blocked_blocks import Work
from gpuconv.backends.cpu.blocked_kernels import BLOCKED, PHASE
from gpuconv.backends.cpu.tasks import TASK_FLOPS
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "geometry"]


class Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    words: Array
    phases: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    inside: bool
    """Whether x is read where it lies: every tap of every output meets it. `blocked` then fills in the offsets."""
    advances: tuple[int, int, int]
    taps: tuple[tuple[tuple[int, int, int], ...], ...]
    """For each phase its taps' offsets in the input, from the block's first input."""
    packed_elements: int
    """Of the packed weights."""
    cycles: float
    """Estimated until all tasks are done."""
    keep: tuple[Array, ...]


def _in_order(axis: Axis) -> tuple[Axis, int]:
    """Return an axis and how many places of the packed input its outputs advance: inputs lie in their order.

    Where some residues of the stride meet no tap, they are left out, as `gemm` does.
    """
    if len(axis.residues) < axis.advance:
        return axis, 1
    places = tuple(tuple((0, offset, offset) for _, _, offset in taps) for taps in axis.places)
    reach = max((offset for taps in places for _, _, offset in taps), default=0)
    return axis._replace(residues=(0,), reach=reach, places=places), axis.advance


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, dtype: str, in_place: bool) -> Geometry:
    """Return the tables of a forward problem; `in_place` says that x may be read where it lies."""
    size = np.dtype(dtype).itemsize
    lanes = simd.vector_bits() // 8 // size
    axes = (POINT,) * (3 - problem.rank) + tuple(axis_of(problem, axis) for axis in range(problem.rank))
    ordered = [_in_order(axis) for axis in axes]
    z, y, x = axes = tuple(axis for axis, _ in ordered)
    advances = tuple(advance for _, advance in ordered)
    groups = problem.groups
    channels, outputs = problem.in_channels // groups, problem.out_channels // groups
    vectors = -(-outputs // lanes)
    combinations = list(itertools.product(*(range(len(axis.starts)) for axis in axes)))
    taps = [
        tuple(itertools.product(*(axis.places[i] for axis, i in zip(axes, combination, strict=True))))
        for combination in combinations
    ]
    low = (0,) * (3 - problem.rank) + tuple(a for a, _ in problem.cropped)
    high = (1,) * (3 - problem.rank) + tuple(b for _, b in problem.cropped)
    # A line of which some numbers are left out is packed.
    inside = (
        in_place
        and advances[2] == x.advance
        and all(axis.is_within(first, last) for axis, first, last in zip(axes, low, high, strict=True))
    )
    terms = tuple(channels * len(own) for own in taps)
    work = Work(axes, advances, channels, vectors, terms, problem.batch * groups, lanes, size, inside)
    cycles, block, chunk = work.choose()
    plane, pitches = work.channel_bytes(block), work.pitches(block)
    call, phases = np.zeros((), BLOCKED), np.zeros(len(taps), PHASE)
    keep: list[Array] = [phases]
    output = (1,) * (3 - problem.rank) + problem.output
    for i, (name, axis) in enumerate(zip("zyx", axes, strict=True)):
        residues = np.array(axis.residues, np.int64)
        keep.append(residues)
        for field, value in (
            ("step", axis.step), ("count", axis.outputs), ("size", output[i]), ("places", block[i]),
            ("blocks", -(-axis.outputs // block[i])), ("advance", axis.advance // advances[i]), ("offset", axis.offset),
            ("block", (block[i] - 1) * advances[i] + 1), ("stride", advances[i]), ("pitch", pitches[i]),
            ("low", low[i]), ("high", high[i]),
            ("residues", residues.ctypes.data), ("residue_count", len(residues)),
        ):  # fmt: skip
            call[f"{field}_{name}"] = value
    call["strip_y"], call["strip_x"] = work.strip(block)
    line = pitches[2] * size
    call["place_z"], call["place_y"] = advances[0] * pitches[1] * line, advances[1] * line
    call["place_x"] = advances[2] * size
    for name, number in (
        ("channels", channels), ("outputs", outputs), ("vectors", vectors), ("groups", groups),
        ("batch", problem.batch), ("chunk", chunk), ("chunks", -(-vectors // chunk)),
        ("mode", MODES.index(problem.padding_mode)), ("plane", plane), ("in_place", inside),
        ("phases", phases.ctypes.data), ("phase_count", len(taps)), ("bias_group", vectors * lanes * size),
    ):  # fmt: skip
        call[name] = number
    part, done = math.prod(pitches) * size, 0
    for record, combination, own in zip(phases, combinations, taps, strict=True):
        for name, axis, j in zip("zyx", axes, combination, strict=True):
            record[f"start_{name}"], record[f"count_{name}"] = axis.starts[j], axis.counts[j]
        record["terms"] = channels * len(own)
        if not inside:
            offsets = [
                ((t[0][0] * len(y.residues) + t[1][0]) * len(x.residues) + t[2][0]) * part
                + ((t[0][1] * pitches[1] + t[1][1]) * pitches[2] + t[2][1]) * size
                for t in own
            ]
            table = (np.arange(channels, dtype=np.int64)[:, None] * plane + np.array(offsets, np.int64)).ravel()
            keep.append(table)
            record["offsets"] = table.ctypes.data
        record["w_vector"] = channels * len(own) * lanes * size
        record["w_group"], record["w_offset"] = vectors * int(record["w_vector"]), done * size
        done += groups * vectors * channels * len(own) * lanes
    call["square_offset"] = 0 if inside else channels * plane
    call["sums_offset"] = int(call["square_offset"]) + lanes * lanes * size
    scratch = int(call["sums_offset"]) + work.sums_bytes(block)
    tasks = problem.batch * groups * int(call["chunks"]) * math.prod(int(call[f"blocks_{n}"]) for n in "zyx")
    return Geometry(
        call.reshape(1).view(np.int64), phases, tasks, -(-scratch // 64) * 64,
        max(1, int(TASK_FLOPS / max(problem.flops / max(tasks, 1), 1))), inside, (z.advance, y.advance, x.advance),
        tuple(tuple(tuple(o for *_, o in t) for t in own) for own in taps),  # type: ignore[misc]
        done, cycles, tuple(keep),
    )  # fmt: skip
