"""The compiled kernel of the stencil algorithm, and the functions that read and write rows of each element type.

A kernel takes the address of a `CALL` record, which `stencil_geometry` fills. Sizes, steps and taps are run-time
values: a new shape compiles nothing. An axis that a problem of lower rank lacks has size 1.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import load, read, store
from gpuconv.backends.cpu.records import record, record_at
from gpuconv.backends.cpu.rows import copy_places, copy_rows, fill_places, split_rows, write_places
from gpuconv.backends.cpu.simd import call
from gpuconv.backends.cpu.stencil_tiles import PART_BYTES
from gpuconv.boundary import source_index

__all__ = [
    "CALL",
    "PART_BYTES",
    "block_packing",
    "call_record",
    "correlation",
    "row_packing",
    "row_writing",
    "source_place",
]


CALL = record(
    # the arrays, and the bytes between neighbours along each of their axes
    "x xn xc xz xy xx y yn yc yz yy w bias fill divisor "
    # the record, the functions that pack rows, compute 8, 4 and 1 rows and convert a row, and an element's bytes
    "itself pack block_8 block_4 block_1 write size y_size "
    # what a group has, the groups of a task, and the bytes of an output channel's weights
    "channels outputs groups group_chunk group_chunks w_bytes bias_step parts part_count "
    # the border mode, and the range of inputs that negative padding leaves on each axis
    "mode low_z low_y low_x high_z high_y high_x "
    # output j reads inputs advance * j + offset + ...; a task takes a block of outputs
    "advance_z advance_y advance_x offset_z offset_y offset_x count_z count_y count_x "
    "block_z block_y block_x blocks_z blocks_y blocks_x reach_z reach_y reach_x "
    # rows of a tile: how many, how many outputs apart, and the bytes between the inputs that they begin with
    "rows row_gap row_step column_step "
    # the packed input: residues of columns modulo the advance, places of each that are read, and that it has,
    # bytes of a row, a plane and a channel
    "residues used pitch row_bytes plane channel_bytes "
    # where the packed input begins in scratch memory, so that x's first column stands at a cache line; rows of sums
    # that are yet to be converted
    "lead sums_offset sums_step "
    # tiles whose rows are packed before the first is computed
    "tiles_together "
    # whether rows are read where x has them, by which functions, their length and number, a vector's elements, and up
    # to how many outputs a row's vectors all have masks
    "in_place in_place_8 in_place_4 size_x size_y lanes masked_x"
)
"""One call; what belongs to the caller's arrays comes first."""

_KERNEL = types.void(types.CPointer(from_dtype(CALL)), types.int64, types.int64)
source_place = njit(source_index, error_model="numpy")


@functools.cache
def row_packing(source: int, accumulator: int) -> int:
    """Return the address of the function that packs one row of inputs."""
    return int(_row_packing(source, accumulator, simd.BYTES[accumulator], simd.source_version()).address)


def _row_packing(source: int, accumulator: int, size: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def pack(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        to, start, first, count, pitch, advance = (
            read(a), read(a + 8), read(a + 16), read(a + 24), read(a + 32), read(a + 40)
        )  # fmt: skip
        size_x, step, mode, is_outside, fill, pixel = (
            read(a + 48), read(a + 56), read(a + 64), read(a + 72), read(a + 80), read(a + 88)
        )  # fmt: skip
        value = load(fill, accumulator, accumulator)
        _pack_row(
            to, start, first, count, pitch, advance, size_x, pixel, step, mode, is_outside, value, source, accumulator,
            size,
        )  # fmt: skip

    return pack


@functools.cache
def row_writing(accumulator: int, target: int) -> int:
    """Return the address of the function that converts one row of sums into results."""
    return int(_row_writing(accumulator, target, simd.source_version()).address)


def _row_writing(accumulator: int, target: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def write(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        write_places(read(a), read(a + 8), read(a + 16), accumulator, target)

    return write


@njit(error_model="numpy")
def _border_place(mode, place, size, pixel):  # type: ignore[no-untyped-def]
    """Return the element of a row that stands at a place beyond its ends, where `pixel` neighbours have one place."""
    if pixel == 1:
        return source_place(mode, place, size)
    whole = place // pixel
    return source_place(mode, whole, size // pixel) * pixel + place - whole * pixel


@njit(error_model="numpy")
def _pack_row(to, start, first, count, pitch, advance, size_x, pixel, step, mode, is_outside, fill, source, code, size):  # type: ignore[no-untyped-def]
    """Copy inputs first, first + advance, ... of the row at `start`, `count` of them, the border filled in.

    The places from `count` to `pitch` are filled too: whole vectors are read and written, up to one past `pitch`.
    """
    if is_outside:
        fill_places(to, pitch, fill, code)
        return
    if advance == 1:
        inner, outer = min(max(-first, 0), count), size_x - first
    else:
        inner, outer = min(max(-(first // advance), 0), count), -((first - size_x) // advance)
    outer = min(max(outer, inner), count)
    if mode == 0:
        fill_places(to, inner, fill, code)
    else:
        for i in range(inner):
            at = _border_place(mode, first + advance * i, size_x, pixel)
            store(to + i * size, load(start + at * step, source, code), code, code)
    copy_places(
        to + inner * size, start + (first + advance * inner) * step, outer - inner, advance * step, source, code
    )
    if mode == 0:
        fill_places(to + outer * size, pitch - outer, fill, code)
    else:
        for i in range(outer, count):
            at = _border_place(mode, first + advance * i, size_x, pixel)
            store(to + i * size, load(start + at * step, source, code), code, code)
        fill_places(to + count * size, pitch - count, fill, code)


call_record = record_at(CALL)


@njit(error_model="numpy")
def _pack_halves(p, start_z, to, row, rows, iz, first_y, qx, count, source, accumulator, size):  # type: ignore[no-untyped-def]
    """Copy the inside of rows, every second column to the one residue and every second to the other."""
    size_y, size_x = p.high_y - p.low_y, p.high_x - p.low_x
    first = 2 * qx + p.offset_x - p.low_x
    inner_0, inner_1 = min(max(-(first >> 1), 0), count), min(max(-((first + 1) >> 1), 0), count)
    outer_0 = min(max(-((first - size_x) >> 1), inner_0), count)
    outer_1 = min(max(-((first + 1 - size_x) >> 1), inner_1), count)
    inner, outer = max(inner_0, inner_1), min(outer_0, outer_1)
    outer = max(outer, inner)
    begin, end = max(row, -first_y), min(rows, size_y - first_y)
    if iz < 0 or begin >= end:
        return
    start = start_z + (first_y + begin + p.low_y) * p.xy + first * p.xx
    evens = to + begin * p.row_bytes
    odds = evens + p.pitch * size
    split_rows(
        evens + inner * size, odds + inner * size, p.row_bytes, start + 2 * inner * p.xx, p.xy, end - begin,
        outer - inner, source, accumulator,
    )  # fmt: skip
    # Where the first or the last column belongs to one residue only.
    for i in range(inner_0, min(inner, outer_0)):
        _copy_column(evens + i * size, p.row_bytes, start + 2 * i * p.xx, p.xy, end - begin, source, accumulator)
    for i in range(inner_1, min(inner, outer_1)):
        _copy_column(odds + i * size, p.row_bytes, start + (2 * i + 1) * p.xx, p.xy, end - begin, source, accumulator)
    for i in range(outer, outer_0):
        _copy_column(evens + i * size, p.row_bytes, start + 2 * i * p.xx, p.xy, end - begin, source, accumulator)
    for i in range(outer, outer_1):
        _copy_column(odds + i * size, p.row_bytes, start + (2 * i + 1) * p.xx, p.xy, end - begin, source, accumulator)


@njit(error_model="numpy")
def _copy_column(to, to_step, address, step, rows, source, accumulator):  # type: ignore[no-untyped-def]
    for _ in range(rows):
        store(to, load(address, source, accumulator), accumulator, accumulator)
        to += to_step
        address += step


@functools.cache
def block_packing(source: int, accumulator: int) -> int:
    """Return the address of the function that packs rows of a block."""
    sizes = simd.BYTES[source], simd.BYTES[accumulator]
    return int(_block_packing(source, accumulator, *sizes, simd.source_version()).address)


def _block_packing(source: int, accumulator: int, x_size: int, size: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def pack(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        """Copy input rows `row` to `rows` of a plane; `again`: over another channel's, whose border is still there."""
        if version == 0:
            return
        x, to, plane, row, rows = read(a + 8), read(a + 16), read(a + 24), read(a + 32), read(a + 40)
        qz, qy, qx, nx, again = read(a + 48), read(a + 56), read(a + 64), read(a + 72), read(a + 80)
        p = carray(call_record(read(a)), 1)[0]
        size_z, size_y, size_x = p.high_z - p.low_z, p.high_y - p.low_y, p.high_x - p.low_x
        fill = load(p.fill, accumulator, accumulator)
        count, advance, mode = nx + p.reach_x, p.advance_x, p.mode
        iz = source_place(mode, p.advance_z * qz + p.offset_z - p.low_z + plane, size_z)
        start_z = x + (iz + p.low_z) * p.xz + p.low_x * p.xx
        first_y = p.advance_y * qy + p.offset_y - p.low_y
        bordered = mode != 0
        if not again and not bordered:
            fill_places(to + plane * p.plane + row * p.row_bytes, (rows - row) * p.row_bytes // size, fill, accumulator)
        if not bordered and p.residues == 2 and p.xx == x_size:
            _pack_halves(p, start_z, to + plane * p.plane, row, rows, iz, first_y, qx, count, source, accumulator, size)
            return
        for residue in range(p.residues):
            first = advance * qx + p.offset_x - p.low_x + residue
            inner = min(max(-(first // advance), 0), count)
            outer = min(max(-((first - size_x) // advance), inner), count)
            place = to + plane * p.plane + row * p.row_bytes + residue * p.pitch * size
            if not bordered and advance == 1 and p.xx == x_size:
                begin, end = max(row, -first_y), min(rows, size_y - first_y)
                if iz >= 0 and begin < end:
                    copy_rows(
                        place + (begin - row) * p.row_bytes + inner * size, p.row_bytes,
                        start_z + (first_y + begin + p.low_y) * p.xy + (first + inner) * p.xx, p.xy, end - begin,
                        outer - inner, source, accumulator,
                    )  # fmt: skip
                return
            for j in range(row, rows):
                iy = source_place(mode, first_y + j, size_y)
                start = start_z + (iy + p.low_y) * p.xy
                if bordered:
                    _pack_row(
                        place, start, first, count, p.used, advance, size_x, 1, p.xx, mode, iz < 0 or iy < 0, fill,
                        source, accumulator, size,
                    )  # fmt: skip
                elif iz >= 0 and iy >= 0:
                    copy_places(
                        place + inner * size, start + (first + advance * inner) * p.xx, outer - inner, advance * p.xx,
                        source, accumulator,
                    )  # fmt: skip
                place += p.row_bytes

    return pack


@njit(error_model="numpy")
def _in_place(p, rows, tiles, y, x, w, count, bias, first_x, ahead):  # type: ignore[no-untyped-def]
    """Compute some tiles of rows of outputs, one below the other, from where x lies."""
    begin = whole = 0
    if count > p.masked_x:
        begin = min((max(-first_x, 0) + p.lanes - 1) // p.lanes * p.lanes, count)
        whole = max(min(p.size_x - p.reach_x - first_x - begin, count - begin), 0) // p.lanes * p.lanes
    call(
        p.in_place_8 if rows == 8 else p.in_place_4,
        (
            y, p.yy, x, p.xy, p.column_step, p.parts, p.part_count, w, count, bias, p.divisor, tiles, rows * p.xy,
            ahead, rows * p.xy if ahead else 0, first_x, p.size_x, begin, whole,
        ),
    )  # fmt: skip


@functools.cache
def correlation() -> int:
    """Return the address of the kernel.

    A task is one image, a chunk of groups and a block of outputs. Its input is packed row by row, just before the
    first tile that reads a row.
    """
    return int(_correlation(simd.source_version()).address)


def _correlation(version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def correlate(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        qx, task = task % p.blocks_x * p.block_x, task // p.blocks_x
        qy, task = task % p.blocks_y * p.block_y, task // p.blocks_y
        qz, task = task % p.blocks_z * p.block_z, task // p.blocks_z
        first_group, image = task % p.group_chunks * p.group_chunk, task // p.group_chunks
        nx, ny, nz = min(p.block_x, p.count_x - qx), min(p.block_y, p.count_y - qy), min(p.block_z, p.count_z - qz)
        all_rows = (ny - 1) * p.advance_y + p.reach_y + 1
        sums, scratch = scratch + p.sums_offset, scratch + p.lead
        for group in range(first_group, min(first_group + p.group_chunk, p.groups)):
            x = p.x + image * p.xn + group * p.channels * p.xc
            packed_planes = 0
            for k in range(nz):
                planes = max(k * p.advance_z + p.reach_z + 1, packed_planes)
                packed_rows = 0
                for gap in range(p.row_gap):
                    number = (ny - gap + p.row_gap - 1) // p.row_gap
                    j = 0
                    while j < number:
                        rows = p.rows
                        left = number - j
                        if rows > left:
                            rows = 4 if left >= 4 and rows >= 4 else 1
                            if 2 <= left <= 3 and number >= 4 and p.rows >= 4:
                                rows = 4
                                j -= 4 - left
                        first = gap + j * p.row_gap
                        needed = all_rows
                        if p.row_gap == 1:
                            needed = (first + rows - 1) * p.advance_y + p.reach_y + 1
                        top = qy + p.offset_y + first
                        if p.in_place and rows >= 4 and top >= 0 and top + needed - first <= p.size_y:
                            tiles = 1
                            if p.row_gap == 1:
                                # As many whole tiles as read rows of x alone.
                                tiles = max(min(left, p.size_y - p.reach_y - top) // rows, 1)
                            start = x + top * p.xy + (qx + p.offset_x) * p.xx
                            ahead = start + p.xc if group + 1 < p.groups and tiles > 1 else 0
                            for output in range(group * p.outputs, (group + 1) * p.outputs):
                                _in_place(
                                    p, rows, tiles,
                                    p.y + image * p.yn + (qy + first) * p.yy + qx * p.y_size + output * p.yc,
                                    start, p.w + output * p.w_bytes, nx, p.bias + output * p.bias_step,
                                    qx + p.offset_x, ahead,
                                )  # fmt: skip
                            # A later tile that is packed, which may begin a row before this one's end, packs its own.
                            packed_rows = -1
                            j += tiles * rows
                            continue
                        if packed_rows < 0:
                            packed_rows = first
                        tiles = 1
                        if not (p.in_place or p.write or p.row_gap > 1):
                            tiles = max(min(left // rows, p.tiles_together), 1)
                            needed += (tiles - 1) * rows * p.advance_y
                        if needed > packed_rows:
                            for channel in range(p.channels):
                                for plane in range(packed_planes, planes):
                                    call(
                                        p.pack,
                                        (
                                            p.itself, x + channel * p.xc, scratch + channel * p.channel_bytes, plane,
                                            packed_rows, needed, qz, qy, qx, nx, group - first_group,
                                        ),
                                    )  # fmt: skip
                            packed_rows = needed
                        at = scratch + k * p.advance_z * p.plane + first * p.advance_y * p.row_bytes
                        y_step = p.yy * p.row_gap
                        to = p.y + image * p.yn + (qz + k) * p.yz + (qy + first) * p.yy + qx * p.y_size
                        ahead, ahead_down = 0, 0
                        if tiles > 1 and p.channels == 1 and planes == 1 and p.blocks_x == 1:
                            # The rows that are packed next, of this channel or of the next one.
                            ahead = x + max(p.advance_y * qy + p.offset_y + needed, 0) * p.xy
                            if needed >= all_rows:
                                ahead = x + p.xc + max(p.advance_y * qy + p.offset_y, 0) * p.xy
                            if needed < all_rows or group + 1 < p.groups:
                                ahead_down = rows * p.advance_y * p.xy
                        compute = p.block_8 if rows == 8 else p.block_4 if rows == 4 else p.block_1
                        for output in range(group * p.outputs, (group + 1) * p.outputs):
                            y, w, bias = to + output * p.yc, p.w + output * p.w_bytes, p.bias + output * p.bias_step
                            into, step = (sums, p.sums_step) if p.write else (y, y_step)
                            call(
                                compute,
                                (
                                    into, step, at, p.row_step, p.column_step, p.parts, p.part_count, w, nx, bias,
                                    p.divisor, tiles, rows * p.advance_y * p.row_bytes, ahead, ahead_down,
                                ),
                            )  # fmt: skip
                            if p.write:
                                for r in range(rows):
                                    call(p.write, (y + r * y_step, sums + r * p.sums_step, nx))
                        j += tiles * rows
                packed_planes = planes

    return correlate
