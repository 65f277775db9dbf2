"""The compiled kernels of the fft algorithm: one for tiles, one for weights, in each dtype.

Sizes and strides are run-time values: a new shape compiles nothing. Tables of passes and twiddles come from
`fft_geometry`.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import copy_run, fill_run, load, read, store, write_run, zero
from gpuconv.backends.cpu.fft_rows import accumulate_product, are_finite, copy_alternate, interleave
from gpuconv.backends.cpu.fft_tiles import call_kernel, lane_transform, transform_pass
from gpuconv.backends.cpu.records import record
from gpuconv.boundary import source_index

__all__ = ["CALL", "STAGE_WORDS", "tiles", "transform", "weights"]

STAGE_WORDS = 6
"""int64s of a pass: radix, twiddles (0: none), blocks, bytes of a block, bytes between legs, places in a leg."""


CALL = record(
    # the arrays, the bytes between neighbours along each of their axes, and between real and imaginary parts
    "x xn xc xz xy xx x_half y yn yc yz yy yx y_half w bias fill flags is_complex "
    # channels and outputs of one group, and tiles of one image
    "channels outputs groups batch items tiles_z tiles_y tiles_x "
    # the border, the range of inputs that negative padding leaves, the outputs, the inputs that they read
    "mode low_z low_y low_x high_z high_y high_x before_z before_y before_x "
    "out_z out_y out_x span_z span_y span_x step_z step_y step_x "
    # the tile: rows, vectors of a row, bytes of a row and of a whole plane of one part
    "size_z size_y size_x vectors pitch plane "
    # passes along each axis; along x first those over a whole row, then those over a chunk of it
    "stages_z count_z stages_y count_y outer outer_count inner inner_count chunk "
    "lanes_table strip_z strip_y rows_x group "
    # bytes of the weights' taps, whether they are conjugated, and their size
    "wg wo wc wz wy wx w_half conjugate taps_z taps_y taps_x "
    # the address of this record, and of the kernel that transforms a tile
    "self transform"
)
"""One call."""

_CALL_POINTER = types.CPointer(from_dtype(CALL))
_KERNEL = types.void(_CALL_POINTER, types.int64, types.int64)
_source_index = njit(source_index, error_model="numpy")


@njit
def _forward(table, number, re, im, inner, inner_bytes, step, code):  # type: ignore[no-untyped-def]
    """Run the passes of a table in order."""
    for k in range(number):
        s = table + 48 * k
        radix, twiddles, blocks, block, leg = read(s), read(s + 8), read(s + 16), read(s + 24), read(s + 32)
        count = read(s + 40)
        if twiddles != 0:
            if radix == 8:
                transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, twiddles, 8, 1, 0, code)
            elif radix == 4:
                transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, twiddles, 4, 1, 0, code)
            else:
                transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, twiddles, 3, 1, 0, code)
        elif radix == 8:
            transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, 0, 8, 0, 0, code)
        elif radix == 4:
            transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, 0, 4, 0, 0, code)
        else:
            transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, 0, 2, 0, 0, code)


@njit
def _backward(table, number, re, im, inner, inner_bytes, step, code):  # type: ignore[no-untyped-def]
    """Undo the passes of a table, last first; the result is multiplied by the length."""
    for k in range(number):
        s = table + 48 * (number - 1 - k)
        radix, twiddles, blocks, block, leg = read(s), read(s + 8), read(s + 16), read(s + 24), read(s + 32)
        count = read(s + 40)
        if twiddles != 0:
            if radix == 8:
                transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, twiddles, 8, 1, 1, code)
            elif radix == 4:
                transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, twiddles, 4, 1, 1, code)
            else:
                transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, twiddles, 3, 1, 1, code)
        elif radix == 8:
            transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, 0, 8, 0, 1, code)
        elif radix == 4:
            transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, 0, 4, 0, 1, code)
        else:
            transform_pass(re, im, blocks, block, leg, count, step, inner, inner_bytes, 0, 2, 0, 1, code)


@njit
def _columns(p, re, im, vector, backward, code):  # type: ignore[no-untyped-def]
    """Transform a tile along z and y, a strip of vectors at a time so that it stays in the nearest cache."""
    plane = p.size_y * p.pitch
    for axis in range(2):
        if (axis == 0) != (backward == 1):
            if p.count_z > 0:
                width = plane // vector
                for first in range(0, width, p.strip_z):
                    here, at = min(p.strip_z, width - first), first * vector
                    if backward:
                        _backward(p.stages_z, p.count_z, re + at, im + at, here, vector, plane, code)
                    else:
                        _forward(p.stages_z, p.count_z, re + at, im + at, here, vector, plane, code)
        elif p.count_y > 0:
            for z in range(p.size_z):
                for first in range(0, p.vectors, p.strip_y):
                    here, at = min(p.strip_y, p.vectors - first), z * plane + first * vector
                    if backward:
                        _backward(p.stages_y, p.count_y, re + at, im + at, here, vector, p.pitch, code)
                    else:
                        _forward(p.stages_y, p.count_y, re + at, im + at, here, vector, p.pitch, code)


@njit
def _rows(p, re, im, w, vector, kind, code):  # type: ignore[no-untyped-def]
    """Transform the rows of a tile (0: forward; 1: and back, times the spectrum w between; 2: back)."""
    rows = p.size_z * p.size_y
    for first in range(0, rows, p.rows_x):
        here, at = min(p.rows_x, rows - first), first * p.pitch
        if kind < 2:
            _forward(p.outer, p.outer_count, re + at, im + at, here, p.pitch, vector, code)
        for start in range(0, p.vectors, p.chunk):
            place = at + start * vector
            table, groups = p.lanes_table + 2 * start * vector, p.chunk // p.group
            if kind < 2:
                _forward(p.inner, p.inner_count, re + place, im + place, here, p.pitch, vector, code)
            for row in range(here):
                r = place + row * p.pitch
                if kind == 0:
                    lane_transform(re + r, im + r, groups, table, 0, 0, 0, code)
                elif kind == 1:
                    lane_transform(re + r, im + r, groups, table, w + r, w + p.plane + r, 1, code)
                else:
                    lane_transform(re + r, im + r, groups, table, 0, 0, 2, code)
            if kind > 0:
                _backward(p.inner, p.inner_count, re + place, im + place, here, p.pitch, vector, code)
        if kind > 0:
            _backward(p.outer, p.outer_count, re + at, im + at, here, p.pitch, vector, code)


@functools.cache
def transform(code: int) -> int:
    """Return the address of the kernel that transforms a tile, compiled once for all types of arrays.

    It takes the place of the tile and, third, 0 to transform forward, -1 to transform back, or the address of the
    spectrum to multiply with between the two.
    """
    return int(_make_transform(code, simd.BYTES[code] * simd.lanes_of(code), simd.source_version()).address)


def _make_transform(code: int, vector: int, version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def transform_tile(pointer, at, w):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        re, im = at, at + p.plane
        if w != -1:
            _columns(p, re, im, vector, 0, code)
        _rows(p, re, im, w, vector, 0 if w == 0 else 2 if w == -1 else 1, code)
        if w != 0:
            _columns(p, re, im, vector, 1, code)

    return transform_tile


@njit(error_model="numpy")
def _extract(p, x, tz, ty, tx, fill, to, source, accumulator, size):  # type: ignore[no-untyped-def]
    """Copy what a tile reads of one channel, borders filled in, into a plane; zeros where nothing is read."""
    nothing = zero(accumulator)
    size_z, size_y, size_x = p.high_z - p.low_z, p.high_y - p.low_y, p.high_x - p.low_x
    whole = p.pitch // size
    count = min(p.size_x, p.span_x - tx * p.step_x)
    x0 = tx * p.step_x - p.before_x - p.low_x
    inner = min(max(-x0, 0), count)
    outer = min(max(size_x - x0, inner), count)
    for k in range(p.size_z):
        z = tz * p.step_z + k
        iz = _source_index(p.mode, z - p.before_z - p.low_z, size_z)
        for j in range(p.size_y):
            y = ty * p.step_y + j
            row = to + (k * p.size_y + j) * p.pitch
            if z >= p.span_z or y >= p.span_y:
                fill_run(row, whole, nothing, accumulator)
                continue
            iy = _source_index(p.mode, y - p.before_y - p.low_y, size_y)
            fill_run(row + count * size, whole - count, nothing, accumulator)
            if iz < 0 or iy < 0:
                fill_run(row, count, fill, accumulator)
                continue
            start = x + (iz + p.low_z) * p.xz + (iy + p.low_y) * p.xy + p.low_x * p.xx
            for i in range(inner):
                at = _source_index(p.mode, x0 + i, size_x)
                value = fill if at < 0 else load(start + at * p.xx, source, accumulator)
                store(row + i * size, value, accumulator, accumulator)
            if source == accumulator and p.xx == 2 * size:
                copy_alternate(row + inner * size, start + (x0 + inner) * p.xx, outer - inner, accumulator)
            else:
                copy_run(row + inner * size, start + (x0 + inner) * p.xx, outer - inner, p.xx, source, accumulator)
            for i in range(outer, count):
                at = _source_index(p.mode, x0 + i, size_x)
                value = fill if at < 0 else load(start + at * p.xx, source, accumulator)
                store(row + i * size, value, accumulator, accumulator)


@njit
def _clear(p, to, accumulator, size):  # type: ignore[no-untyped-def]
    fill_run(to, p.size_z * p.size_y * p.pitch // size, zero(accumulator), accumulator)


@njit
def _write(p, y, tz, ty, tx, bias, bias_im, at, accumulator, target, size, lanes):  # type: ignore[no-untyped-def]
    """Write a tile's outputs of one channel; return whether they are all finite.

    Complex numbers whose parts lie side by side are written both at once, with the first part.
    """
    nz = min(p.step_z, p.out_z - tz * p.step_z)
    ny = min(p.step_y, p.out_y - ty * p.step_y)
    nx = min(p.step_x, p.out_x - tx * p.step_x)
    start = y + tz * p.step_z * p.yz + ty * p.step_y * p.yy + tx * p.step_x * p.yx
    good = 1
    for k in range(nz):
        for j in range(ny):
            row = at + (k * p.size_y + j) * p.pitch
            good &= are_finite(row, (nx + lanes - 1) // lanes, accumulator)
            if target == accumulator and p.is_complex and p.yx == 2 * size:
                good &= are_finite(row + p.plane, (nx + lanes - 1) // lanes, accumulator)
                interleave(start + k * p.yz + j * p.yy, row, row + p.plane, nx, bias, bias_im, accumulator)
            else:
                write_run(start + k * p.yz + j * p.yy, p.yx, row, nx, bias, accumulator, target)
    return good


@functools.cache
def tiles(source: int, accumulator: int, target: int) -> int:
    """Return the address of the kernel that convolves tiles, for three element codes.

    A task is one group and two tiles, the real and the imaginary part of one transform; of complex numbers one tile.
    Tiles that are not finite are marked in `flags`.
    """
    lanes = simd.lanes_of(accumulator)
    return int(_tiles(source, accumulator, target, simd.BYTES[accumulator], lanes, simd.source_version()).address)


def _tiles(source: int, accumulator: int, target: int, size: int, lanes: int, version: int) -> Any:
    vector = lanes * size

    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def convolve_tiles(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        group, pair = task % p.groups, task // p.groups
        parts = 1 if p.is_complex else 2
        per_image = p.tiles_z * p.tiles_y * p.tiles_x
        tile_bytes = 2 * p.plane
        for part in range(2):
            item = pair if p.is_complex else 2 * pair + part
            if item >= p.items:
                for channel in range(p.channels):
                    _clear(p, scratch + channel * tile_bytes + part * p.plane, accumulator, size)
                continue
            image, tile = item // per_image, item % per_image
            tx, tile = tile % p.tiles_x, tile // p.tiles_x
            ty, tz = tile % p.tiles_y, tile // p.tiles_y
            fill = load(p.fill + part * p.is_complex * size, accumulator, accumulator)
            for channel in range(p.channels):
                start = p.x + image * p.xn + (group * p.channels + channel) * p.xc + part * p.is_complex * p.x_half
                to = scratch + channel * tile_bytes + part * p.plane
                _extract(p, start, tz, ty, tx, fill, to, source, accumulator, size)
        weights = p.w + group * p.outputs * p.channels * tile_bytes
        one = p.channels == 1 and p.outputs == 1
        sums = scratch
        if one:
            call_kernel(p.transform, p.self, scratch, weights)
        else:
            sums = scratch + p.channels * tile_bytes
            for channel in range(p.channels):
                call_kernel(p.transform, p.self, scratch + channel * tile_bytes, 0)
        for output in range(p.outputs):
            if not one:
                for channel in range(p.channels):
                    accumulate_product(
                        sums, scratch + channel * tile_bytes, weights + (output * p.channels + channel) * tile_bytes,
                        p.plane, p.size_z * p.size_y * p.pitch // vector, channel == 0, accumulator,
                    )  # fmt: skip
                call_kernel(p.transform, p.self, sums, -1)
            index = group * p.outputs + output
            for part in range(2):
                item = pair if p.is_complex else 2 * pair + part
                if item >= p.items or (part == 1 and target == accumulator and p.is_complex and p.yx == 2 * size):
                    continue
                image, tile = item // per_image, item % per_image
                tx, tile = tile % p.tiles_x, tile // p.tiles_x
                ty, tz = tile % p.tiles_y, tile // p.tiles_y
                bias, bias_im = zero(accumulator), zero(accumulator)
                if p.bias != 0:
                    place = p.bias + (index * (3 - parts) + part * p.is_complex) * size
                    bias = load(place, accumulator, accumulator)
                    if p.is_complex and part == 0:
                        bias_im = load(place + size, accumulator, accumulator)
                start = p.y + image * p.yn + index * p.yc + part * p.is_complex * p.y_half
                at = sums + part * p.plane
                if _write(p, start, tz, ty, tx, bias, bias_im, at, accumulator, target, size, lanes) == 0:
                    store(p.flags + item, 1, 2, 6)

    return convolve_tiles


@functools.cache
def weights(source: int, accumulator: int) -> int:
    """Return the address of the kernel that transforms weights; a task is one pair of channels."""
    return int(_weights(source, accumulator, simd.BYTES[accumulator], simd.source_version()).address)


def _weights(source: int, accumulator: int, size: int, version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def transform_weights(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        channel, rest = task % p.channels, task // p.channels
        output, group = rest % p.outputs, rest // p.outputs
        start = p.x + group * p.wg + output * p.wo + channel * p.wc
        to = p.w + task * 2 * p.plane
        # 1/n makes up for the transforms back and forth.
        scale = load(p.fill, accumulator, accumulator)
        for part in range(2):
            plane = to + part * p.plane
            _clear(p, plane, accumulator, size)
            if part == 1 and not p.is_complex:
                continue
            sign = -scale if part == 1 and p.conjugate else scale
            for k in range(p.taps_z):
                for j in range(p.taps_y):
                    # A correlation: tap t stands at -t, modulo the tile's size.
                    z, y = (p.size_z - k) % p.size_z, (p.size_y - j) % p.size_y
                    row = plane + (z * p.size_y + y) * p.pitch
                    source_row = start + k * p.wz + j * p.wy + part * p.w_half
                    for i in range(p.taps_x):
                        value = load(source_row + i * p.wx, source, accumulator)
                        store(row + (p.size_x - i) % p.size_x * size, value * sign, accumulator, accumulator)
        call_kernel(p.transform, p.self, to, 0)

    return transform_weights
