"""The last stage of Winograd kernels: products transformed back into outputs, mended where not finite, and written."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from gpuconv.backends.cpu.elements import load, store
from gpuconv.backends.cpu.winograd_call import call_at
from gpuconv.backends.cpu.winograd_parts import origin, run_of
from gpuconv.backends.cpu.winograd_pixels import (
    LANES,
    VECTOR,
    copy_pixels,
    fill_pixels,
    gather_pixel,
    transpose_part_rows,
    transpose_rows,
)
from gpuconv.backends.cpu.winograd_tiles import forms, output_tile, version_of
from gpuconv.boundary import source_index

__all__ = ["is_finite", "outputs"]

_source_index = njit(source_index, error_model="numpy")


@njit(error_model="numpy")
def _sum_directly(p, image, group, output, y, x, first_y, first_x):  # type: ignore[no-untyped-def]
    """Return one output of the run (y, x) by its definition, from its first taps."""
    total = np.float32(0)
    if p.bias != 0:
        total = load(p.bias + (group * p.outputs + output) * 4, 0, 0)
    z0, y0, x0 = image % p.out_z * p.stride_z - p.pad_z, y * p.stride_y - p.pad_y, x * p.stride_x - p.pad_x
    for c in range(p.channels):
        volume = p.x + image // p.out_z * p.xn + (group * p.channels + c) * p.xc
        w = p.w + group * p.wg + output * p.wo + c * p.wc
        for k in range(p.kernel_z):
            plane = _source_index(p.mode, z0 + k * p.dilation_z, p.size_z)
            for i in range(first_y, p.kernel_y, p.runs_y):
                row = _source_index(p.mode, y0 + i // p.runs_y * p.dilation_y, p.size_y)
                for j in range(first_x, p.kernel_x, p.runs_x):
                    column = _source_index(p.mode, x0 + j // p.runs_x * p.dilation_x, p.size_x)
                    if plane < 0 or row < 0 or column < 0:
                        value = load(p.fill, 0, 0)
                    else:
                        at = (plane + p.low_z) * p.xz + (row + p.low_y) * p.xy + (column + p.low_x) * p.xx
                        value = load(volume + at, 0, 0)
                    total += value * load(w + k * p.wz + i * p.wy + j * p.wx, 0, 0)
    return total


@njit(error_model="numpy")
def _repair(p, pixels, image, group, output, outputs, first_tap, y0, rows, x0, columns):  # type: ignore[no-untyped-def]
    """Compute the outputs that are not finite by their definition: a transform spreads a NaN over its tile."""
    for i in range(rows):
        for j in range(columns):
            for k in range(outputs):
                at = pixels + (i * columns + j) * VECTOR + 4 * k
                value = load(at, 0, 0)
                if value - value != 0:
                    y, x, first_x = y0 + i * p.dilation_y, x0 + j // p.runs_x, p.runs_x - 1 - j % p.runs_x
                    store(at, _sum_directly(p, image, group, output + k, y, x, first_tap, first_x), 0, 0)


@njit(error_model="numpy")
def is_finite(vector) -> Any:  # type: ignore[no-untyped-def]
    """Whether all numbers of a vector are."""
    for k in range(LANES):
        value = load(vector + 4 * k, 0, 0)
        if value - value != 0:
            return False
    return True


@njit(error_model="numpy")
def _write_pixels(p, y, source, count, outputs):  # type: ignore[no-untyped-def]
    """Write `count` neighbouring pixels to a run of outputs."""
    if p.yx == 4:
        if outputs == LANES and count >= LANES:
            whole = count // LANES
            transpose_rows(y, p.yc, source, whole)
            if whole * LANES < count:
                last = count - LANES
                transpose_rows(y + 4 * last, p.yc, source + last * VECTOR, 1)
            return
        for i in range(0, count, LANES):
            transpose_part_rows(y + 4 * i, p.yc, outputs, min(LANES, count - i), source + i * VECTOR)
    elif p.yc == 4:
        copy_pixels(y, p.yx, source, VECTOR, count, outputs)
    else:
        for i in range(count):
            for k in range(outputs):
                store(y + i * p.yx + k * p.yc, load(source + i * VECTOR + 4 * k, 0, 0), 0, 0)


@njit(error_model="numpy")
def _write_run(p, run, first, group, output, outputs, phase, products, scratch, my, mx, form):  # type: ignore[no-untyped-def]
    """Transform products of a rectangle of tiles and one vector of output channels, and write the outputs.

    `first` is the number of the first of these tiles in the block, `products` the address of the block's. Of the runs
    along y one output is written, that of the phase; those along x are whole.
    """
    image, r0, rows, q0, columns = run
    x0, edge, end = origin(q0, p.dilation_x, mx), scratch + p.edge_offset, p.out_x
    bias, total = edge + my * mx * VECTOR, edge + (my * mx + 1) * VECTOR
    if q0 + columns < p.tiles_x:
        end = origin(q0 + columns, p.dilation_x, mx)
    pitch, step = (end - x0) * p.runs_x * VECTOR, p.dilation_x * p.runs_x * VECTOR
    # The outputs of these runs, and which of them there are.
    from_x = x0 * p.runs_x - p.skipped_x
    begin, last = max(-from_x, 0), min((end - x0) * p.runs_x, p.wide_x - from_x)
    pixels, count = scratch + p.pixels_offset, last - begin
    corner = p.y + image // p.out_z * p.yn + image % p.out_z * p.yz + (group * p.outputs + output) * p.yc
    corner += (from_x + begin) * p.yx
    for r in range(0, rows, p.written):
        together = min(p.written, rows - r)
        y0 = origin(r0 + r, p.dilation_y, my)
        lines = min(together * my, (p.out_y - y0 + p.dilation_y - 1) // p.dilation_y)
        fill_pixels(total, 1, np.float32(0))
        for s in range(together):
            for q in range(columns):
                at = origin(q0 + q, p.dilation_x, mx)
                inside = (end - at + p.dilation_x - 1) // p.dilation_x
                for k in range(p.runs_x):
                    # The last of a run has the first tap.
                    tile = products + (p.runs_x - 1 - k) * p.m_phase + (first + (r + s) * columns + q) * 2 * VECTOR
                    to = pixels + s * my * pitch + ((at - x0) * p.runs_x + k) * VECTOR
                    if inside >= mx:
                        output_tile(to, pitch, step, tile, p.m_step, bias, total, form)
                        continue
                    output_tile(edge, mx * VECTOR, VECTOR, tile, p.m_step, bias, total, form)
                    for i in range(my):
                        copy_pixels(to + i * pitch, step, edge + i * mx * VECTOR, VECTOR, inside, LANES)
        if not is_finite(total):
            _repair(p, pixels, image, group, output, outputs, phase, y0, lines, x0, (end - x0) * p.runs_x)
        from_y, lines_apart = y0 * p.runs_y + p.runs_y - 1 - phase - p.skipped_y, p.dilation_y * p.runs_y
        # Without phases along y there are all of these lines.
        if p.runs_y == 1 and lines_apart * p.yy == count * p.yx and count * VECTOR == pitch:
            _write_pixels(p, corner + from_y * p.yy, pixels, lines * count, outputs)
            continue
        for i in range(lines):
            line = from_y + i * lines_apart
            if 0 <= line < p.wide_y:
                _write_pixels(p, corner + line * p.yy, pixels + i * pitch + begin * VECTOR, count, outputs)


@njit(error_model="numpy")
def _write(p, begin, end, group, block, phase, scratch, my, mx, form):  # type: ignore[no-untyped-def]
    """Transform the products of tiles `begin` to `end` and a block of output channels, and write the outputs.

    They are those of a phase along y and all along x.
    """
    for half in range(2):
        output = (2 * block + half) * LANES
        outputs = min(LANES, p.outputs - output)
        if outputs <= 0:
            return
        bias = scratch + p.edge_offset + my * mx * VECTOR
        fill_pixels(bias, 1, np.float32(0))
        if p.bias != 0:
            gather_pixel(bias, p.bias + (group * p.outputs + output) * 4, 4, outputs)
        products, at = scratch + p.m_offset + half * VECTOR, begin
        while at < end:
            run = run_of(p, at, end)
            _write_run(p, run, at - begin, group, output, outputs, phase, products, scratch, my, mx, form)
            at += run[2] * run[4]


@functools.cache
def outputs(form: int) -> int:
    """Return the address of the function that writes the outputs of some tiles and a block of output channels."""
    my, mx = (len(m.output) for m in forms(form))
    return int(_outputs(form, my, mx, version_of(form)).address)


def _outputs(form: int, my: int, mx: int, version: int) -> Any:
    i64 = types.int64

    @cfunc(types.void(*[i64] * 7), cache=True, error_model="numpy")
    def write_outputs(call, begin, end, group, block, phase, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover
        if version != 0:
            _write(carray(call_at(call), 1)[0], begin, end, group, block, phase, scratch, my, mx, form)

    return write_outputs
