"""The compiled kernel of `winograd_narrow`: one for each form, all shapes.

Its first stage transforms the weights. In its second a task takes a block of tiles of one image, plane of outputs and
group through everything: input packed, transformed a few vectors of tiles at a time, multiplied, transformed back.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import copy_run, fill_run, load, read, store, write_run, zero
from gpuconv.backends.cpu.records import record, record_at
from gpuconv.backends.cpu.winograd_narrow_tiles import (
    MOST_VECTORS,
    narrow_inputs,
    narrow_outputs,
    narrow_products,
    narrow_weights,
)
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_tiles import forms
from gpuconv.boundary import source_index

__all__ = ["NARROW", "PART", "TILES", "WEIGHTS", "kernel"]

NARROW = record(
    # the arrays and the bytes between neighbours along each of their axes
    "x xn xc xz xy xx y yn yc yz yy yx w wg wo wc wz wy wx bias fill u stage "
    # where a 1 is written when an output is not finite
    "flag "
    "channels outputs groups "
    # border mode, and the range of inputs that negative padding leaves on each axis
    "mode low_z low_y low_x high_z high_y high_x "
    # the packed input, as in `direct_kernels.PHASE`: a tile is what an output is there
    "advance_z advance_y advance_x offset_z offset_y offset_x block_y block_x "
    "pitch_z pitch_y pitch_x reach_x residues_z residues_y residues_x residue_count_z residue_count_y residue_count_x "
    "plane "
    # outputs; rows and columns of tiles, what a tile's number grows by from one row of a block to the next, and blocks
    "out_z out_y out_x tiles_y tiles_x row_tiles blocks_y blocks_x "
    # the kernel's parts, and their channels: with all rows of positions and without the last, in the last column too
    "parts part_count stride_y stride_x full short full_last short_last "
    # output channels whose products are kept at a time
    "chunk "
    # offsets in the scratch memory, which begins with the packed input; bytes of a group's transformed weights
    "line_offset v_offset m_offset rest_offset lanes_offset total_offset u_group"
)
"""One call; the fields up to `flag` belong to the caller's arrays and to a stage."""

PART = record(
    # the first tap on each axis, and the taps
    "tap_z tap_y tap_x taps_y taps_x "
    # rows of positions before its first channel's, in all columns but the last, and in the last or -1
    "place place_last "
    "has_last_row "
    # address of the bytes from a tile to its inputs
    "offsets"
)
"""One part of the kernel, a correlation of stride 1 (see `winograd_parts`)."""

WEIGHTS, TILES = range(2)
_POINTER = types.CPointer(from_dtype(NARROW))
_parts = record_at(PART)
_source_index = njit(source_index, error_model="numpy")


@njit(error_model="numpy")
def _length(p, column, ny, nx):  # type: ignore[no-untyped-def]
    """Return the rows of positions of all channels in a column."""
    if column == nx - 1:
        return p.full_last * ny + p.short_last * (ny - 1)
    return p.full * ny + p.short * (ny - 1)


@njit(error_model="numpy")
def _transform_weights(p, group, first, scratch, ny, nx, form):  # type: ignore[no-untyped-def]
    """Transform the weights of a vector of output channels."""
    parts = carray(_parts(p.parts), p.part_count)
    row, row_last = 4 * _length(p, 0, ny, nx), 4 * _length(p, nx - 1, ny, nx)
    count = min(LANES, p.outputs - first)
    u = p.u + group * p.u_group + first * row
    u_last = p.u + group * p.u_group + (nx - 1) * p.outputs * row + first * row_last
    for number in range(p.part_count):
        part = parts[number]
        w = p.w + group * p.wg + first * p.wo + part.tap_z * p.wz + part.tap_y * p.wy + part.tap_x * p.wx
        height = ny - 1 + part.has_last_row
        for channel in range(p.channels):
            last, row_to = u_last + 4 * (part.place_last + channel * height), row_last
            if part.place_last < 0:
                last, row_to = scratch, 4 * ny
            narrow_weights(
                u + 4 * (part.place + channel * height), p.outputs * row, last, row, row_to, w + channel * p.wc,
                p.wy * p.stride_y, p.wx * p.stride_x, part.taps_y, part.taps_x, p.wo, count,
                part.has_last_row, form,
            )  # fmt: skip


@njit(error_model="numpy")
def _transform_inputs(p, packed, first, width, v, spare, ny, nx, form):  # type: ignore[no-untyped-def]
    """Transform `width` vectors of a block's tiles from vector `first` on, of all channels in all parts."""
    parts = carray(_parts(p.parts), p.part_count)
    step = width * VECTOR
    column = _length(p, 0, ny, nx) * step
    for number in range(p.part_count):
        part = parts[number]
        height = ny - 1 + part.has_last_row
        for channel in range(p.channels):
            to = v + (part.place + channel * height) * step
            last = v + (nx - 1) * column + (part.place_last + channel * height) * step
            if part.place_last < 0:
                last = spare
            for k in range(width):
                row, tile, shift = (first + k) * LANES // p.row_tiles, (first + k) * LANES % p.row_tiles, k * VECTOR
                source = packed + channel * p.plane + (row * p.pitch_x + tile) * 4
                narrow_inputs(to + shift, column, last + shift, step, source, part.offsets, part.has_last_row, form)


@njit(error_model="numpy")
def _read_line(p, to, line, x0, count, fill):  # type: ignore[no-untyped-def]
    """Copy `count` neighbours of a line of x from position `x0` on, borders filled in."""
    size = p.high_x - p.low_x
    inner = min(max(-x0, 0), count)
    outer = min(max(size - x0, inner), count)
    copy_run(to + 4 * inner, line + (x0 + inner) * p.xx, outer - inner, p.xx, 0, 0)
    if p.mode == 0:
        fill_run(to, inner, fill, 0)
        fill_run(to + 4 * outer, count - outer, fill, 0)
        return
    for i in range(count):
        if i < inner or i >= outer:
            store(to + 4 * i, load(line + _source_index(p.mode, x0 + i, size) * p.xx, 0, 0), 0, 0)


@njit(error_model="numpy")
def _pack(p, x, z, first_row, first_tile, rows, tiles, to, line):  # type: ignore[no-untyped-def]
    """Copy what a block of tiles reads into arrays of one residue modulo each axis's advance, borders filled in.

    It is what `direct_kernels.pack_input` does, but for tiles that read a line at many residues: here each line is read
    once. `line` is memory for one.
    """
    lz, ly, lx = p.pitch_z, rows + p.pitch_y - p.block_y, tiles + p.reach_x
    row_bytes = 4 * p.pitch_x
    part_bytes = p.pitch_z * p.pitch_y * row_bytes
    count = p.advance_x * (lx - 1) + read(p.residues_x + 8 * (p.residue_count_x - 1)) + 1
    x0 = p.advance_x * first_tile + p.offset_x - p.low_x
    fill = load(p.fill, 0, 0)
    for a in range(p.residue_count_z):
        z0 = p.advance_z * z + p.offset_z + read(p.residues_z + 8 * a) - p.low_z
        for b in range(p.residue_count_y):
            y0 = p.advance_y * first_row + p.offset_y + read(p.residues_y + 8 * b) - p.low_y
            start = to + (a * p.residue_count_y + b) * p.residue_count_x * part_bytes
            for channel in range(p.channels):
                for k in range(lz):
                    iz = _source_index(p.mode, z0 + p.advance_z * k, p.high_z - p.low_z)
                    for j in range(ly):
                        iy = _source_index(p.mode, y0 + p.advance_y * j, p.high_y - p.low_y)
                        row = start + channel * p.plane + (k * p.pitch_y + j) * row_bytes
                        if iz >= 0 and iy >= 0:
                            source = x + channel * p.xc + (iz + p.low_z) * p.xz + (iy + p.low_y) * p.xy
                            _read_line(p, line, source + p.low_x * p.xx, x0, count, fill)
                        for c in range(p.residue_count_x):
                            if iz < 0 or iy < 0:
                                fill_run(row + c * part_bytes, lx, fill, 0)
                            else:
                                residue = line + 4 * read(p.residues_x + 8 * c)
                                copy_run(row + c * part_bytes, residue, lx, 4 * p.advance_x, 0, 0)


@njit(error_model="numpy")
def _mark_tiles(p, count, rows, tiles, lanes):  # type: ignore[no-untyped-def]
    """Write 1 for each lane of `count` vectors that holds a tile of the block, 0 for those between its rows."""
    for lane in range(count * LANES):
        store(lanes + 4 * lane, lane // p.row_tiles < rows and lane % p.row_tiles < tiles, 2, 2)


@njit(error_model="numpy")
def _write_rest(p, corner, rest, first, outputs, first_row, rows, tiles, pixels, my, mx):  # type: ignore[no-untyped-def]
    """Write a vector's outputs from scratch memory to y, row of tiles by row of tiles; its first tile is `first`."""
    line = mx * VECTOR
    tile = first
    while tile < first + LANES:
        row, column = tile // p.row_tiles, tile % p.row_tiles
        number = min(first + LANES - tile, p.row_tiles - column)
        if row >= rows:
            return
        count = min(min(number, tiles - column) * mx, pixels - column * mx)
        if count > 0:
            to = corner + row * my * p.yy + column * mx * p.yx
            here = rest + (tile - first) * mx * 4
            for output in range(outputs):
                for i in range(min(my, p.out_y - (first_row + row) * my)):
                    write_run(
                        to + output * p.yc + i * p.yy, p.yx, here + (output * my + i) * line, count, zero(0), 0, 0
                    )  # fmt: skip
        tile += number


@functools.cache
def kernel(form: int) -> int:
    """Return the address of the kernel of a form."""
    down, across = forms(form)
    digest = hashlib.blake2b(f"{down}{across}{simd.source_version()}".encode(), digest_size=7).digest()
    sizes = (len(down.output), len(down.input), len(across.output), len(across.input))
    return int(_compiled(form, *sizes, int.from_bytes(digest, "big")).address)


def _compiled(form: int, my: int, ny: int, mx: int, nx: int, version: int) -> Any:
    @cfunc(types.void(_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def convolve(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        if p.stage == 0:
            blocks = (p.outputs + LANES - 1) // LANES
            _transform_weights(p, task // blocks, task % blocks * LANES, scratch, ny, nx, form)
            return
        first_tile, task = task % p.blocks_x * p.block_x, task // p.blocks_x
        first_row, task = task % p.blocks_y * p.block_y, task // p.blocks_y
        z, task = task % p.out_z, task // p.out_z
        group, image = task % p.groups, task // p.groups
        rows, tiles = min(p.block_y, p.tiles_y - first_row), min(p.block_x, p.tiles_x - first_tile)
        v, m, rest, total = (
            scratch + p.v_offset, scratch + p.m_offset, scratch + p.rest_offset, scratch + p.total_offset
        )  # fmt: skip
        lanes = scratch + p.lanes_offset
        x = p.x + image * p.xn + group * p.channels * p.xc
        _pack(p, x, z, first_row, first_tile, rows, tiles, scratch, scratch + p.line_offset)
        fill_run(total, LANES, zero(0), 0)
        positions = (nx - 1) * _length(p, 0, ny, nx) + _length(p, nx - 1, ny, nx)
        count = ((rows - 1) * p.row_tiles + tiles + LANES - 1) // LANES
        _mark_tiles(p, count, rows, tiles, lanes)
        for first in range(0, count, MOST_VECTORS):
            to, width = v + first * positions * VECTOR, min(MOST_VECTORS, count - first)
            _transform_inputs(p, scratch, first, width, to, total + VECTOR, ny, nx, form)
        pixels = min(tiles * mx, p.out_x - first_tile * mx)
        corner = p.y + image * p.yn + group * p.outputs * p.yc + z * p.yz + first_tile * mx * p.yx
        corner += first_row * my * p.yy
        # Few planes of y at a time: each is written in order.
        for first in range(0, p.outputs, p.chunk):
            outputs = min(p.chunk, p.outputs - first)
            for vector in range(0, count, MOST_VECTORS):
                width = min(MOST_VECTORS, count - vector)
                line = width * VECTOR
                inputs, u = v + vector * positions * VECTOR, p.u + group * p.u_group
                for column in range(nx):
                    full, short = p.full, p.short
                    if column == nx - 1:
                        full, short = p.full_last, p.short_last
                    length = full * ny + short * (ny - 1)
                    narrow_products(
                        m + column * line, nx * line, my * nx * line, inputs, u + first * length * 4, full, short,
                        outputs, width, form,
                    )  # fmt: skip
                    u += p.outputs * length * 4
                    inputs += length * line
                bias, planes = p.bias + (group * p.outputs + first) * 4, corner + first * p.yc
                for k in range(width):
                    tile, valid = (vector + k) * LANES, lanes + (vector + k) * VECTOR
                    row, place = tile // p.row_tiles, tile % p.row_tiles
                    is_whole = p.yx == 4 and (place + LANES) * mx <= pixels and (first_row + row + 1) * my <= p.out_y
                    if is_whole:
                        to = planes + row * my * p.yy + place * mx * 4
                        narrow_outputs(to, p.yy, p.yc, m + k * VECTOR, line, outputs, bias, total, valid, form)
                        continue
                    narrow_outputs(
                        rest, mx * VECTOR, my * mx * VECTOR, m + k * VECTOR, line, outputs, bias, total, valid, form
                    )  # fmt: skip
                    _write_rest(p, planes, rest, tile, outputs, first_row, rows, tiles, pixels, my, mx)
        check = load(total, 0, 0)
        for lane in range(1, LANES):
            check += load(total + 4 * lane, 0, 0)
        if check - check != 0:
            store(p.flag, 1, 3, 3)

    return convolve
