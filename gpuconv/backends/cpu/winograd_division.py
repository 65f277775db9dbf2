"""How the work of a Winograd correlation is divided: blocks of tiles, stages, and what each division would take."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

from gpuconv.backends.cpu.simd import registers
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_tiles import most_tiles
from gpuconv.tuning import CPU_WINOGRAD

if TYPE_CHECKING:
    from gpuconv.backends.cpu.winograd_forms import Sizes

__all__ = ["PRODUCTS", "Division", "best_division", "division"]

_INPUT_BYTES = {16: 1280 << 10, 32: 640 << 10}
"""Transformed inputs of a block that a second-level cache still holds with all else, by the number of registers: 1 MiB
and more where there are 32. With 16 none of half a MiB was seen to matter."""
_LARGE_BYTES = 4 << 20
"""Those of a block, and its products of further phases, that stay in a thread's share of a last-level cache."""
PRODUCTS = 2016
"""Products of a block and one channel, at most, where more gain nothing: 56 tiles of F(4x4)."""
_SPLIT_BYTES = 32 << 20
"""Transformed inputs that may be kept in memory, for the sake of an even division among the threads."""
_FEW_TASKS = 64
"""Tasks of unequal sizes that leave a worker idle for long enough to count."""
_FALL = 0.6
"""By how much the time to read transformed weights grows where they are twice as many as a cache holds."""
_CUTS = 0.3
"""What blocks that begin anywhere in a row add to the transforms."""


class Division(NamedTuple):
    """One way to divide the work: blocks of tiles, of whole units of so many neighbours in a row."""

    seconds: float
    unit: int
    blocks: int
    split: bool
    inside: bool
    """Whether every task transforms the weights that it uses, rather than one stage for all."""

    def tiles(self, s: Sizes) -> int:
        """Return the most tiles of a block."""
        return -(-s.units(self.unit) // self.blocks) * self.unit


@functools.lru_cache(maxsize=4096)
def _busiest_share(units: int, blocks: int, groups: int, workers: int) -> float:
    """Return the share of all tiles that is the busiest worker's, where each takes one block after the other."""
    if blocks * groups > _FEW_TASKS:
        return -(-blocks * groups // workers) / (blocks * groups)
    busy = [0] * workers
    for task in range(blocks * groups):
        block = task % blocks
        busy[busy.index(min(busy))] += units * (block + 1) // blocks - units * block // blocks
    return max(busy) / (units * groups)


def division(s: Sizes, unit: int, blocks: int, split: bool, packed: bool, workers: int) -> Division:
    """Return the division with its estimated seconds."""
    number, total = s.groups * blocks, s.tiles * s.groups
    tiles = Division(0.0, unit, blocks, split, False).tiles(s)
    rates = CPU_WINOGRAD[8 * VECTOR]
    inputs, outputs = s.vectors * LANES, s.blocks * 2 * LANES * s.phases
    weights = s.kept / len(s.sections) * s.groups * inputs * outputs
    # Blocks that begin within a row are cut into more and shorter runs.
    transform = rates.transform
    if s.dilation_x == unit < s.tiles_x:
        transform *= 1 + _CUTS * min(2 * blocks / (s.batch * s.tiles_y), 1.0)
    first = (s.made if s.phases == 1 else s.products) * total * inputs * transform
    then = 2.0 * s.made * inputs * outputs * total / rates.flops + s.products * total * outputs * transform
    if split:
        first += total * s.tile_bytes / rates.exchange
    held = 0.0 if split else min(_INPUT_BYTES[registers()] / (tiles * s.tile_bytes), 1.0)
    then += (1 - held) * total * s.tile_bytes * s.blocks * s.phases / rates.inputs
    if split:
        tasks = number * s.blocks * s.runs_y
        busiest = -(-tasks // workers) / tasks
    else:
        busiest = _busiest_share(s.units(unit), blocks, s.groups, workers)
    seconds = rates.overhead + first * (1 / workers if split else busiest) + then * busiest
    traffic = rates.traffic / (1 + _FALL * math.log2(max(4 * weights / rates.cached, 1)))
    taps = s.taps * weights / s.kept * rates.taps
    kept = 4 * weights * blocks / traffic * busiest
    if not packed:
        kept += (weights * rates.kept_weights + taps) / workers
    # A section at a time reads all taps again.
    anew = (weights * rates.weights + taps * len(s.sections)) * blocks * busiest
    inside = not packed and anew < kept
    return Division(seconds + (anew if inside else kept), unit, blocks, split, inside)


def best_division(s: Sizes, packed: bool, workers: int) -> Division:
    """Return the division with the least estimated seconds."""
    # The products of all phases along x wait for each other.
    waiting = s.tile_bytes + (s.runs_x - 1) * s.products * 2 * VECTOR
    large = max(PRODUCTS // (s.products * -(-s.runs_x // 2)), 2 * most_tiles())
    small = max(min(large, _INPUT_BYTES[registers()] // s.tile_bytes), 2 * most_tiles())
    # Weights are read once for a block: fewer blocks pay where they are many.
    larger = max(_LARGE_BYTES // waiting, large)
    found, sizes = set(), (small, large, min(4 * large, larger), larger)
    # Tiles of a dilated row are interleaved: those of one offset each stay together.
    least = min(s.dilation_x, s.tiles_x)
    rows = {-(-s.tiles_x // -(-s.tiles_x // most)) for most in sizes}
    shares = {min(-(-row // s.dilation_x) * s.dilation_x, s.tiles_x) for row in rows}
    for unit in {s.tiles_x, least} | shares:
        units = s.units(unit)
        for most in (most for most in sizes if unit <= max(most, least)):
            blocks = -(-units // max(most // unit, 1))
            # As many blocks for each worker are an even division.
            even = min(-(-blocks // workers) * workers, units)
            found |= {(unit, blocks, False), (unit, even, False)}
        if workers > 1 and unit <= max(large, least) and s.tiles * s.groups * s.tile_bytes <= _SPLIT_BYTES:
            found.add((unit, -(-units // max(large // unit, 1)), True))
    return min(division(s, *each, packed, workers) for each in sorted(found))
