"""What the implicit matrix product is told of a call: axes, blocks, sets of phases and scratch memory."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.direct_kernels import ROWS
from gpuconv.backends.cpu.gemm_kernels import GEMM, PHASE, SET
from gpuconv.backends.cpu.gemm_tiles import WIDTH
from gpuconv.backends.cpu.tiles import row_blocks
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "geometry", "offsets", "reads_rows"]

_DEPTH_BYTES = 32 << 10
"""One panel: with the weights that meet it, it stays in a first-level cache of 32 KiB or more."""
_PANELS_BYTES = 224 << 10
"""Panels of which one fills the first-level cache, packed together from where x lies: neighbours read the same pages
and cache lines, and wait in a second-level cache of 512 KiB or more."""
_BLOCK_VECTORS = 50
"""Vectors of a block, about: its panels, packed input and sums stay near in a second-level cache."""
_PHASE_VECTORS = 36
"""The same where several phases' sums wait beside each other."""
_DIRECT_VECTORS = 144
"""The same where inputs are read where they lie and sums are complete after one range of terms."""
_WEIGHT_CYCLES = 0.4
"""To pack a weight within a task."""
_INPUT_BYTES = 416 << 10
_SUMS_BYTES = 512 << 10
_TASK_FLOPS = 200e6
_LEAST_CUT_TERMS = 64
"""Terms of a channel, a plane left out, from which products are worth their beginning channel by channel."""
_PANEL_CYCLES = 4.0
"""To copy a vector of inputs into a panel, beside two fused operations a cycle: 2.5 where a vector is computed in one
pass (Emerald Rapids), 6 in two (Zen 4)."""
_DISTURBANCE = 0.05
"""Of a task's time: what a thread may wait for another's last task."""


class _Axis(NamedTuple):
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


_POINT = _Axis(1, 1, 1, 0, (0,), 0, (0,), (1,), (((0, 0, 0),),))


class Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    words: Array
    sets: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    inside: bool
    """Whether x is read where it lies: every tap of every output meets it."""
    advances: tuple[int, int, int]
    whole_lines: tuple[bool, bool]
    """Whether a block's lines, and its planes, follow each other where y is contiguous."""
    lines: tuple[int, int]
    """Bytes between lines and planes of the packed input."""
    set_taps: tuple[tuple[tuple[int, int, int], ...], ...]
    """For each set its taps' offsets in the input, from the first tap's."""
    channels: int
    cycles: float
    """Estimated until all tasks are done."""
    patches: bool
    """Whether a line's inputs are read by one output each, so that panels are made of it by transposes."""
    keep: tuple[Array, ...]


def reads_rows(step: int, problem: ConvProblem) -> bool:
    """Whether a kernel of size 1 reads x without a panel: `step` is the bytes from one channel to the next.

    A panel pays where many rows of weights meet it. Channels that lie a multiple of many lines apart meet in few sets
    of a first-level cache and push each other out; one of 32 KiB holds few channels' rows in any case (64 -> 256 at
    56x56 on Zen 3: 76 GFLOP/s a core without a panel, 88 with it).
    """
    blocks = problem.out_channels // problem.groups // ROWS
    channels = problem.in_channels // problem.groups
    if simd.registers() < 32:
        return blocks <= 8
    return blocks <= 4 or (channels <= 128 and step % 512 != 0)


def _axis(problem: ConvProblem, axis: int) -> _Axis:
    phases = problem.phases(axis)
    offsets = [offset for phase in phases for _, offset in phase.taps]
    least, advance = min(offsets, default=0), phases[0].advance
    residues = tuple(sorted({(offset - least) % advance for offset in offsets})) or (0,)
    places = tuple(
        tuple((residues.index((o - least) % advance), (o - least) // advance, o - least) for _, o in phase.taps)
        for phase in phases
    )
    return _Axis(
        phases[0].step, max(phase.count for phase in phases), advance, least, residues,
        max((place for taps in places for _, place, _ in taps), default=0),
        tuple(phase.start for phase in phases), tuple(phase.count for phase in phases), places,
    )  # fmt: skip


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _odd_lines(n: int) -> int:
    lines = -(-n // 64)
    return (lines + 1 - lines % 2) * 64


class _Work(NamedTuple):
    """What a choice of blocks is judged by."""

    axes: tuple[_Axis, ...]
    rows: int
    channels: int
    terms: int
    """Terms of all phases' sums."""
    packed_terms: int
    """Terms that panels hold: phases of a set share them."""
    phases: int
    images: int
    lanes: int
    inside: bool
    one_line: bool
    """Whether tiles read x without a panel."""
    packs_weights: bool
    """Whether each task packs its rows of weights."""
    is_direct: bool
    """Whether sums go to y at once, without waiting in scratch memory for the next terms or phases."""
    workers: int


def _task_cycles(work: _Work, block: tuple[int, ...], rows: int) -> float:
    """Return the estimated cycles of a task."""
    bz, by, bx = block
    pixels = bz * by * bx
    vectors = -(-pixels // work.lanes)
    runs = -(-vectors // WIDTH) + bz * by
    # Two fused operations a cycle; a tile of one or two rows waits for its own sums.
    left = rows % ROWS
    short = max(left & 4, 0) / 2 + 1.4 * ((left >> 1 & 1) + (left & 1))
    compute = work.terms * (rows // ROWS * (vectors * ROWS / 2 + 2) + short * vectors + 4)
    panels = 0.0 if work.one_line else work.packed_terms * _PANEL_CYCLES * (vectors + runs)
    lines = math.prod(
        (b + axis.reach) * len(axis.residues) for b, axis in zip(block[:2], work.axes[:2], strict=True)
    ) * len(work.axes[2].residues)
    line = (bx + work.axes[2].reach) * (2.0 / work.lanes if work.axes[2].advance == 1 else 0.7) + 30
    copied = 0.0 if work.inside else work.channels * lines * line
    written = rows * vectors * work.phases * (4 if work.phases > 1 else 1)
    weights = work.terms * rows * _WEIGHT_CYCLES if work.packs_weights else 0.0
    return compute + panels + copied + written + weights + 3000


def _cycles(work: _Work, block: tuple[int, int, int], rows: int) -> float:
    """Return the estimated cycles until all tasks are done."""
    sizes = (*((axis.outputs, b) for axis, b in zip(work.axes, block, strict=True)), (work.rows, rows))
    tasks: list[tuple[float, int]] = []
    # Along each axis the whole blocks, and what is left.
    for kinds in itertools.product(*(((size // b, b), (1, size % b)) for size, b in sizes)):
        if all(b for _, b in kinds):
            *part, part_rows = (b for _, b in kinds)
            number = work.images * math.prod(n for n, _ in kinds)
            tasks.append((_task_cycles(work, tuple(part), part_rows), number))
    total, longest = sum(cycles * number for cycles, number in tasks), tasks[0][0]
    if work.workers == 1:
        return total
    if sum(number for _, number in tasks) > 8 * work.workers:
        return total / work.workers + (0.5 + _DISTURBANCE) * longest
    # Each task goes to the thread that is free first.
    ends = [0.0] * work.workers
    for cycles, number in tasks:
        for _ in range(number):
            heapq.heapreplace(ends, ends[0] + cycles)
    return max(ends) + _DISTURBANCE * longest


def _choose(work: _Work, flops: float) -> tuple[tuple[int, int, int], int, float]:
    """Return the block of outputs and the rows of weights of a task, and the cycles estimated."""
    z, y, x = work.axes
    limit = _PHASE_VECTORS if work.phases > 1 else _DIRECT_VECTORS if work.is_direct else _BLOCK_VECTORS
    limit *= work.lanes
    unit = WIDTH * work.lanes
    widths = {x.outputs} if x.outputs <= 2 * limit else set()
    widths |= {min(x.outputs, unit * n) for n in (1, 2, 3, 4, 6, 8, 10, 12) if unit * n < 2 * x.outputs or n == 1}
    if y.outputs == z.outputs == 1:
        # Equal parts of a single line, so that all threads end together.
        parts = range(work.workers, 16 * work.workers + 1, work.workers)
        widths |= {w for w in (_round(-(-x.outputs // n), work.lanes) for n in parts) if unit <= w <= limit}
    best = math.inf, (1, 1, min(widths)), ROWS
    row_choices = {min(_round(-(-work.rows // n), ROWS), work.rows) for n in (1, 2, 3, 4, 6, 8, 16, 32)}
    for bx in widths:
        for by in range(1, y.outputs + 1):
            if by > 1 and (bx < x.outputs or by * bx > limit):
                break
            for bz in range(1, z.outputs + 1):
                if bz > 1 and (by < y.outputs or bz * by * bx > limit):
                    break
                for rows in row_choices:
                    sums = rows * bz * by * bx * work.phases * 4
                    if sums > (2 * _SUMS_BYTES if work.phases == 1 else _SUMS_BYTES // 2) and rows > ROWS:
                        continue
                    cycles = _cycles(work, (bz, by, bx), rows)
                    if 2.0 * work.terms * rows * bz * by * bx > _TASK_FLOPS and rows > ROWS:
                        continue
                    if cycles < best[0]:
                        best = cycles, (bz, by, bx), rows
    return best[1], best[2], best[0]


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, accumulator: str, packed_rows: bool, dense: bool) -> Geometry:
    """Return the tables of a forward problem.

    `packed_rows` says that the weights will be packed, whose last block of rows is padded; `dense`, that neighbours
    along x's last spatial axis are neighbours in memory.
    """
    size = np.dtype(accumulator).itemsize
    lanes = simd.vector_bits() // 8 // size
    axes = (_POINT,) * (3 - problem.rank) + tuple(_axis(problem, axis) for axis in range(problem.rank))
    z, y, x = axes
    groups = problem.groups
    channels, outputs = problem.in_channels // groups, problem.out_channels // groups
    left = outputs % ROWS
    rows = outputs - left + (min(r for r in row_blocks() if r >= left) if left else 0) if packed_rows else outputs
    combinations = list(itertools.product(*(range(len(axis.starts)) for axis in axes)))
    taps = [
        tuple(itertools.product(*(axis.places[i] for axis, i in zip(axes, combination, strict=True))))
        for combination in combinations
    ]
    sets = sorted(set(taps), key=taps.index)
    order = [i for members in sets for i, own in enumerate(taps) if own == members]
    low = (0,) * (3 - problem.rank) + tuple(a for a, _ in problem.cropped)
    high = (1,) * (3 - problem.rank) + tuple(b for _, b in problem.cropped)
    # Outputs that share no input along a line read whole vectors of it each, which are transposed into a panel.
    patches = (
        problem.kernel[-1] == problem.stride[-1]
        and problem.kernel[-1] % lanes == 0
        and problem.dilation[-1] == 1
        and len(x.starts) == 1
    )
    inside = (
        dense
        and (x.advance == 1 or patches)
        and all(
            axis.offset >= first
            and axis.offset
            + axis.advance * (axis.outputs - 1)
            + max((o for t in axis.places for *_, o in t), default=0)
            < last
            for axis, first, last in zip(axes, low, high, strict=True)
        )
    )
    one_line = inside and all(len(members) == 1 for members in sets)
    one_line = one_line and reads_rows(math.prod(problem.spatial) * size, problem)
    terms = channels * sum(map(len, taps))
    is_direct = inside and len(taps) == 1 and terms * WIDTH * lanes * size <= _DEPTH_BYTES
    work = _Work(
        axes, max(rows, 1), channels, terms, channels * sum(map(len, sets)), len(taps), problem.batch * groups, lanes,
        inside, one_line, not packed_rows, is_direct, threads.count(),
    )  # fmt: skip
    (bz, by, bx), row_chunk, cycles = _choose(work, problem.flops)
    block = (bz, by, bx)
    call, phases, set_table = np.zeros((), GEMM), np.zeros(len(taps), PHASE), np.zeros(len(sets), SET)
    order_table = np.array(order, np.int64)
    keep: list[Array] = [phases, set_table, order_table]
    for name, axis, b, first, last in zip("zyx", axes, block, low, high, strict=True):
        residues = np.array(axis.residues, np.int64)
        keep.append(residues)
        for field, value in (
            ("step", axis.step), ("count", axis.outputs), ("advance", axis.advance), ("offset", axis.offset),
            ("block", b), ("blocks", -(-axis.outputs // b)), ("pitch", b + axis.reach), ("low", first), ("high", last),
            ("residues", residues.ctypes.data), ("residue_count", len(residues)),
        ):  # fmt: skip
            call[f"{field}_{name}"] = value
    pitches = [b + axis.reach for axis, b in zip(axes, block, strict=True)]
    part = math.prod(pitches)
    plane = _odd_lines(part * math.prod(len(axis.residues) for axis in axes) * size)
    depth = max(8, _DEPTH_BYTES // (WIDTH * lanes * size) // 8 * 8)
    packed = 0
    for i, combination in enumerate(combinations):
        record = phases[i]
        for name, axis, j in zip("zyx", axes, combination, strict=True):
            record[f"start_{name}"], record[f"count_{name}"] = axis.starts[j], axis.counts[j]
        record["w_group"] = rows * channels * len(taps[i]) * size
        record["w_offset"] = packed * size
        packed += groups * rows * channels * len(taps[i])
    position = 0
    for record, members in zip(set_table, sets, strict=True):
        record["tap_count"], record["first"] = len(members), position
        position += sum(own == members for own in taps)
        record["last"] = position
    channel_chunk = channels
    if not inside:
        # Equal chunks: a short one would be worth neither its panels nor its way to the sums and back.
        most = max(1, min(channels, _INPUT_BYTES // plane))
        channel_chunk = -(-channels // -(-channels // most)) if channels else 1
    tiles = -(-bz * by * bx // (lanes * WIDTH)) + 1
    call["channels"], call["outputs"], call["groups"], call["batch"] = channels, outputs, groups, problem.batch
    z_offsets = [offset for *_, offset in z.places[0]]
    call["kernel_z"], call["dilation_z"] = len(z_offsets), z_offsets[1] - z_offsets[0] if len(z_offsets) > 1 else 0
    if len(taps) == 1 and z_offsets == sorted(z_offsets):
        plane_taps = len(taps[0]) // max(len(z_offsets), 1)
        is_plain = problem.padding_mode == "zeros" and problem.padding_value == 0 and not patches
        if is_plain and (len(z_offsets) - 1) * plane_taps >= _LEAST_CUT_TERMS:
            call["plane_taps"] = plane_taps
    call["mode"], call["plane"] = MODES.index(problem.padding_mode), plane
    call["row_chunk"], call["row_chunks"] = row_chunk, -(-max(rows, 1) // row_chunk)
    call["phases"], call["sets"], call["order"] = (t.ctypes.data for t in (phases, set_table, order_table))
    call["phase_count"], call["set_count"], call["phases_x"] = len(taps), len(sets), len(x.starts)
    # An exact division of the terms keeps the last panel from being a short one.
    terms = max(1, channel_chunk * max(map(len, sets), default=1))
    call["depth"] = min(terms, _round(-(-terms // -(-terms // depth)), lanes))
    call["channel_chunk"] = max(channel_chunk, 1)
    chosen = int(call["depth"])
    slack = WIDTH * lanes * size
    call["runs_offset"] = _round(0 if inside else channel_chunk * plane + slack, 64)
    call["panel_offset"] = int(call["runs_offset"]) + _round(32 * (bz * by + tiles + 2), 64)
    call["panel_bytes"] = chosen * WIDTH * lanes * size
    call["panel_group"] = max(1, min(tiles, _DEPTH_BYTES // max(int(call["panel_bytes"]), 1)))
    call["panel_count"] = call["panel_group"]
    if inside and int(call["panel_group"]) == 1:
        call["panel_count"] = max(1, min(tiles, _PANELS_BYTES // max(int(call["panel_bytes"]), 1)))
    call["weights_offset"] = int(call["panel_offset"]) + int(call["panel_count"]) * _round(int(call["panel_bytes"]), 64)
    weights = 0 if packed_rows else (row_chunk * chosen + ROWS * lanes) * size
    call["sums_offset"] = int(call["weights_offset"]) + _round(weights, 64)
    call["sums_stride"] = _odd_lines(tiles * WIDTH * lanes * size)
    call["phase_bytes"] = _round(row_chunk, ROWS) * int(call["sums_stride"])
    scratch = int(call["sums_offset"]) + len(taps) * int(call["phase_bytes"])
    tasks = problem.batch * groups * int(call["row_chunks"]) * math.prod(int(call[f"blocks_{n}"]) for n in "zyx")
    tap_bytes = tuple(
        tuple(
            ((t[0][0] * len(y.residues) + t[1][0]) * len(x.residues) + t[2][0]) * part * size
            + ((t[0][1] * pitches[1] + t[1][1]) * pitches[2] + t[2][1]) * size
            for t in members
        )
        for members in sets
    )
    for record, own in zip(set_table, tap_bytes, strict=True):
        table = (np.arange(channel_chunk, dtype=np.int64)[:, None] * plane + np.array(own, np.int64)).ravel()
        keep.append(table)
        record["offsets"] = table.ctypes.data
    return Geometry(
        call.reshape(1).view(np.int64),
        set_table,
        tasks,
        _round(scratch, 64),
        max(1, int(_TASK_FLOPS / max(problem.flops / max(tasks, 1), 1))),
        inside,
        (z.advance, y.advance, x.advance),
        (bx == x.outputs or by == 1, (by == y.outputs and bx == x.outputs) or bz == 1),
        (pitches[2] * size, pitches[1] * pitches[2] * size),
        tuple(tuple(tuple(o for *_, o in t) for t in members) for members in sets),  # type: ignore[misc]
        channels,
        cycles,
        patches and inside,
        tuple(keep),
    )


@functools.lru_cache(maxsize=256)
def offsets(
    g_taps: tuple[tuple[tuple[int, int, int], ...], ...], channels: int, strides: tuple[int, ...]
) -> tuple[Array, tuple[Array, ...]]:
    """Return the sets' tables for an x that is read where it lies: addresses of a channel's taps, in bytes."""
    channel, *spatial = strides
    tables = tuple(
        (
            np.arange(channels, dtype=np.int64)[:, None] * channel
            + np.array(members, np.int64).reshape(-1, 3) @ np.array(spatial, np.int64)
        ).ravel()
        for members in g_taps
    )
    return np.array([table.ctypes.data for table in tables], np.int64), tables
