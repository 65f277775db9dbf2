"""The compiled kernel of the blocked algorithm.

A kernel takes the address of a `BLOCKED` record, which `blocked_geometry` and `blocked` fill. Sizes and strides are
run-time values: a new shape compiles nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.blocked_tiles import VECTORS, outer_products, tile_places
from gpuconv.backends.cpu.direct_kernels import ceil_div, pack_input
from gpuconv.backends.cpu.elements import write_run, zero
from gpuconv.backends.cpu.records import record, record_at
from gpuconv.backends.cpu.squares import transpose_square

__all__ = ["BLOCKED", "PHASE", "convolution"]

BLOCKED = record(
    # the arrays and the bytes between neighbours along each of their axes
    "x xn xc xz xy xx x_half y yn yc yz yy yx fill w bias bias_group is_complex "
    # whether x is read where it lies; bytes between the inputs of neighbouring outputs
    "in_place place_z place_y place_x "
    "channels outputs vectors groups batch chunk chunks "
    "mode low_z low_y low_x high_z high_y high_x "
    # output `start of the phase + step * q`, for q below `count`, reads input `advance * q + offset + ...`
    "step_z step_y step_x count_z count_y count_x size_z size_y size_x places_z places_y places_x blocks_z blocks_y "
    "blocks_x "
    # the packed input, as in `direct_kernels.PHASE`; its lines keep their stride, `stride_x`
    "advance_z advance_y advance_x offset_z offset_y offset_x block_z block_y block_x pitch_z pitch_y pitch_x "
    "residues_z residues_y residues_x residue_count_z residue_count_y residue_count_x plane stride_x "
    "phases phase_count sums_offset square_offset"
)
"""One call; what belongs to the caller's arrays comes first."""

PHASE = record("start_z start_y start_x count_z count_y count_x terms offsets w_offset w_group w_vector")
"""One phase in the order of the axes; `offsets` are its terms' in the input, the others place its weights."""

_POINTER = types.CPointer(from_dtype(BLOCKED))

_phases = record_at(PHASE)


@njit(error_model="numpy")
def _multiply(p, f, x, w, bias, to, pixel, vectors, nz, ny, nx, qz, qy, qx, out_y, out_x, most, accumulator):  # type: ignore[no-untyped-def]
    """Sum a phase's outputs of a block, line by line, tiles of nearly equal length."""
    count = min(nx, f.count_x - qx)
    tiles = ceil_div(count, most)
    for k in range(min(nz, f.count_z - qz)):
        for j in range(min(ny, f.count_y - qy)):
            line, from_here = (k * p.step_z + f.start_z) * out_y + j * p.step_y + f.start_y, to + f.start_x * pixel
            from_here += line * out_x * pixel
            source, first = x + k * p.place_z + j * p.place_y, 0
            for tile in range(tiles):
                places = (count - first) // (tiles - tile)
                outer_products(
                    from_here + first * p.step_x * pixel, p.step_x * pixel, w, f.w_vector, source + first * p.place_x,
                    p.place_x, f.offsets, f.terms, bias, places, vectors, accumulator,
                )  # fmt: skip
                first += places


@njit(error_model="numpy")
def _write_run(y, yc, yx, sums, pixel, count, rows, square, size, lanes, accumulator):  # type: ignore[no-untyped-def]
    """Write a run of neighbouring places of `rows` channels, at most a vector's."""
    is_whole = rows == lanes and yx == size and count >= lanes
    place = 0
    while place < count:
        if is_whole:
            # The last square overlaps the one before.
            place = min(place, count - lanes)
            transpose_square(
                y + place * size, yc, sums + place * pixel, pixel, accumulator, accumulator, accumulator
            )  # fmt: skip
        else:
            transpose_square(
                square, lanes * size, sums + place * pixel, pixel, accumulator, accumulator, accumulator
            )  # fmt: skip
            for row in range(rows):
                write_run(
                    y + row * yc + place * yx, yx, square + row * lanes * size, min(lanes, count - place),
                    zero(accumulator), accumulator, accumulator,
                )  # fmt: skip
        place += lanes


@functools.cache
def convolution(code: int) -> int:
    """Return the address of the kernel for an element code.

    A task is one image, group, block of outputs and chunk of vectors of output channels, in all phases.
    """
    version = simd.source_version()
    return int(_convolution(code, simd.BYTES[code], simd.lanes_of(code), tile_places(), version).address)


def _convolution(code: int, size: int, lanes: int, most: int, version: int) -> Any:
    @cfunc(types.void(_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def convolve(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version < 0:
            return
        p = carray(pointer, 1)[0]
        phases = carray(_phases(p.phases), p.phase_count)
        chunk, local = task % p.chunks, task // p.chunks
        qx, local = local % p.blocks_x * p.places_x, local // p.blocks_x
        qy, local = local % p.blocks_y * p.places_y, local // p.blocks_y
        qz, local = local % p.blocks_z * p.places_z, local // p.blocks_z
        group, image = local % p.groups, local // p.groups
        nz, ny = min(p.places_z, p.count_z - qz), min(p.places_y, p.count_y - qy)
        nx = min(p.places_x, p.count_x - qx)
        # The block of y that all phases together fill.
        first_z, first_y, first_x = qz * p.step_z, qy * p.step_y, qx * p.step_x
        out_z, out_y = min(nz * p.step_z, p.size_z - first_z), min(ny * p.step_y, p.size_y - first_y)
        out_x = min(nx * p.step_x, p.size_x - first_x)
        if p.in_place:
            x = p.x + image * p.xn + group * p.channels * p.xc + qz * p.place_z + qy * p.place_y + qx * p.place_x
            x += p.offset_z * p.xz + p.offset_y * p.xy + p.offset_x * p.xx
        else:
            x = scratch
            pack_input(
                p, p, p.x + image * p.xn, group * p.channels, p.channels, qz, qy, qx * p.stride_x, nz, ny,
                (nx - 1) * p.stride_x + 1, scratch, code, code, size,
            )  # fmt: skip
        corner = p.y + image * p.yn + first_z * p.yz + first_y * p.yy + first_x * p.yx + group * p.outputs * p.yc
        vector, last = chunk * p.chunk, min((chunk + 1) * p.chunk, p.vectors)
        sums, square = scratch + p.sums_offset, scratch + p.square_offset
        while vector < last:
            vectors = min(VECTORS, last - vector)
            pixel = vectors * lanes * size
            bias = p.bias + group * p.bias_group + vector * lanes * size
            for number in range(p.phase_count):
                f = phases[number]
                w = p.w + f.w_offset + group * f.w_group + vector * f.w_vector
                _multiply(
                    p, f, x, w, bias, sums, pixel, vectors, nz, ny, nx, qz, qy, qx, out_y, out_x, most, code
                )  # fmt: skip
            for v in range(vectors):
                channel = (vector + v) * lanes
                rows = min(lanes, p.outputs - channel)
                to, own = corner + channel * p.yc, sums + v * lanes * size
                if p.yc == size:
                    for k in range(out_z):
                        for j in range(out_y):
                            for i in range(out_x):
                                write_run(
                                    to + k * p.yz + j * p.yy + i * p.yx, size,
                                    own + ((k * out_y + j) * out_x + i) * pixel, rows, zero(code), code, code,
                                )  # fmt: skip
                    continue
                # Lines that follow each other in y are one run, and so are planes.
                run, lines, planes = out_x, out_y, out_z
                if lines > 1 and p.yy == run * p.yx:
                    run, lines = run * lines, 1
                if planes > 1 and lines == 1 and p.yz == run * p.yx:
                    run, planes = run * planes, 1
                for k in range(planes):
                    for j in range(lines):
                        _write_run(
                            to + k * p.yz + j * p.yy, p.yc, p.yx, own + (k * lines + j) * run * pixel, pixel, run,
                            rows, square, size, lanes, code,
                        )  # fmt: skip
            vector += vectors

    return convolve
