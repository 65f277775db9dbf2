"""How `winograd_narrow` divides a call, settled once for each: form, parts, blocks of tiles and scratch memory."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.winograd_forms import along_axes, parts_of
from gpuconv.backends.cpu.winograd_narrow_kernels import NARROW, PART
from gpuconv.backends.cpu.winograd_narrow_tiles import MOST_VECTORS
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "form_of", "geometry", "part_count"]

_OUTPUTS = {3: (2, 4), 4: (3, 3)}
"""Outputs of a tile along y and x, by the taps of a kernel's parts. Tiles of 4x4 would make a tenth less work of 3x3
taps and twice the error, which is more than that of a direct sum as short as those of few channels."""
_BLOCK_TILES = 8 * LANES
_KEPT_BYTES = 20 << 10
"""Sums of products, transformed along y, that wait for their last column."""
_MOST_ROWS = 16
_PACKED_BYTES = 192 << 10
_INPUT_BYTES = {16: 240 << 10, 32: 480 << 10}
"""Transformed inputs of a block of more than one row, by the number of registers: they stay in a second-level cache of
512 KiB or more where there are 16, and of 1 MiB or more where there are 32."""
_SPLIT_CYCLES = 12.0
"""To write a line of outputs of a vector that holds tiles of several rows, or fewer tiles than lanes."""
_TASK_CYCLES = 300e6
_DISTURBANCE = 0.2
"""Of a task's time: what a thread may be late by."""


class Geometry(NamedTuple):
    """A call's record as plain integers, to be copied and completed, and its stages."""

    words: Any
    form: int
    weight_tasks: int
    weight_scratch_bytes: int
    weight_bytes: int
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    cycles: float
    """Estimated until all tasks are done, weights given in the call."""
    kept: tuple[Any, ...]
    """Kept alive: `words` holds addresses of it."""


def _products(kernel: int, stride: int, taps: int, m: int) -> float:
    """Return the products of an output along an axis: parts of fewer taps need none at infinity."""
    parts = (
        -(-(kernel - first) // stride)
        for phase in range(min(stride, kernel))
        for first in range(phase, kernel, stride * taps)
    )
    return sum(m + taps - 1 - (n < taps) for n in parts) / m


def form_of(problem: ConvProblem) -> int | None:
    """Return the form with the fewest products, or None where the axes have too few taps after division by the stride.

    Both axes have its taps, so that there are few forms to compile.
    """
    kernel, stride, _ = along_axes(problem)
    longest = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    if min(longest) < 2 or max(longest) < 3:
        return None
    possible = [max(longest)] if max(longest) in _OUTPUTS else list(_OUTPUTS)
    taps = min(possible, key=lambda taps: math.prod(map(_products, kernel, stride, (taps, taps), _OUTPUTS[taps])))
    my, mx = _OUTPUTS[taps]
    return 1000 * my + 100 * taps + 10 * mx + taps


def part_count(problem: ConvProblem, form: int) -> int:
    """Return the number of parts of stride 1 that a kernel is divided into."""
    return len(parts_of(problem, form // 100 % 10, form % 10))


class _Axis(NamedTuple):
    """The packed input along an axis: position `place` of the array of a residue holds a tile's input."""

    advance: int
    offset: int
    residues: tuple[int, ...]
    reach: int

    def place(self, position: int) -> tuple[int, int]:
        """Return the number of its residue and the place of a tile's input."""
        return self.residues.index(position % self.advance), position // self.advance


def _axis(advance: int, offset: int, positions: set[int]) -> _Axis:
    residues = tuple(sorted({position % advance for position in positions}))
    return _Axis(advance, offset, residues, max(positions) // advance)


class _Part(NamedTuple):
    first: tuple[int, int, int]
    taps: tuple[int, int]
    is_full: tuple[bool, bool]
    """Whether it has all taps along y and along x."""


def _divided(problem: ConvProblem, ty: int, tx: int) -> list[_Part]:
    (ky, kx), (sy, sx), _ = along_axes(problem)
    found = []
    for first in parts_of(problem, ty, tx):
        taps = min(ty, -(-(ky - first[1]) // sy)), min(tx, -(-(kx - first[2]) // sx))
        found.append(_Part(first, taps, (taps[0] == ty, taps[1] == tx)))
    return found


def _even(total: int, most: int) -> int:
    """Return a block of at most `most`, so that all blocks are about the same."""
    return -(-total // -(-total // max(most, 1)))


def _round(n: int, multiple: int = 64) -> int:
    return -(-n // multiple) * multiple


class _Sizes(NamedTuple):
    """A correlation in tiles of one form."""

    my: int
    mx: int
    ny: int
    nx: int
    channels: int
    outputs: int
    images: int
    """Planes of outputs, of all images and groups."""
    parts: list[_Part]
    axes: tuple[_Axis, _Axis, _Axis]
    tiles_y: int
    tiles_x: int
    block_x: int
    """Tiles in a row of a block."""
    row_tiles: int
    """What a tile's number grows by from one row of a block to the next: vectors hold tiles of neighbouring numbers."""
    positions: int
    """Transformed inputs of a tile that are multiplied, of all channels."""

    @property
    def inputs(self) -> int:
        """Transformed inputs of a tile, of all channels."""
        return self.channels * len(self.parts) * self.ny * self.nx

    @property
    def pitch_x(self) -> int:
        """Elements of a packed line."""
        return max(self.row_tiles, self.block_x + self.axes[2].reach)

    @property
    def blocks_x(self) -> int:
        """Blocks of a row of tiles."""
        return -(-self.tiles_x // self.block_x)

    def vectors(self, rows: int) -> int:
        """Return the vectors of tiles of a block of `rows` rows."""
        return -(-((rows - 1) * self.row_tiles + self.block_x) // LANES)

    def split_vectors(self, rows: int) -> int:
        """Return how many of them hold something else than tiles of one row."""
        starts = (row * self.row_tiles for row in range(rows))
        return self.vectors(rows) - sum(max((n + self.block_x) // LANES - -(-n // LANES), 0) for n in starts)

    def plane_bytes(self, rows: int) -> int:
        """Return the bytes of a packed channel for a block of `rows` rows of tiles."""
        z, y, x = self.axes
        lines = (1 + z.reach) * len(z.residues) * (rows + y.reach) * len(y.residues)
        return _round(4 * lines * self.pitch_x * len(x.residues))

    def tasks(self, rows: int) -> int:
        """Return the number of tasks, one for a block."""
        return self.images * self.blocks_x * -(-self.tiles_y // rows)

    def task_cycles(self, rows: int) -> float:
        """Return the estimated cycles of a task."""
        output = 0.6 * self.positions + self.my * (self.nx * 2.0 + self.mx * 2.5) + self.nx * self.ny
        vector = self.outputs * output + 6.0 * self.inputs
        split = self.split_vectors(rows) * self.outputs * self.my * _SPLIT_CYCLES
        return self.vectors(rows) * vector + split + 0.6 * self.channels * self.plane_bytes(rows) + 3000

    def cycles(self, rows: int) -> float:
        """Return the estimated cycles until all tasks are done, the last of them by a thread that was disturbed."""
        return (-(-self.tasks(rows) // threads.count()) + _DISTURBANCE) * self.task_cycles(rows)

    def input_bytes(self, rows: int) -> int:
        """Return the bytes of a block's transformed inputs."""
        return self.vectors(rows) * self.positions * VECTOR

    def block_rows(self) -> int:
        """Return the rows of tiles of a block."""
        most = _INPUT_BYTES[simd.registers()]
        possible = [
            r
            for r in range(1, min(self.tiles_y, _MOST_ROWS) + 1)
            if r == 1 or (self.channels * self.plane_bytes(r) <= _PACKED_BYTES and self.input_bytes(r) <= most)
        ]
        # A vector that is left over is multiplied alone.
        odd = [self.vectors(r) % MOST_VECTORS for r in possible]
        return min(zip(possible, odd, strict=True), key=lambda r: (self.cycles(r[0]) * (1 + 0.05 * r[1]), r[0]))[0]


def _sizes(problem: ConvProblem, form: int) -> _Sizes:
    my, ty, mx, tx = (form // power % 10 for power in (1000, 100, 10, 1))
    ny, nx = my + ty - 1, mx + tx - 1
    _, (sy, sx), _ = along_axes(problem)
    kz, sz, dz = ((1, 1, *values)[-3] for values in (problem.kernel, problem.stride, problem.dilation))
    out_z, out_y, out_x = (1, 1, *problem.output)[-3:]
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    parts = _divided(problem, ty, tx)
    # Offsets count from the first input that negative padding has left.
    start = [(0, 0)] * (3 - problem.rank) + [
        (max(before, 0), low) for (before, _), (low, _) in zip(problem.padding, problem.cropped, strict=True)
    ]
    offsets = [low - before for before, low in start]
    axes = (
        _axis(sz, offsets[0], {first * dz for first in range(kz)}),
        _axis(my * sy, offsets[1], {part.first[1] + i * sy for part in parts for i in range(ny)}),
        _axis(mx * sx, offsets[2], {part.first[2] + j * sx for part in parts for j in range(nx)}),
    )
    tiles_x = -(-out_x // mx)
    block_x = _even(tiles_x, _BLOCK_TILES)
    positions = channels * sum(
        (ny - (not is_full_y)) * (nx - (not is_full_x)) for is_full_y, is_full_x in (part.is_full for part in parts)
    )
    # Vectors of a row's tiles alone are written at once; those that run on into the next row waste no lanes.
    possible = (
        _Sizes(
            my, mx, ny, nx, channels, outputs, problem.batch * out_z * problem.groups, parts, axes, -(-out_y // my),
            tiles_x, block_x, row_tiles, positions,
        )
        for row_tiles in (_round(block_x, LANES), block_x + axes[2].reach)
    )  # fmt: skip
    return min(possible, key=lambda s: s.cycles(s.block_rows()))


def _places(s: _Sizes) -> tuple[Array, dict[str, int]]:
    """Return the parts' records, with the places of their channels in a column, and how many channels there are.

    Those with the last row of positions come before those without.
    """
    table = np.zeros(len(s.parts), PART)
    table["place_last"] = -1
    lengths, counts = [0, 0], {"full": 0, "short": 0, "full_last": 0, "short_last": 0}
    for is_full in (True, False):
        for record, part in zip(table, s.parts, strict=True):
            if part.is_full[0] != is_full:
                continue
            record["has_last_row"] = is_full
            for name, value in zip(("tap_z", "tap_y", "tap_x"), part.first, strict=True):
                record[name] = value
            record["taps_y"], record["taps_x"] = part.taps
            for column in range(1 + part.is_full[1]):
                record["place_last" if column else "place"] = lengths[column]
                lengths[column] += s.channels * (s.ny - 1 + is_full)
                counts[("full" if is_full else "short") + "_last" * column] += s.channels
    return table, counts


def _offsets(problem: ConvProblem, s: _Sizes, part: _Part, pitch_y: int) -> Array:
    """Return the bytes from a tile's place in the packed input to each of its inputs."""
    z, y, x = s.axes
    _, (sy, sx), _ = along_axes(problem)
    dz = (1, 1, *problem.dilation)[-3]
    residue_z, place_z = z.place(part.first[0] * dz)
    found = []
    for i in range(s.ny):
        residue_y, place_y = y.place(part.first[1] + i * sy)
        for j in range(s.nx):
            residue_x, place_x = x.place(part.first[2] + j * sx)
            array = (residue_z * len(y.residues) + residue_y) * len(x.residues) + residue_x
            line = (array * (1 + z.reach) + place_z) * pitch_y + place_y
            found.append(4 * (line * s.pitch_x + place_x))
    return np.array(found, np.int64)


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, form: int) -> Geometry:
    """Return the tables of a correlation of a form."""
    s = _sizes(problem, form)
    rows, groups = s.block_rows(), problem.groups
    pitch_y = rows + s.axes[1].reach
    table, counts = _places(s)
    tables = [_offsets(problem, s, part, pitch_y) for part in s.parts]
    table["offsets"] = [offsets.ctypes.data for offsets in tables]
    kept: list[Any] = [table, tables]
    kept_bytes = s.my * s.nx * MOST_VECTORS * VECTOR
    chunk = min(2 * _even(-(-s.outputs // 2), _KEPT_BYTES // (2 * kept_bytes)), s.outputs)
    (sy, sx), (out_z, out_y, out_x) = along_axes(problem)[1], (1, 1, *problem.output)[-3:]
    fields: dict[str, int] = counts | {
        "channels": s.channels, "outputs": s.outputs, "groups": groups, "mode": problem.mode_code,
        "block_y": rows, "block_x": s.block_x, "reach_x": s.axes[2].reach,
        "pitch_z": 1 + s.axes[0].reach, "pitch_y": pitch_y, "pitch_x": s.pitch_x, "plane": s.plane_bytes(rows),
        "out_z": out_z, "out_y": out_y, "out_x": out_x, "tiles_y": s.tiles_y, "tiles_x": s.tiles_x,
        "row_tiles": s.row_tiles, "blocks_y": -(-s.tiles_y // rows), "blocks_x": s.blocks_x,
        "parts": table.ctypes.data, "part_count": len(s.parts), "stride_y": sy, "stride_x": sx, "chunk": chunk,
        "u_group": _round(4 * s.outputs * s.positions), "low_z": 0, "low_y": 0, "high_z": 1, "high_y": 1,
    }  # fmt: skip
    for name, axis in zip("zyx", s.axes, strict=True):
        residues = np.array(axis.residues, np.int64)
        kept.append(residues)
        fields |= {
            f"advance_{name}": axis.advance, f"offset_{name}": axis.offset, f"residues_{name}": residues.ctypes.data,
            f"residue_count_{name}": len(residues),
        }  # fmt: skip
    for name, (low, high) in zip("xyz", reversed(problem.cropped), strict=False):
        fields |= {f"low_{name}": low, f"high_{name}": high}
    offset = _round(s.channels * fields["plane"] + VECTOR)
    for name, size in (
        ("line", 4 * s.axes[2].advance * s.pitch_x),
        ("v", s.input_bytes(rows)),
        ("m", chunk * kept_bytes),
        ("rest", chunk * s.my * s.mx * VECTOR),
        ("lanes", s.vectors(rows) * VECTOR),
        ("total", VECTOR + s.ny * MOST_VECTORS * VECTOR),
    ):
        fields[f"{name}_offset"] = offset
        offset += _round(size)
    call = np.zeros((), NARROW)
    for name, value in fields.items():
        call[name] = value
    weights = sum(2.0 * (math.prod(part.taps) + s.ny * s.nx) for part in s.parts)
    return Geometry(
        call.reshape(1).view(np.int64), form, groups * -(-s.outputs // LANES), _round(4 * LANES * s.ny * s.nx),
        groups * fields["u_group"], s.tasks(rows), offset, max(1, int(_TASK_CYCLES / s.task_cycles(rows))),
        s.cycles(rows) + groups * s.outputs * s.channels * weights / threads.count(), tuple(kept),
    )  # fmt: skip
