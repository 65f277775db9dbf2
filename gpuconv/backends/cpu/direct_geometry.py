"""What the direct kernels are told of a call: phases, taps, blocks and tasks, settled once for each call.

Only shapes enter here. Addresses and strides of the caller's arrays are filled in by `gpuconv.backends.cpu.direct`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.axes import odd_lines
from gpuconv.backends.cpu.direct_kernels import CALL, PHASE
from gpuconv.backends.cpu.tiles import row_blocks
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import AxisPhase, ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = [
    "INPUT_BYTES",
    "PARTIALS",
    "TASK_FLOPS",
    "Geometry",
    "accumulator_of",
    "choose_blocks",
    "common",
    "contraction_geometry",
    "correlation_geometry",
    "fill_phase",
    "plane_elements",
    "round_up",
]

INPUT_BYTES = 512 << 10
"""Packed input of a task: with the sums it stays in a second-level cache of 1 MiB or more."""
_SUMS_BYTES = 256 << 10
TASK_FLOPS = 200e6
"""Most work of a task, so that a slice of tasks ends soon after a signal."""
PARTIALS = 16
"""Partial sums of a weight gradient, at most: their number may not depend on the number of threads."""
_LONGEST_ROW = 4096


class Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    record: Array
    words: Array
    phases: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    packed_elements: int
    tables: tuple[Array, ...]
    """Kept alive: `phases` holds their addresses."""


def accumulator_of(dtype: str, accumulator: str) -> str:
    """Return the type that the kernels sum in.

    Sums of up to 32 bits wrap around in 32: their low bits are those of a longer sum.
    """
    return "int32" if accumulator == "int64" and np.dtype(dtype).itemsize < 8 else accumulator


def _three(values: tuple[int, ...], missing: int) -> tuple[int, int, int]:
    return (missing,) * (3 - len(values)) + tuple(values)  # type: ignore[return-value]


def _tasks_wanted(flops: float) -> int:
    return 1 if flops < threads.SMALL_FLOPS else 4 * threads.count()


class _Axis(NamedTuple):
    """One axis of one phase."""

    start: int
    step: int
    outputs: int
    advance: int
    offset: int
    """The least input offset of a tap."""
    residues: tuple[int, ...]
    places: tuple[tuple[int, int], ...]
    """For each tap the number of its residue and its place in that residue's array."""
    reach: int
    """Places beyond the block that taps read."""


def _axis(phase: AxisPhase) -> _Axis:
    offsets = [offset for _, offset in phase.taps]
    least = min(offsets, default=0)
    split = [divmod(offset - least, phase.advance) for offset in offsets]
    residues = tuple(sorted({residue for _, residue in split})) or (0,)
    places = tuple((residues.index(residue), place) for place, residue in split)
    reach = max((place for place, _ in split), default=0)
    return _Axis(phase.start, phase.step, phase.count, phase.advance, least, residues, places, reach)


_POINT = _Axis(0, 1, 1, 1, 0, (0,), ((0, 0),), 0)


def _pitches(axes: list[_Axis], blocks: list[int]) -> list[int]:
    return [b + axis.reach for axis, b in zip(axes, blocks, strict=True)]


def plane_elements(axes: list[_Axis], blocks: list[int], lanes: int) -> int:
    """Return the elements from one packed channel to the next: odd in vectors, or cache lines would collide."""
    elements = math.prod(_pitches(axes, blocks)) * math.prod(len(axis.residues) for axis in axes)
    vectors = -(-elements // lanes)
    return (vectors + 1 - vectors % 2) * lanes


def _flat(axes: list[_Axis], blocks: list[int], lanes: int) -> int:
    """Return the elements of one plane of sums, whole vectors."""
    return -(-((blocks[1] - 1) * (blocks[2] + axes[2].reach) + blocks[2]) // lanes) * lanes


def choose_blocks(
    axes: list[_Axis], channels: int, rows: int, images: int, size: int, lanes: int, wanted: int, work: float
) -> list[int]:
    """Choose the block of outputs that a task takes.

    The whole output is halved, its longest splittable axis first, until the packed input and the sums fit their
    bounds and there are enough tasks; an axis is not split so far that its halo outweighs it.
    """
    blocks = [axis.outputs for axis in axes]
    least = [max(2 * axes[0].reach, 1), max(2 * axes[1].reach, 4), max(2 * axes[2].reach, 8 * lanes)]

    def halve(axis: int) -> None:
        parts = -(-axes[axis].outputs // blocks[axis]) + 1
        blocks[axis] = min(-(-axes[axis].outputs // parts), blocks[axis] - 1)

    def splittable(floor: list[int]) -> list[int]:
        return [axis for axis in (0, 1, 2) if blocks[axis] > floor[axis]]

    while blocks[2] > max(_LONGEST_ROW, least[2]):
        halve(2)

    def number() -> int:
        return images * math.prod(-(-axis.outputs // b) for axis, b in zip(axes, blocks, strict=True))

    while True:
        packed = channels * plane_elements(axes, blocks, lanes) * size
        sums = rows * blocks[0] * _flat(axes, blocks, lanes) * size
        heavy = work * math.prod(blocks) > TASK_FLOPS
        if not (packed > INPUT_BYTES or sums > _SUMS_BYTES or heavy or number() < wanted):
            return blocks
        candidates = splittable(least) or (splittable([1, 1, lanes]) if heavy or sums > 4 * _SUMS_BYTES else [])
        if not candidates:
            return blocks
        halve(next((axis for axis in candidates if axis < 2), 2))


def fill_phase(
    record: Any, axes: list[_Axis], blocks: list[int], channels: int, size: int, lanes: int, keep: list[Array]
) -> None:
    """Write one phase's record but for what depends on other phases."""
    pitches = _pitches(axes, blocks)
    for name, axis, block, pitch in zip("zyx", axes, blocks, pitches, strict=True):
        residues = np.array(axis.residues, np.int64)
        keep.append(residues)
        for field, value in (
            ("start", axis.start), ("step", axis.step), ("count", axis.outputs), ("advance", axis.advance),
            ("offset", axis.offset), ("block", block), ("blocks", -(-axis.outputs // block)), ("pitch", pitch),
            ("residues", residues.ctypes.data), ("residue_count", len(residues)),
        ):  # fmt: skip
            record[f"{field}_{name}"] = value
    record["blocks"] = record["blocks_z"] * record["blocks_y"] * record["blocks_x"]
    record["plane"] = plane = plane_elements(axes, blocks, lanes) * size
    record["flat"] = -(-_flat(axes, blocks, lanes) // 8) * 8
    parts = [len(axis.residues) for axis in axes]
    taps = np.array(
        [
            (
                ((z[0] * parts[1] + y[0]) * parts[2] + x[0]) * math.prod(pitches)
                + (z[1] * pitches[1] + y[1]) * pitches[2] + x[1]
            ) * size
            for z in axes[0].places for y in axes[1].places for x in axes[2].places
        ],
        np.int64,
    )  # fmt: skip
    pairs = (np.arange(channels, dtype=np.int64)[:, None] * plane + taps).ravel()
    keep += [taps, pairs]
    record["taps"], record["tap_count"], record["pairs"] = taps.ctypes.data, len(taps), pairs.ctypes.data


def common(problem: ConvProblem, factor: int) -> tuple[Array, Array, list[list[_Axis]]]:
    """Return a call record with the problem's sizes, an empty table of phases, and the phases' axes."""
    call, phases = np.zeros((), CALL), np.zeros(len(problem.all_phases), PHASE)
    call["is_complex"] = factor - 1
    call["groups"], call["batch"] = problem.groups, problem.batch
    call["channels"] = problem.in_channels // problem.groups * factor
    call["outputs"] = problem.out_channels // problem.groups * factor
    call["mode"] = MODES.index(problem.padding_mode)
    for name, (low, high) in zip("xyz", reversed(problem.cropped), strict=False):
        call[f"low_{name}"], call[f"high_{name}"] = low, high
    for name in "zyx"[: 3 - problem.rank]:
        call[f"high_{name}"] = 1
    call["phases"], call["phase_count"] = phases.ctypes.data, len(phases)
    axes = [
        [_POINT] * (3 - problem.rank) + [_axis(phase) for phase in combination] for combination in problem.all_phases
    ]
    return call, phases, axes


def _rows(outputs: int) -> int:
    """Return the rows of packed weights for a number of outputs: the last block is padded to a size that exists."""
    largest = row_blocks()[0]
    left = outputs % largest
    return outputs - left + (min(rows for rows in row_blocks() if rows >= left) if left else 0)


@functools.lru_cache(maxsize=1024)
def correlation_geometry(problem: ConvProblem, accumulator: str, is_complex: bool) -> Geometry:
    """Return the tables of a forward problem's correlation."""
    size = np.dtype(accumulator).itemsize
    lanes = simd.vector_bits() // 8 // size
    call, phases, all_axes = common(problem, 2 if is_complex else 1)
    keep: list[Array] = [phases]
    channels, outputs, groups = int(call["channels"]), int(call["outputs"]), problem.groups
    rows, row_block = _rows(outputs), row_blocks()[0]
    images = problem.batch * groups
    flops = problem.flops * (4 if is_complex else 1)
    wanted = _tasks_wanted(flops)
    # The channels that fit with a few rows of outputs; where not all do, the sums wait between chunks of channels.
    few_rows = [[1, min(axes[1].outputs, 4), min(axes[2].outputs, _LONGEST_ROW)] for axes in all_axes]
    least_plane = min(plane_elements(axes, block, lanes) for axes, block in zip(all_axes, few_rows, strict=True)) * size
    chunk = min(channels, max(4, INPUT_BYTES // least_plane))
    first = packed = sums = planes = 0
    chosen = []
    for axes in all_axes:
        taps = math.prod(len(axis.places) for axis in axes)
        work = 2.0 * channels * taps * min(rows, 16 * row_block)
        chosen.append(choose_blocks(axes, chunk, min(rows, 4 * row_block), images, size, lanes, wanted, work))
    blocks_in_all = sum(
        math.prod(-(-axis.outputs // b) for axis, b in zip(axes, blocks, strict=True))
        for axes, blocks in zip(all_axes, chosen, strict=True)
    )
    row_chunks = min(max(1, -(-wanted // max(1, images * blocks_in_all))), max(1, rows // (2 * row_block)))
    row_chunk = -(-max(rows, 1) // (row_chunks * row_block)) * row_block
    for record, axes, blocks in zip(phases, all_axes, chosen, strict=True):
        fill_phase(record, axes, blocks, 0, size, lanes, keep)
        here = blocks[0] * int(record["flat"]) * size
        row_chunk = min(row_chunk, max(1, _SUMS_BYTES // (here * row_block)) * row_block)
        planes, sums = max(planes, int(record["plane"])), max(sums, here)
    row_chunks = -(-max(rows, 1) // row_chunk)
    for record in phases:
        record["first_task"] = first
        record["tasks"] = int(record["blocks"]) * images * row_chunks
        first += int(record["tasks"])
        record["w_group_bytes"] = rows * channels * int(record["tap_count"]) * size
        record["w_offset"] = packed * size
        packed += groups * rows * channels * int(record["tap_count"])
    call["channel_chunk"], call["channel_chunks"] = max(chunk, 1), 1
    call["row_chunk"], call["row_chunks"] = row_chunk, row_chunks
    # A tile reads whole vectors past the end of what it needs: the slack of one more plane covers it.
    widest = 64 * lanes * size
    call["sums_offset"] = round_up(chunk * planes + widest, 64)
    call["sums_stride"] = odd_lines(sums + widest)
    scratch = int(call["sums_offset"]) + min(row_chunk, round_up(rows, row_block)) * int(call["sums_stride"])
    each = flops / max(first, 1)
    return Geometry(
        call,
        call.reshape(1).view(np.int64),
        phases,
        first,
        round_up(scratch, 64),
        max(1, int(TASK_FLOPS / max(each, 1))),
        packed,
        tuple(keep),
    )


@functools.lru_cache(maxsize=1024)
def contraction_geometry(problem: ConvProblem, accumulator: str, is_complex: bool) -> Geometry:
    """Return the tables of a problem's weight gradient; nothing in them depends on the number of threads."""
    size = np.dtype(accumulator).itemsize
    lanes = simd.vector_bits() // 8 // size
    call, phases, all_axes = common(problem, 2 if is_complex else 1)
    keep: list[Array] = [phases]
    channels, outputs, groups = int(call["channels"]), int(call["outputs"]), problem.groups
    flops = problem.flops * (4 if is_complex else 1)
    row_chunk, channel_chunk = min(outputs, 32), min(channels, 32)
    chosen = []
    for axes in all_axes:
        taps = math.prod(len(axis.places) for axis in axes)
        work = 2.0 * channel_chunk * row_chunk * taps
        chosen.append(choose_blocks(axes, channel_chunk, row_chunk, 1, size, lanes, 1, work))
    y_bytes = mask_bytes = x_bytes = most_blocks = elements = 0
    for record, axes, blocks in zip(phases, all_axes, chosen, strict=True):
        fill_phase(record, axes, blocks, channel_chunk, size, lanes, keep)
        record["partial_offset"] = elements * size
        elements += groups * outputs * channels * int(record["tap_count"])
        y_bytes = max(y_bytes, row_chunk * blocks[0] * int(record["flat"]) * size)
        mask_bytes = max(mask_bytes, int(record["flat"]))
        x_bytes = max(x_bytes, channel_chunk * int(record["plane"]))
        most_blocks = max(most_blocks, int(record["blocks"]) * problem.batch)
    call["row_chunk"], call["row_chunks"] = row_chunk, -(-outputs // row_chunk)
    call["channel_chunk"], call["channel_chunks"] = channel_chunk, -(-channels // channel_chunk)
    tasks = groups * int(call["row_chunks"]) * int(call["channel_chunks"])
    partials = 1 if flops < threads.SMALL_FLOPS else max(1, min(most_blocks, -(-PARTIALS // tasks)))
    in_partial = max(1, -(-most_blocks // partials))
    call["partial_count"], call["blocks_in_partial"] = -(-most_blocks // in_partial), in_partial
    call["partial_bytes"] = elements * size
    call["y_offset"] = round_up(x_bytes + 64 * lanes * size, 64)
    call["mask_offset"] = int(call["y_offset"]) + round_up(y_bytes, 64)
    tasks *= int(call["partial_count"])
    scratch = int(call["mask_offset"]) + mask_bytes + 64
    slice_tasks = max(1, int(TASK_FLOPS / max(flops / max(tasks, 1), 1)))
    return Geometry(
        call, call.reshape(1).view(np.int64), phases, tasks, round_up(scratch, 64), slice_tasks, elements, tuple(keep)
    )


def round_up(n: int, multiple: int) -> int:
    """Return the least multiple that is at least n."""
    return -(-n // multiple) * multiple
