"""The compiled kernel of the Winograd algorithm: one for each form, all shapes.

It runs in stages, each a set of independent tasks: the transform of weights, and either whole blocks of tiles (fused),
or first the inputs' transforms and then products by blocks of output channels (split). Every tile's sums are the same
in both, and whatever the block, so results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import load
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.winograd_outputs import write_outputs
from gpuconv.backends.cpu.winograd_parts import block_tiles, origin, part_tap, run_of, section_of
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
    call_products,
    forms,
    most_tiles,
    multiply,
    tile_columns,
    tile_rows,
)
from gpuconv.backends.cpu.winograd_weights import transform
from gpuconv.boundary import source_index

__all__ = [
    "CALL",
    "FUSED",
    "INPUTS",
    "PRODUCTS",
    "WEIGHTS",
    "kernel",
    "pack_pixels",
    "products",
]  # fmt: skip


CALL = record(
    # the arrays, the bytes between neighbours along each of their axes, and the transformed weights and inputs
    "x xn xc xz xy xx y yn yc yz yy yx w wg wo wc wz wy wx bias fill u v stage multiply "
    # channels and outputs of one group; vectors of channels, in all parts, in one and in a chunk that is summed apart
    "channels outputs vectors part_vectors chunk groups "
    # the kernel's parts: their number and the address of their first taps (z, y, x); parts that share y and x are a
    # section: how many, and the address of what is made of each
    "parts first_taps parts_together sections kernel_z kernel_y kernel_x "
    "tap_step_y tap_step_x stride_z stride_y stride_x "
    # border: mode, the range of inputs that negative padding leaves, the padding before
    "mode low_z low_y low_x size_z size_y size_x pad_z pad_y pad_x dilation_z dilation_y dilation_x "
    # outputs: runs that begin to read at the same input, outputs of a run, those in all, those of the first run to skip
    "out_z out_y out_x runs_y runs_x wide_y wide_x skipped_y skipped_x "
    # tiles of runs along an image; blocks of tiles, of which each has whole units of neighbours in a row
    "tiles_y tiles_x blocks units unit units_x "
    # tile rows whose outputs are written together
    "written "
    # bytes: of scratch parts, of what is repeated
    "in_pitch columns_offset columns_pitch v_offset m_offset pixels_offset edge_offset u_offset taps_offset "
    "v_step v_block m_step m_phase u_step u_block u_group u_scratch_step"
)
"""One call; the fields up to `multiply` belong to the caller's arrays, the stage and the function for products.

An image is a plane of outputs: each depth has its own."""

WEIGHTS, INPUTS, PRODUCTS, FUSED = range(4)

_KERNEL = types.void(types.CPointer(from_dtype(CALL)), types.int64, types.int64)
_MOST = most_tiles()
_source_index = njit(source_index, error_model="numpy")


@njit(error_model="numpy")
def _panel(tile, tiles):  # type: ignore[no-untyped-def]
    """Return the first tile and the number of tiles of the panel that a tile is in; panels differ by one at most."""
    panels = (tiles + _MOST - 1) // _MOST
    height, more = tiles // panels, tiles % panels
    if tile < more * (height + 1):
        return tile // (height + 1) * (height + 1), height + 1
    return tile - (tile - more * (height + 1)) % height, height


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
def _transform_inputs(p, begin, end, group, vector, v, scratch, my, ny, mx, nx, form):  # type: ignore[no-untyped-def]
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
                start, most = _panel(first_tile + q, tiles)
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


@njit(error_model="numpy")
def _multiply_all(p, tiles, group, block, phase, m, v, scratch, ty, tx, ny, nx, form):  # type: ignore[no-untyped-def]
    """Sum the products of a block of tiles, a block of output channels and a phase of the outputs."""
    panels = (tiles + _MOST - 1) // _MOST
    lines = (7 + panels) // panels
    together = p.parts_together * p.part_vectors
    for first in range(0, p.vectors, p.chunk):
        vectors = min(p.chunk, p.vectors - first)
        # Parts of the kernel are further channels, unless they are phases.
        section = phase + first // together
        made_y, made_x, kept_y, kept_x, kept_before = section_of(p, section)
        if first == 0:
            for product in range(ny * nx):
                if product // nx >= made_y or product % nx >= made_x:
                    fill_pixels(m + product * p.m_step, 2 * tiles, np.float32(0))
        if p.u == 0:
            u, u_step = scratch + p.u_offset, p.u_scratch_step
            transform(
                p, group, block, section, 1, first % together, vectors, u, u_step, scratch + p.taps_offset, ty, tx,
                form,
            )  # fmt: skip
        else:
            u_step = p.u_step
            u = p.u + group * p.u_group + block * p.u_block + kept_before * u_step
            u += first % together * LANES * 2 * VECTOR
        # The same weights serve an axis of which one is kept.
        down, across = kept_x * (kept_y > 1), int(kept_x > 1)
        for made in range(made_y * made_x):
            i, j = made // made_x, made % made_x
            product, weights = i * nx + j, u + (i * down + j * across) * u_step
            ahead = u + ((i + (j + 1) // made_x) * down + (j + 1) % made_x * across) * u_step
            tile = 0
            while tile < tiles:
                start, height = _panel(tile, tiles)
                after = start + height
                if after == tiles:
                    ahead_v = v + ((i + (j + 1) // made_x) * nx + (j + 1) % made_x) * p.v_step + first * height * VECTOR
                else:
                    ahead_v = v + product * p.v_step + (after * p.vectors + first * height) * VECTOR
                call_products(
                    p.multiply, height, m + product * p.m_step + start * 2 * VECTOR,
                    v + product * p.v_step + (start * p.vectors + first * height) * VECTOR,
                    weights, vectors, int(first == 0), ahead, lines, ahead_v,
                )  # fmt: skip
                tile += height


@functools.cache
def products() -> int:
    """Return the address of the function that multiplies a panel of tiles."""
    return int(_products(simd.source_version()).address)


def _products(version: int) -> Any:
    i64 = types.int64

    @cfunc(types.void(i64, i64, i64, i64, i64, i64, i64, i64, i64), cache=True, error_model="numpy")
    def multiply_panel(tiles, to, v, u, groups, is_first, ahead, lines, ahead_v):  # type: ignore[no-untyped-def]  # pragma: no cover
        if version != 0:
            multiply(tiles, to, v, u, groups, is_first, ahead, lines, ahead_v)

    return multiply_panel


@functools.cache
def kernel(form: int) -> int:
    """Return the address of the kernel of a form."""
    down, across = forms(form)
    digest = hashlib.blake2b(f"{down}{across}{simd.source_version()}".encode(), digest_size=7).digest()
    (my, ny, ty), (mx, nx, tx) = ((len(m.output), len(m.input), len(m.weights[0])) for m in (down, across))
    return int(_compiled(form, my, ny, ty, mx, nx, tx, int.from_bytes(digest, "big")).address)


def _compiled(form: int, my: int, ny: int, ty: int, mx: int, nx: int, tx: int, version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def convolve(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        if p.stage == 0:
            together = p.parts_together * p.part_vectors
            chunks = (together + p.chunk - 1) // p.chunk
            first, task = task % chunks * p.chunk, task // chunks
            blocks = (p.outputs + 2 * LANES - 1) // (2 * LANES)
            block, group = task % blocks, task // blocks
            u = p.u + group * p.u_group + block * p.u_block + first * LANES * 2 * VECTOR
            sections, vectors = p.parts // p.parts_together, min(p.chunk, together - first)
            transform(p, group, block, 0, sections, first, vectors, u, p.u_step, scratch, ty, tx, form)
            return
        if p.stage == 1:
            vector, task = task % p.vectors, task // p.vectors
            first, last = block_tiles(p, task % p.blocks)
            v = p.v + task * p.v_block
            _transform_inputs(p, first, last, task // p.blocks, vector, v, scratch, my, ny, mx, nx, form)
            return
        # Blocks of output channels and phases along y; those along x are interleaved when they are written.
        blocks = (p.outputs + 2 * LANES - 1) // (2 * LANES) * p.runs_y
        begin, end, v = 0, blocks, scratch + p.v_offset
        if p.stage == 2:
            begin, task = task % blocks, task // blocks
            end, v = begin + 1, p.v + task * p.v_block
        first, last = block_tiles(p, task % p.blocks)
        group = task // p.blocks
        if p.stage == 3:
            for vector in range(p.vectors):
                _transform_inputs(p, first, last, group, vector, v, scratch, my, ny, mx, nx, form)
        for line in range(begin, end):
            block, phase_y = line // p.runs_y, line % p.runs_y
            for phase_x in range(p.runs_x):
                phase, m = phase_y * p.runs_x + phase_x, scratch + p.m_offset + phase_x * p.m_phase
                _multiply_all(p, last - first, group, block, phase, m, v, scratch, ty, tx, ny, nx, form)
            write_outputs(p, first, last, group, block, phase_y, scratch, my, mx, form)

    return convolve
