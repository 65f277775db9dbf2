"""The stage of Winograd kernels that reads x: pixels of input channels, borders filled in, and their transform."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from gpuconv.backends.cpu.elements import load
from gpuconv.backends.cpu.winograd_call import call_at
from gpuconv.backends.cpu.winograd_parts import origin, panel_of, part_tap, run_of, section_of
from gpuconv.backends.cpu.winograd_pixels import (
    LANES,
    VECTOR,
    copy_pixels,
    fill_pixels,
    gather_pixel,
    transpose,
    transpose_evens,
    transpose_part,
)
from gpuconv.backends.cpu.winograd_tiles import (
    INPUT_MATRIX,
    SINGLE_MATRIX,
    forms,
    tile_columns,
    tile_rows,
    version_of,
)
from gpuconv.boundary import source_index

__all__ = ["inputs", "pack_pixels"]

_source_index = njit(source_index, error_model="numpy")


@njit(error_model="numpy")
def _read_pixels(p, to, source, count, channels):  # type: ignore[no-untyped-def]
    """Copy `count` pixels of an input row, every `stride_x`-th, to neighbouring vectors."""
    if p.stride_x == 2 and p.xx == 4:
        for i in range(0, count, LANES):
            transpose_evens(to + i * VECTOR, source + 8 * i, p.xc, channels, min(LANES, count - i))
        return
    step = p.stride_x * p.xx
    if step == 4 and channels == LANES and count >= LANES:
        whole = count // LANES
        transpose(to, source, p.xc, whole, p.xy)
        if whole * LANES < count:
            last = count - LANES
            transpose(to + last * VECTOR, source + 4 * last, p.xc, 1, p.xy)
        return
    if step == 4:
        for i in range(0, count, LANES):
            transpose_part(to + i * VECTOR, source + 4 * i, p.xc, channels, min(LANES, count - i))
        return
    if channels < LANES:
        fill_pixels(to, count, np.float32(0))
    if p.xc == 4:
        copy_pixels(to, VECTOR, source, step, count, channels)
    else:
        for i in range(count):
            gather_pixel(to + i * VECTOR, source + i * step, p.xc, channels)


@njit(error_model="numpy")
def pack_pixels(p, x, z, channels, y0, rows, x0, columns, to) -> None:  # type: ignore[no-untyped-def]
    """Copy a window of a plane's vector of channels to pixels, borders filled in; z below 0 is a plane of the border.

    The window begins at (y0, x0) and takes every `stride_y`-th row and every `stride_x`-th column.
    """
    fill = load(p.fill, 0, 0)
    inner = min(max((p.stride_x - 1 - x0) // p.stride_x, 0), columns)
    outer = min(max((p.size_x - x0 + p.stride_x - 1) // p.stride_x, inner), columns)
    for i in range(rows):
        row = to + i * p.in_pitch
        at = _source_index(p.mode, y0 + i * p.stride_y, p.size_y)
        if at < 0 or z < 0:
            fill_pixels(row, columns, fill)
            continue
        start = x + (z + p.low_z) * p.xz + (at + p.low_y) * p.xy + p.low_x * p.xx
        _read_pixels(p, row + inner * VECTOR, start + (x0 + inner * p.stride_x) * p.xx, outer - inner, channels)
        if p.mode == 0:
            fill_pixels(row, inner, fill)
            fill_pixels(row + outer * VECTOR, columns - outer, fill)
            continue
        for j in range(columns):
            if j < inner or j >= outer:
                at = start + _source_index(p.mode, x0 + j * p.stride_x, p.size_x) * p.xx
                fill_pixels(row + j * VECTOR, 1, fill)
                gather_pixel(row + j * VECTOR, at, p.xc, channels)


@njit(error_model="numpy")
def _transform(p, begin, end, group, vector, v, scratch, my, ny, mx, nx, form):  # type: ignore[no-untyped-def]
    """Transform one vector of one part's channels of tiles `begin` to `end` into v."""
    part, channel = vector // p.part_vectors, vector % p.part_vectors * LANES
    channels = min(LANES, p.channels - channel)
    tap_z, tap_y, tap_x = part_tap(p, part, 0), part_tap(p, part, 1), part_tap(p, part, 2)
    tiles, transformed = end - begin, scratch + p.columns_offset
    made_y, made_x, kept_y, kept_x, _ = section_of(p, part // p.parts_together)
    at = begin
    while at < end:
        image, r0, rows, q0, columns = run_of(p, at, end)
        y0, x0 = origin(r0, p.dilation_y, my), origin(q0, p.dilation_x, mx)
        height = origin(r0 + rows - 1, p.dilation_y, my) + p.dilation_y * (ny - 1) + 1 - y0
        width = origin(q0 + columns - 1, p.dilation_x, mx) + p.dilation_x * (nx - 1) + 1 - x0
        first_y = y0 * p.stride_y + tap_y * p.dilation_y - p.pad_y
        first_x = x0 * p.stride_x + tap_x * p.dilation_x - p.pad_x
        x = p.x + image // p.out_z * p.xn + (group * p.channels + channel) * p.xc
        z = image % p.out_z * p.stride_z + tap_z * p.dilation_z - p.pad_z
        z = _source_index(p.mode, z, p.size_z)
        pack_pixels(p, x, z, channels, first_y, height, first_x, width, scratch)
        for r in range(rows):
            first = scratch + (origin(r0 + r, p.dilation_y, my) - y0) * p.in_pitch
            if kept_y < made_y:
                tile_columns(transformed, p.columns_pitch, first, p.dilation_y * p.in_pitch, width, form, SINGLE_MATRIX)
            else:
                tile_columns(transformed, p.columns_pitch, first, p.dilation_y * p.in_pitch, width, form, INPUT_MATRIX)
            q, first_tile = 0, at - begin + r * columns
            while q < columns:
                # A run of tiles within a panel, whose first inputs are equally far apart.
                start, most = panel_of(first_tile + q, tiles)
                n = min(columns, start + most - first_tile) - q
                advance = mx * VECTOR
                if p.dilation_x > 1:
                    advance = VECTOR
                    n = min(n, p.dilation_x - (q0 + q) % p.dilation_x)
                to = v + (start * p.vectors + vector * most + first_tile + q - start) * VECTOR
                source = transformed + (origin(q0 + q, p.dilation_x, mx) - x0) * VECTOR
                step = p.dilation_x * VECTOR
                down = p.columns_pitch
                if kept_x < made_x:
                    tile_rows(to, p.v_step, source, down, step, advance, n, made_y, form, SINGLE_MATRIX)
                else:
                    tile_rows(to, p.v_step, source, down, step, advance, n, made_y, form, INPUT_MATRIX)
                q += n
        at += rows * columns


@functools.cache
def inputs(form: int) -> int:
    """Return the address of the function that transforms a vector of channels of some tiles into v."""
    (my, ny), (mx, nx) = ((len(m.output), len(m.input)) for m in forms(form))
    return int(_inputs(form, my, ny, mx, nx, version_of(form)).address)


def _inputs(form: int, my: int, ny: int, mx: int, nx: int, version: int) -> Any:
    i64 = types.int64

    @cfunc(types.void(*[i64] * 7), cache=True, error_model="numpy")
    def transform_inputs(call, begin, end, group, vector, v, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover
        if version != 0:
            _transform(carray(call_at(call), 1)[0], begin, end, group, vector, v, scratch, my, ny, mx, nx, form)

    return transform_inputs
