"""The compiled kernel of Winograd's weight gradients: one for each form, all shapes.

A tap's gradient is a correlation of inputs with gradients of outputs. Tiles of the latter take the part of weights:
F(k, t) makes k taps of t gradients. Stages: both transforms, the sums of products over tiles, and the taps.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import load, store
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.simd import (
    CODES,
    broadcast,
    constant,
    element_type,
    load_vector,
    multiply_add,
    registers,
    store_vector,
)
from gpuconv.backends.cpu.winograd_call import call_at
from gpuconv.backends.cpu.winograd_inputs import pack_pixels
from gpuconv.backends.cpu.winograd_outputs import is_finite
from gpuconv.backends.cpu.winograd_parts import origin, part_tap, taps_of
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR, fill_pixels
from gpuconv.backends.cpu.winograd_tiles import (
    INPUT_MATRIX,
    WEIGHTS_MATRIX,
    forms,
    output_tile,
    tile_columns,
    tile_rows,
)
from gpuconv.boundary import source_index

__all__ = ["GRADIENT", "GRADIENTS", "INPUTS", "PRODUCTS", "ROWS", "TAPS", "kernel"]

GRADIENT = record(
    # the records of the inputs and of the outputs' gradients, the transformed tiles, their products, and the result
    "x_call y_call xt yt u w wg wo wc wz wy wx not_finite stage "
    # vectors of input channels in all parts, of output channels, and of these in a task
    "vectors outputs_vectors task_vectors groups "
    # tile rows of a band, bands of an image, and the bands of this pass
    "band bands first_band band_count tiles_y tiles_x first_unit tiles is_first "
    # bytes: scratch parts, and what is repeated
    "columns_offset x_step x_group y_step y_group u_row u_step u_group"
)
"""One call; the fields up to `stage` belong to the caller's arrays and the stage."""

INPUTS, GRADIENTS, PRODUCTS, TAPS = range(4)

_DEPTH = 64
"""Tiles after which sums start anew, so that the error hardly grows with their number."""
ROWS = min(LANES, 8 if registers() == 32 else 4)
_WIDTH = 3
_F32 = CODES["float32"]
_source_index = njit(source_index, error_model="numpy")


@intrinsic(prefer_literal=True)
def _outer_products(
    typingctx: Any,
    to: Any,
    to_row: Any,
    x: Any,
    x_vector: Any,
    y: Any,
    depth: Any,
    is_first: Any,
    width: Any,
) -> Any:
    """Multiply: to[r, v] (+)= sum over k of y[k, r] * x[v, k], r below `ROWS`, v below `width` vectors.

    The sums begin with 0 and are then added to what `to` holds, or, where `is_first`, replace it.

    Parameters
    ----------
    to, x, y : int64
        Addresses; `to_row` and `x_vector` are bytes, k's are a vector apart.
    depth : int64
        Number of k.
    width : literal int
        Vectors of a row.
    """
    columns = width.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_row, x, x_vector, y, depth, is_first = args[:7]
        vector = ir.VectorType(element_type(_F32), LANES)
        slots = [[cgutils.alloca_once(builder, vector) for _ in range(columns)] for _ in range(ROWS)]
        for row in slots:
            for slot in row:
                builder.store(ir.Constant(vector, None), slot)
        starts = [builder.add(x, builder.mul(x_vector, constant(v))) for v in range(columns)]
        with cgutils.for_range(builder, depth) as loop:
            shift = builder.mul(loop.index, constant(VECTOR))
            inputs = [load_vector(builder, builder.add(start, shift), _F32, LANES) for start in starts]
            here = builder.add(y, shift)
            for r, row in enumerate(slots):
                weight = broadcast(builder, load_vector(builder, builder.add(here, constant(4 * r)), _F32, 1), LANES)
                for slot, value in zip(row, inputs, strict=True):
                    builder.store(multiply_add(builder, weight, value, builder.load(slot), _F32), slot)
        places = [
            [
                builder.add(builder.add(to, builder.mul(to_row, constant(r))), constant(v * VECTOR))
                for v in range(columns)
            ]
            for r in range(ROWS)
        ]
        with builder.if_else(builder.icmp_signed("!=", is_first, constant(0))) as (first, later):
            with first:
                for r, row in enumerate(slots):
                    for v, slot in enumerate(row):
                        store_vector(builder, builder.load(slot), places[r][v], _F32)
            with later:
                for r, row in enumerate(slots):
                    for v, slot in enumerate(row):
                        held = load_vector(builder, places[r][v], _F32, LANES)
                        store_vector(builder, builder.fadd(held, builder.load(slot)), places[r][v], _F32)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 7, width), codegen


@njit(error_model="numpy")
def _transform(g, p, band, vector, channel_start, to, to_step, scratch, my, size_y, ny, mx, size_x, form, which):  # type: ignore[no-untyped-def]
    """Transform one vector of channels of a band of tiles, `my` by `mx` gradients each.

    `size_y` and `size_x` are the elements of a tile that are read: of inputs or of gradients. `ny` rows are written.
    """
    part, channel = vector // p.part_vectors, vector % p.part_vectors * LANES
    channels = min(LANES, p.channels - channel)
    image, first_row = band // g.bands, band % g.bands * g.band
    rows = min(g.band, g.tiles_y - first_row)
    y0 = origin(first_row, p.dilation_y, my)
    height = origin(first_row + rows - 1, p.dilation_y, my) + p.dilation_y * (size_y - 1) + 1 - y0
    width = origin(g.tiles_x - 1, p.dilation_x, mx) + p.dilation_x * (size_x - 1) + 1
    first_y = y0 * p.stride_y + part_tap(p, part, 1) * p.dilation_y - p.pad_y
    first_x = part_tap(p, part, 2) * p.dilation_x - p.pad_x
    first_z = part_tap(p, part, 0) * p.dilation_z - p.pad_z
    z = _source_index(p.mode, image % p.out_z * p.stride_z + first_z, p.size_z)
    pack_pixels(
        p, p.x + image // p.out_z * p.xn + (channel_start + channel) * p.xc, z, channels, first_y, height, first_x,
        width, scratch,
    )  # fmt: skip
    columns = scratch + g.columns_offset
    for r in range(rows):
        top = scratch + (origin(first_row + r, p.dilation_y, my) - y0) * p.in_pitch
        tile_columns(columns, p.in_pitch, top, p.dilation_y * p.in_pitch, width, form, which)
        line = to + (image * g.tiles_y + first_row + r - g.first_unit) * g.tiles_x * VECTOR
        q = 0
        while q < g.tiles_x:
            # A run of tiles whose first elements are equally far apart.
            advance, end = mx * VECTOR, g.tiles_x
            if p.dilation_x > 1:
                advance, end = VECTOR, min(g.tiles_x, (q // p.dilation_x + 1) * p.dilation_x)
            source = columns + origin(q, p.dilation_x, mx) * VECTOR
            tile_rows(
                line + q * VECTOR, to_step, source, p.in_pitch, p.dilation_x * VECTOR, advance, end - q, ny, form, which
            )  # fmt: skip
            q = end


@njit(error_model="numpy")
def _multiply(g, u, x, y, first_output, outputs):  # type: ignore[no-untyped-def]
    """Sum the products of all tiles of a pass at one transformed position for some vectors of output channels."""
    vector_bytes = g.tiles * VECTOR
    for first in range(0, g.tiles, _DEPTH):
        depth, fresh = min(_DEPTH, g.tiles - first), int(g.is_first != 0 and first == 0)
        v = 0
        while v < g.vectors:
            width = min(_WIDTH, g.vectors - v)
            if g.vectors - v == _WIDTH + 1:
                width = 2
            source = x + v * vector_bytes + first * VECTOR
            for output in range(first_output, first_output + outputs):
                for r in range(0, LANES, ROWS):
                    to = u + (output * LANES + r) * g.u_row + v * VECTOR
                    place = y + output * vector_bytes + first * VECTOR + 4 * r
                    if width == 3:
                        _outer_products(to, g.u_row, source, vector_bytes, place, depth, fresh, 3)
                    elif width == 2:
                        _outer_products(to, g.u_row, source, vector_bytes, place, depth, fresh, 2)
                    else:
                        _outer_products(to, g.u_row, source, vector_bytes, place, depth, fresh, 1)
            v += width


@njit(error_model="numpy")
def _write_taps(g, p, group, output, scratch, my, mx, form):  # type: ignore[no-untyped-def]
    """Transform the sums of one output channel into taps and write them."""
    zero, total, taps = scratch, scratch + VECTOR, scratch + 2 * VECTOR
    fill_pixels(zero, 2, np.float32(0))
    source = g.u + group * g.u_group + output * g.u_row
    w = g.w + group * g.wg + output * g.wo
    for vector in range(g.vectors):
        part, channel = vector // p.part_vectors, vector % p.part_vectors * LANES
        output_tile(taps, mx * VECTOR, VECTOR, source + vector * VECTOR, g.u_step, zero, total, form)
        tap_y, tap_x = part_tap(p, part, 1), part_tap(p, part, 2)
        to = w + channel * g.wc + part_tap(p, part, 0) * g.wz + tap_y * g.wy + tap_x * g.wx
        high, wide = taps_of(tap_y, p.kernel_y, p.stride_y, my), taps_of(tap_x, p.kernel_x, p.stride_x, mx)
        step_y, step_x = p.stride_y * g.wy, p.stride_x * g.wx
        for c in range(min(LANES, p.channels - channel)):
            row, place = taps + 4 * c, to + c * g.wc
            for _ in range(high):
                at, value = place, row
                for _ in range(wide):
                    store(at, load(value, 0, 0), 0, 0)
                    at += step_x
                    value += VECTOR
                row += mx * VECTOR
                place += step_y
    if not is_finite(total):
        store(g.not_finite, 1, 3, 3)


@functools.cache
def kernel(form: int) -> int:
    """Return the address of the kernel of a form."""
    down, across = forms(form)
    (ky, ny, ty), (kx, nx, tx) = ((len(m.output), len(m.input), len(m.weights[0])) for m in (down, across))
    return int(_compiled(form, ky, ny, ty, kx, nx, tx, simd.source_version()).address)


def _compiled(form: int, ky: int, ny: int, ty: int, kx: int, nx: int, tx: int, version: int) -> Any:
    positions = ny * nx

    @cfunc(types.void(types.CPointer(from_dtype(GRADIENT)), types.int64, types.int64), cache=True, error_model="numpy")
    def gradient(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        g = carray(pointer, 1)[0]
        p, q = carray(call_at(g.x_call), 1)[0], carray(call_at(g.y_call), 1)[0]
        if g.stage == 0:
            vector, task = task % g.vectors, task // g.vectors
            band, group = g.first_band + task % g.band_count, task // g.band_count
            to = g.xt + group * g.x_group + vector * g.tiles * VECTOR
            _transform(
                g, p, band, vector, group * p.channels, to, g.x_step, scratch, ty, ny, ny, tx, nx, form, INPUT_MATRIX
            )  # fmt: skip
        elif g.stage == 1:
            vector, task = task % g.outputs_vectors, task // g.outputs_vectors
            band, group = g.first_band + task % g.band_count, task // g.band_count
            to = g.yt + group * g.y_group + vector * g.tiles * VECTOR
            _transform(
                g, q, band, vector, group * q.channels, to, g.y_step, scratch, ty, ty, ny, tx, tx, form, WEIGHTS_MATRIX
            )  # fmt: skip
        elif g.stage == 2:
            position, task = task % positions, task // positions
            tasks = (g.outputs_vectors + g.task_vectors - 1) // g.task_vectors
            first, group = task % tasks * g.task_vectors, task // tasks
            _multiply(
                g, g.u + group * g.u_group + position * g.u_step, g.xt + group * g.x_group + position * g.x_step,
                g.yt + group * g.y_group + position * g.y_step, first, min(g.task_vectors, g.outputs_vectors - first),
            )  # fmt: skip
        else:
            output, group = task % q.channels, task // q.channels
            _write_taps(g, p, group, output, scratch, ky, kx, form)

    return gradient
