"""What the blocked algorithm is told of a call: blocks of outputs, phases, offsets of inputs, scratch memory."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.blocked_kernels import BLOCKED, PHASE
from gpuconv.backends.cpu.blocked_tiles import VECTORS, tile_places
from gpuconv.backends.cpu.gemm_blocks import POINT, TASK_FLOPS, Axis, cycles_until_done
from gpuconv.backends.cpu.gemm_geometry import axis_of, odd_lines
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "geometry"]

_SCRATCH_BYTES = {16: 192 << 10, 32: 384 << 10}
"""Inputs and sums of a block, about, by the number of registers: they stay in a second-level cache of 512 KiB or 2 MiB
beside the weights that pass."""
_LINE_CYCLES = 20.0
"""To pack a line, beside its vectors."""
_TILE_CYCLES = 120.0
"""To begin and to end a tile."""
_WRITE_CYCLES = 4.0
"""To turn a vector of sums around and write it."""
_STRIP = 48
"""Places, about, that are summed before they are written: so few that their lines of y are fetched meanwhile."""
_LOAD_CYCLES = 4.0
"""A vector of weights from a second-level cache."""
_UNSHARED = 1.25
"""What products take longer where no taps of a line share its cache lines."""
_WEIGHTS_CYCLES = 1.0
"""A vector of weights from a last-level cache, once a block, beside what its products take."""
_TASK_CYCLES = 4000.0


class Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    words: Array
    phases: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    inside: bool
    """Whether every tap of every output meets x, so that it is read where it lies."""
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


def _pitches(axes: tuple[Axis, ...], advances: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """Return the places of the packed input of a block along each axis, for each residue."""
    return tuple((b - 1) * n + 1 + axis.reach for axis, n, b in zip(axes, advances, block, strict=True))


class _Work(NamedTuple):
    axes: tuple[Axis, ...]
    advances: tuple[int, ...]
    """Places of the packed input from one output to the next."""
    channels: int
    vectors: int
    terms: tuple[int, ...]
    images: int
    lanes: int
    size: int
    inside: bool

    def scratch(self, block: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the bytes of a channel's inputs, of all channels', and of the sums of a block."""
        part = math.prod(_pitches(self.axes, self.advances, block)) * math.prod(
            len(axis.residues) for axis in self.axes
        )
        plane = odd_lines(part * self.size)
        outputs = math.prod(n * axis.step for n, axis in zip((1, *self.strip(block)), self.axes, strict=True))
        width = min(VECTORS, self.vectors) * self.lanes * self.size
        return plane, self.channels * plane, (outputs + self.lanes) * width

    def strip(self, block: tuple[int, ...]) -> tuple[int, int]:
        """Return the lines of a strip and the places of a line, in each phase."""
        _, by, bx = block
        if bx > _STRIP:
            return 1, -(-bx // (bx // _STRIP))
        return min(by, _STRIP // bx), bx

    def task_cycles(self, block: tuple[int, ...], vectors: int) -> float:
        """Return the estimated cycles of a task."""
        bz, by, bx = block
        most = tile_places()
        tiles = -(-bx // most)
        cycles = _TASK_CYCLES
        unshared = 1.0 if max(map(len, self.axes[2].places)) > 1 else _UNSHARED
        widths = [VECTORS] * (vectors // VECTORS) + [vectors % VECTORS] * (vectors % VECTORS > 0)
        for width in widths:
            # A product of a vector takes half a cycle; the weights of a tile, a few whatever its size.
            full, left = bx // tiles, bx % tiles
            for places, number in ((full + 1, left), (full, tiles - left)):
                products = max(places * width * 0.52, _LOAD_CYCLES * width, (places + width) * 0.55) * unshared
                cycles += sum(self.terms) * bz * by * number * products
            cycles += sum(self.terms) * width * _WEIGHTS_CYCLES
            cycles += len(self.terms) * bz * by * (tiles * _TILE_CYCLES + bx * width * _WRITE_CYCLES)
        if not self.inside:
            pz, py, px = _pitches(self.axes, self.advances, block)
            lines = pz * py * math.prod(len(axis.residues) for axis in self.axes)
            cycles += self.channels * lines * (_LINE_CYCLES + 1.0 * px / self.lanes)
        return cycles

    def cycles(self, block: tuple[int, int, int], vectors: int) -> float:
        """Return the estimated cycles until all tasks are done."""
        sizes = (*((axis.outputs, b) for axis, b in zip(self.axes, block, strict=True)), (self.vectors, vectors))
        tasks = []
        for kinds in itertools.product(*(((size // b, b), (1, size % b)) for size, b in sizes)):
            if all(b for _, b in kinds):
                *part, own = (b for _, b in kinds)
                tasks.append((self.task_cycles(tuple(part), own), self.images * math.prod(n for n, _ in kinds)))
        return cycles_until_done(tasks, threads.count())

    def choose(self) -> tuple[float, tuple[int, int, int], int]:
        """Return the estimate, the block and the vectors of a task that are the fastest by estimate."""
        z, y, x = self.axes
        most, limit = tile_places(), _SCRATCH_BYTES[simd.registers()]
        widths = {x.outputs} | {most * n for n in (1, 2, 4, 8, 16) if most * n < x.outputs}
        if y.outputs == z.outputs == 1:
            # Equal parts of a single line, so that all threads end together.
            widths |= {-(-x.outputs // n) for n in range(threads.count(), 32 * threads.count() + 1, threads.count())}
        found = []
        tiles = -(-self.vectors // VECTORS)
        chunks = {min(self.vectors, -(-tiles // n) * VECTORS) for n in (1, 2, 3, 4, 8, 16)}
        least = math.inf
        for bx in sorted(widths):
            for by in range(1, y.outputs + 1):
                if by > 1 and bx < x.outputs:
                    break
                for bz in range(1, z.outputs + 1):
                    if bz > 1 and by < y.outputs:
                        break
                    block = (bz, by, bx)
                    used = sum(self.scratch(block)[1:])
                    if used > limit and used > least:
                        break
                    least = min(least, used)
                    for own in chunks:
                        flops = 2.0 * sum(self.terms) * own * self.lanes * math.prod(block)
                        if flops <= TASK_FLOPS or (math.prod(block) == bx and own <= VECTORS):
                            found.append((self.cycles(block, own), block, own))
        return min(found)


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
    # Lines of x of which every number is read.
    in_place = in_place and len(x.residues) * advances[2] >= x.advance
    inside = in_place and all(
        axis.offset >= first
        and axis.offset + axis.advance * (axis.outputs - 1) + max((o for t in axis.places for *_, o in t), default=0)
        < last
        for axis, first, last in zip(axes, low, high, strict=True)
    )
    terms = tuple(channels * len(own) for own in taps)
    work = _Work(axes, advances, channels, vectors, terms, problem.batch * groups, lanes, size, inside)
    cycles, block, chunk = work.choose()
    plane, input_bytes, sums_bytes = work.scratch(block)
    pitches = _pitches(axes, advances, block)
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
        ("batch", problem.batch), ("chunk", chunk), ("chunks", -(-vectors // chunk) if vectors else 0),
        ("mode", MODES.index(problem.padding_mode)), ("plane", plane), ("in_place", inside),
        ("phases", phases.ctypes.data), ("phase_count", len(taps)), ("bias_group", vectors * lanes * size),
    ):  # fmt: skip
        call[name] = number
    part, done = math.prod(pitches) * size, 0
    for record, combination, own in zip(phases, combinations, taps, strict=True):
        for name, axis, j in zip("zyx", axes, combination, strict=True):
            record[f"start_{name}"], record[f"count_{name}"] = axis.starts[j], axis.counts[j]
        offsets = [
            ((t[0][0] * len(y.residues) + t[1][0]) * len(x.residues) + t[2][0]) * part
            + ((t[0][1] * pitches[1] + t[1][1]) * pitches[2] + t[2][1]) * size
            for t in own
        ]
        table = (np.arange(channels, dtype=np.int64)[:, None] * plane + np.array(offsets, np.int64)).ravel()
        keep.append(table)
        record["terms"], record["offsets"] = channels * len(own), table.ctypes.data
        record["w_vector"] = channels * len(own) * lanes * size
        record["w_group"], record["w_offset"] = vectors * int(record["w_vector"]), done * size
        done += groups * vectors * channels * len(own) * lanes
    call["square_offset"] = 0 if inside else -(-input_bytes // 64) * 64
    call["sums_offset"] = int(call["square_offset"]) + lanes * lanes * size
    tasks = problem.batch * groups * int(call["chunks"]) * math.prod(int(call[f"blocks_{n}"]) for n in "zyx")
    return Geometry(
        call.reshape(1).view(np.int64), phases, tasks, -(-(int(call["sums_offset"]) + sums_bytes) // 64) * 64,
        max(1, int(TASK_FLOPS / max(problem.flops / max(tasks, 1), 1))), inside, (z.advance, y.advance, x.advance),
        tuple(tuple(tuple(o for *_, o in t) for t in own) for own in taps),  # type: ignore[misc]
        done, cycles, tuple(keep),
    )  # fmt: skip
