"""Which block of outputs, and how many vectors of channels, a task of the blocked algorithm takes."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.axes import Axis, odd_lines
from gpuconv.backends.cpu.blocked_tiles import VECTORS, tile_places
from gpuconv.backends.cpu.tasks import TASK_FLOPS, cycles_until_done

__all__ = ["Choice", "Work"]

_SCRATCH_BYTES = {16: 192 << 10, 32: 512 << 10}
"""Inputs of a block and sums of a strip, by the number of registers: they stay in a second-level cache of 512 KiB or
2 MiB beside the weights that pass."""
_STRIP = 48
"""Places, about, that are summed before they are written: so few that their lines of y are fetched meanwhile."""
_LINE_CYCLES = 20.0
"""To pack a line, beside its vectors."""
_TILE_CYCLES = 120.0
"""To begin and to end a tile."""
_WRITE_CYCLES = 4.0
"""To turn a vector of sums around and write it."""
_PHASES_CYCLES = 2.0
"""More for each where phases are written beside each other."""
_LOAD_CYCLES = 4.0
"""A vector of weights from a second-level cache."""
_UNSHARED = 1.25
"""What products take longer where no taps of a line share its cache lines."""
_WEIGHTS_CYCLES = 1.0
"""A vector of weights from a last-level cache, once a block, beside what its products take."""
_TASK_CYCLES = 4000.0
"""To begin a task, whose first inputs and weights are not near."""
_PARTS = 16
"""Into how many parts the lines of a map are divided at most: blocks of fewer lines copy most lines twice."""


class Choice(NamedTuple):
    """How the work is divided."""

    cycles: float
    """Estimated until all tasks are done."""
    block: tuple[int, int, int]
    """Outputs of a task, in each phase, along z, y and x."""
    vectors: int
    """Of output channels, of a task."""


class Work(NamedTuple):
    """What a choice is judged by."""

    axes: tuple[Axis, ...]
    advances: tuple[int, ...]
    """Places of the packed input from one output to the next."""
    channels: int
    vectors: int
    """Of a group's output channels."""
    terms: tuple[int, ...]
    """Of each phase's sums."""
    images: int
    """Times groups."""
    lanes: int
    size: int
    inside: bool
    """Whether x is read where it lies."""

    def pitches(self, block: tuple[int, ...]) -> tuple[int, ...]:
        """Return the places of the packed input of a block along each axis, for each residue."""
        return tuple(
            (b - 1) * n + 1 + axis.reach for axis, n, b in zip(self.axes, self.advances, block, strict=True)
        )  # fmt: skip

    def channel_bytes(self, block: tuple[int, ...]) -> int:
        """Return the bytes of a channel's inputs of a block."""
        residues = math.prod(len(axis.residues) for axis in self.axes)
        return odd_lines(math.prod(self.pitches(block)) * residues * self.size)

    def sums_bytes(self, block: tuple[int, ...]) -> int:
        """Return the bytes of a strip's sums, and of the vectors beyond them that its last square reads."""
        outputs = math.prod(n * axis.step for n, axis in zip((1, *self.strip(block)), self.axes, strict=True))
        return (outputs + self.lanes) * min(VECTORS, self.vectors) * self.lanes * self.size

    def strip(self, block: tuple[int, ...]) -> tuple[int, int]:
        """Return the lines of a strip and the places of a line, in each phase."""
        _, by, bx = block
        if bx > _STRIP:
            return 1, -(-bx // (bx // _STRIP))
        return min(by, _STRIP // bx), bx

    def task_cycles(self, block: tuple[int, ...], vectors: int) -> float:
        """Return the estimated cycles of a task."""
        bz, by, bx = block
        tiles, terms = -(-bx // tile_places()), sum(self.terms)
        unshared = 1.0 if max(map(len, self.axes[2].places)) > 1 else _UNSHARED
        written = _WRITE_CYCLES + (_PHASES_CYCLES if len(self.terms) > 1 else 0.0)
        cycles = _TASK_CYCLES
        for width, count in ((VECTORS, vectors // VECTORS), (vectors % VECTORS, 1)):
            if width == 0:
                continue
            products = 0.0
            for places, number in ((bx // tiles + 1, bx % tiles), (bx // tiles, tiles - bx % tiles)):
                # A product of a vector takes half a cycle, and so do loads; the weights of a tile take theirs anyhow.
                longest = max(places * width * 0.52, (places + width) * 0.55, _LOAD_CYCLES * width)
                products += number * longest * unshared
            begun = len(self.terms) * (tiles * _TILE_CYCLES + bx * width * written)
            cycles += count * (bz * by * (terms * products + begun) + terms * width * _WEIGHTS_CYCLES)
        if not self.inside:
            pz, py, px = self.pitches(block)
            lines = pz * py * math.prod(len(axis.residues) for axis in self.axes)
            cycles += self.channels * lines * (_LINE_CYCLES + px / self.lanes)
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

    def blocks(self) -> list[tuple[int, int, int]]:
        """Return the blocks to choose from: a few parts of each axis, the least one first."""
        z, y, x = self.axes
        most = tile_places()
        lines = {most * n for n in (1, 2, 4, 8, 16) if most * n < x.outputs}
        if y.outputs == z.outputs == 1:
            # Equal parts of a single line, so that all threads end together.
            parts = range(threads.count(), 32 * threads.count() + 1, threads.count())
            lines |= {w for w in (-(-x.outputs // n) for n in parts) if w >= min(most, x.outputs)}
        found = [(1, 1, bx) for bx in sorted(lines)]
        rows = {1} | {-(-y.outputs // n) for n in range(1, _PARTS + 1)}
        planes = {1} | {-(-z.outputs // n) for n in (1, 2, 4, 8)}
        return found + [(bz, by, x.outputs) for by in sorted(rows) for bz in sorted(planes)]

    def choose(self) -> Choice:
        """Return the division of the work that is the fastest by estimate."""
        limit, tiles = _SCRATCH_BYTES[simd.registers()], -(-self.vectors // VECTORS)
        chunks = {min(self.vectors, -(-tiles // n) * VECTORS) for n in (1, 2, 3, 4, 8, 16, tiles)}
        blocks = self.blocks()
        near = [b for b in blocks if self.channels * self.channel_bytes(b) + self.sums_bytes(b) <= limit]
        found = []
        for block in near or blocks[:1]:
            for own in chunks:
                # A call can be interrupted between tasks.
                flops = 2.0 * sum(self.terms) * own * self.lanes * math.prod(block)
                if flops <= TASK_FLOPS or (block == blocks[0] and own <= VECTORS):
                    found.append(Choice(self.cycles(block, own), block, own))
        return min(found or [Choice(self.cycles(blocks[0], min(chunks)), blocks[0], min(chunks))])
