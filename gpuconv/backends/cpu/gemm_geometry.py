"""What the implicit matrix product is told of a call: axes, blocks, sets of phases and scratch memory."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.axes import POINT, axis_of, odd_lines
from gpuconv.backends.cpu.direct_kernels import ROWS
from gpuconv.backends.cpu.gemm_blocks import PANELS, Work, choose, round_up, runs
from gpuconv.backends.cpu.gemm_kernels import GEMM, PHASE, SET
from gpuconv.backends.cpu.gemm_panels import TILE_BYTES
from gpuconv.backends.cpu.gemm_tiles import WIDTH
from gpuconv.backends.cpu.tasks import TASK_FLOPS
from gpuconv.backends.cpu.tiles import row_blocks
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "geometry", "reads_rows"]

_DEPTH_BYTES = 32 << 10
"""One panel: with the weights that meet it, it stays in a first-level cache of 32 KiB or more."""
_PANELS_BYTES = 224 << 10
"""Panels of which one fills the first-level cache, packed together from where x lies: neighbours read the same pages
and cache lines, and wait in a second-level cache of 512 KiB or more."""
_INPUT_BYTES = 416 << 10
"""Packed input: with a panel it stays in a second-level cache of 512 KiB or more."""
_FEW_ROWS = 32
"""Rows of weights that meet a panel, up to which it is not worth its copying."""
_WAY_BYTES, _WAYS = 4096, 8
"""Of a first-level cache: channels a multiple of a way apart share one set of lines, a line for each way."""
_LEAST_CUT_TERMS = 64
"""Terms of a channel, a plane left out, from which products are worth their beginning channel by channel."""


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
    weight_uses: int
    """How many tasks read each weight."""
    patches: bool
    """Whether a line's inputs are read by one output each, so that panels are made of it by transposes."""
    keep: tuple[Array, ...]


def reads_rows(problem: ConvProblem) -> bool:
    """Whether a kernel of size 1 reads x without a panel: where few rows of weights meet it.

    Channels that lie many lines apart meet in few sets of a first-level cache and push each other out (64 -> 256 at
    56x56: 76 GFLOP/s a core without a panel and 88 with it on Zen 3, 128 and 150 on an Emerald Rapids). Maps of 64x64
    meet in one, which holds few channels for the next rows of weights (256 -> 21: 0.42 ms, 0.29 with panels).
    Numbers count as float32.
    """
    if problem.out_channels // problem.groups > _FEW_ROWS:
        return False
    sets = _WAY_BYTES // math.gcd(_WAY_BYTES, 4 * math.prod(problem.spatial))
    return problem.in_channels // problem.groups <= _WAYS * sets


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, accumulator: str, packed_rows: bool, dense: bool) -> Geometry:
    """Return the tables of a forward problem.

    `packed_rows` says that the weights will be packed, whose last block of rows is padded; `dense`, that neighbours
    along x's last spatial axis are neighbours in memory.
    """
    size = np.dtype(accumulator).itemsize
    lanes = simd.vector_bits() // 8 // size
    axes = (POINT,) * (3 - problem.rank) + tuple(axis_of(problem, axis) for axis in range(problem.rank))
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
        and all(axis.is_within(first, last) for axis, first, last in zip(axes, low, high, strict=True))
    )
    one_line = inside and all(len(members) == 1 for members in sets)
    one_line = one_line and reads_rows(problem)
    terms = channels * sum(map(len, taps))
    is_direct = inside and len(taps) == 1 and terms * WIDTH * lanes * size <= _DEPTH_BYTES
    work = Work(
        axes, max(rows, 1), channels, terms, channels * sum(map(len, sets)), len(taps), problem.batch * groups, lanes,
        inside, one_line, not packed_rows, is_direct, threads.count(),
    )  # fmt: skip
    cycles, block, row_chunk, runs_of = choose(work)
    bz, by, bx = block
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
    plane = odd_lines(part * math.prod(len(axis.residues) for axis in axes) * size)
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
    number, pixels = runs(axes, block, runs_of)
    vectors = number * -(-pixels // lanes)
    tiles = number * -(-pixels // (lanes * WIDTH)) + 1
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
    call["depth"] = min(terms, round_up(-(-terms // -(-terms // depth)), lanes))
    call["channel_chunk"] = max(channel_chunk, 1)
    chosen = int(call["depth"])
    slack = WIDTH * lanes * size
    call["runs_offset"] = round_up(0 if inside else channel_chunk * plane + slack, 64)
    call["tiles_offset"] = int(call["runs_offset"]) + round_up(32 * (bz * by + tiles + 2), 64)
    call["panel_offset"] = int(call["tiles_offset"]) + round_up(TILE_BYTES * tiles, 64)
    call["panel_bytes"] = chosen * WIDTH * lanes * size
    call["panel_group"] = max(1, min(tiles, _DEPTH_BYTES // max(int(call["panel_bytes"]), 1)))
    call["panel_count"] = call["panel_group"]
    if inside and int(call["panel_group"]) == 1:
        call["panel_count"] = max(1, min(tiles, _PANELS_BYTES // max(int(call["panel_bytes"]), 1)))
    panels = int(call["panel_count"]) * round_up(int(call["panel_bytes"]), 64) if runs_of == PANELS else 0
    panel_terms = np.arange(chosen, dtype=np.int64) * (WIDTH * lanes * size)
    call["panel_terms"], call["runs_of"] = panel_terms.ctypes.data, runs_of
    keep.append(panel_terms)
    call["weights_offset"] = int(call["panel_offset"]) + panels
    weights = 0 if packed_rows else (row_chunk * chosen + ROWS * lanes) * size
    call["sums_offset"] = int(call["weights_offset"]) + round_up(weights, 64)
    call["sums_stride"] = odd_lines((vectors + WIDTH) * lanes * size)
    call["phase_bytes"] = round_up(row_chunk, ROWS) * int(call["sums_stride"])
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
        round_up(scratch, 64),
        max(1, int(TASK_FLOPS / max(problem.flops / max(tasks, 1), 1))),
        inside,
        (z.advance, y.advance, x.advance),
        (bx == x.outputs or by == 1, (by == y.outputs and bx == x.outputs) or bz == 1),
        (pitches[2] * size, pitches[1] * pitches[2] * size),
        tuple(tuple(tuple(o for *_, o in t) for t in members) for members in sets),  # type: ignore[misc]
        channels,
        cycles,
        tasks // (groups * int(call["row_chunks"])),
        patches and inside,
        tuple(keep),
    )
