"""Which block of outputs and which rows of weights a task of the implicit matrix product takes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.direct_kernels import ROWS
from gpuconv.backends.cpu.gemm_tiles import WIDTH
from gpuconv.backends.cpu.tasks import TASK_FLOPS, cycles_until_done

if TYPE_CHECKING:
    from gpuconv.backends.cpu.axes import Axis

__all__ = ["LINES", "PANELS", "PLANES", "Choice", "Work", "choose", "round_up", "runs"]

PANELS, LINES, PLANES = range(3)
"""What tiles read: panels, or packed inputs where they lie: each line's outputs as a run, or a plane's with the gaps
between its lines."""

_BLOCK_VECTORS = {16: 50, 32: 144}
"""Vectors of a block, about, by the number of registers: its panels, packed input and sums stay near in a second-level
cache, of 512 KiB or more where there are 16 registers and 1 MiB or more where there are 32."""
_PHASE_VECTORS = {16: 36, 32: 100}
"""The same where several phases' sums wait beside each other."""
_DIRECT_VECTORS = 144
"""The same where inputs are read where they lie and sums are complete after one range of terms."""
_SUMS_BYTES = 1 << 20
"""A task's sums in scratch memory at most; with 16 registers a quarter for those of phases, which are read again to be
mixed."""
_PHASES_CYCLES = 16.0
"""To turn a vector of sums of one of several phases to its places in y and to write it, beside those of the others."""
_WEIGHT_CYCLES = 0.4
"""To pack a weight within a task."""
_PANEL_CYCLES = 4.0
"""To copy a vector of inputs into a panel, beside two fused operations a cycle: 2.5 where a vector is computed in one
pass (Emerald Rapids), 6 in two (Zen 4)."""
_NARROW_TILE = {1: 1.3, 2: 1.05}
"""What products of a run of one or two vectors take for one of wider tiles."""
_UNALIGNED = 1.05
_LEAST_GAIN = 0.85
"""What reading packed lines makes of an estimate at least, and so is tried for."""


def round_up(n: int, multiple: int) -> int:
    """Return the least multiple of a number that is at least n."""
    return -(-n // multiple) * multiple


class Work(NamedTuple):
    """What a choice of blocks is judged by."""

    axes: tuple[Axis, ...]
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


class Choice(NamedTuple):
    """How the work is divided."""

    cycles: float
    """Estimated until all tasks are done."""
    block: tuple[int, int, int]
    """Outputs of a task, along z, y and x."""
    rows: int
    """Rows of weights of a task."""
    runs_of: int
    """What tiles read."""


def runs(axes: tuple[Axis, ...], block: tuple[int, ...], runs_of: int) -> tuple[int, int]:
    """Return the runs of outputs that tiles of a block are made of, and the outputs of each."""
    bz, by, bx = block
    if runs_of == LINES:
        return bz * by, bx
    if runs_of == PLANES:
        return bz, (by - 1) * (bx + axes[2].reach) + bx
    return 1, bz * by * bx


def _task_cycles(work: Work, block: tuple[int, ...], rows: int, runs_of: int) -> float:
    """Return the estimated cycles of a task."""
    bz, by, bx = block
    number, pixels = runs(work.axes, block, runs_of)
    vectors = number * -(-pixels // work.lanes)
    # Two fused operations a cycle; a tile of one or two rows waits for its own sums.
    left = rows % ROWS
    short = max(left & 4, 0) / 2 + 1.4 * ((left >> 1 & 1) + (left & 1))
    compute = work.terms * (rows // ROWS * (vectors * ROWS / 2 + 2) + short * vectors + 4)
    panels = 0.0
    if runs_of == PANELS and not work.one_line:
        panels = work.packed_terms * _PANEL_CYCLES * (vectors + -(-vectors // WIDTH) + bz * by)
    if runs_of != PANELS:
        # A narrow tile's loads take as long as its products, and loads that cross a cache line twice as long.
        compute *= _NARROW_TILE.get(vectors // number, 1.0) * _UNALIGNED
    lines = math.prod(
        (b + axis.reach) * len(axis.residues) for b, axis in zip(block[:2], work.axes[:2], strict=True)
    ) * len(work.axes[2].residues)
    line = (bx + work.axes[2].reach) * (2.0 / work.lanes if work.axes[2].advance == 1 else 0.7) + 30
    copied = 0.0 if work.inside else work.channels * lines * line
    written = rows * vectors * work.phases * (_PHASES_CYCLES if work.phases > 1 else 1.0)
    if work.phases == 1 and runs_of != PANELS and (runs_of == PLANES or bx % work.lanes):
        written += rows * bz * by * (10 + 2 * bx // work.lanes * (runs_of == PLANES))
    weights = work.terms * rows * _WEIGHT_CYCLES if work.packs_weights else 0.0
    return compute + panels + copied + written + weights + 3000


def _cycles(work: Work, block: tuple[int, int, int], rows: int, runs_of: int) -> float:
    """Return the estimated cycles until all tasks are done."""
    sizes = (*((axis.outputs, b) for axis, b in zip(work.axes, block, strict=True)), (work.rows, rows))
    tasks: list[tuple[float, int]] = []
    # Along each axis the whole blocks, and what is left.
    for kinds in itertools.product(*(((size // b, b), (1, size % b)) for size, b in sizes)):
        if all(b for _, b in kinds):
            *part, part_rows = (b for _, b in kinds)
            number = work.images * math.prod(n for n, _ in kinds)
            tasks.append((_task_cycles(work, tuple(part), part_rows, runs_of), number))
    return cycles_until_done(tasks, work.workers)


def choose(work: Work) -> Choice:
    """Return the division of the work that is the fastest by estimate."""
    z, y, x = work.axes
    registers = simd.registers()
    limit = _DIRECT_VECTORS
    if not work.is_direct:
        limit = (_PHASE_VECTORS if work.phases > 1 else _BLOCK_VECTORS)[registers]
    limit *= work.lanes
    most_sums = _SUMS_BYTES // (4 if work.phases > 1 and registers < 32 else 1)
    unit = WIDTH * work.lanes
    widths = {x.outputs} if x.outputs <= 2 * limit else set()
    widths |= {min(x.outputs, unit * n) for n in (1, 2, 3, 4, 6, 8, 10, 12) if unit * n < 2 * x.outputs or n == 1}
    if y.outputs == z.outputs == 1:
        # Equal parts of a single line, so that all threads end together.
        parts = range(work.workers, 16 * work.workers + 1, work.workers)
        widths |= {w for w in (round_up(-(-x.outputs // n), work.lanes) for n in parts) if unit <= w <= limit}
    best = Choice(math.inf, (1, 1, min(widths)), ROWS, PANELS)
    row_choices = {min(round_up(-(-work.rows // n), ROWS), work.rows) for n in (1, 2, 3, 4, 6, 8, 16, 32)}
    for bx in widths:
        for by in range(1, y.outputs + 1):
            if by > 1 and (bx < x.outputs or by * bx > limit):
                break
            for bz in range(1, z.outputs + 1):
                if bz > 1 and (by < y.outputs or bz * by * bx > limit):
                    break
                for rows in row_choices:
                    sums = rows * bz * by * bx * work.phases * 4
                    if sums > most_sums and rows > ROWS:
                        continue
                    if 2.0 * work.terms * rows * bz * by * bx > TASK_FLOPS and rows > ROWS:
                        continue
                    found = Choice(_cycles(work, (bz, by, bx), rows, PANELS), (bz, by, bx), rows, PANELS)
                    best = min(best, found)
                    if not work.inside and _LEAST_GAIN * found.cycles < best.cycles:
                        for runs_of in (LINES, PLANES):
                            cycles = _cycles(work, (bz, by, bx), rows, runs_of)
                            best = min(best, found._replace(cycles=cycles, runs_of=runs_of))
    return best
