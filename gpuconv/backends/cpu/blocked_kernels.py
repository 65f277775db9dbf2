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
    # lines, and outputs of a line, that are summed before they are written
    "strip_y strip_x "
    # the packed input, as in `direct_kernels.PHASE`, in which outputs advance by `stride`
    "advance_z advance_y advance_x offset_z offset_y offset_x block_z block_y block_x pitch_z pitch_y pitch_x "
    "residues_z residues_y residues_x residue_count_z residue_count_y residue_count_x plane "
    "stride_z stride_y stride_x "
    "phases phase_count sums_offset square_offset"
)
"""One call; what belongs to the caller's arrays comes first."""

PHASE = record("start_z start_y start_x count_z count_y count_x terms offsets w_offset w_group w_vector")
"""One phase in the order of the axes; `offsets` are its terms' in the input, the others place its weights."""

_POINTER = types.CPointer(from_dtype(BLOCKED))

_phases = record_at(PHASE)


@njit(error_model="numpy")
def _multiply(p, f, x, w, bias, to, pixel, vectors, qz, qy, qx, ny, nx, out_x, most, accumulator):  # type: ignore[no-untyped-def]
    """Sum a phase's outputs of a strip, line by line, in tiles of nearly equal length."""
    if qz >= f.count_z:
        return
    nx = min(nx, f.count_x - qx)
    for j in range(min(ny, f.count_y - qy)):
        sums, source = to + ((j * p.step_y + f.start_y) * out_x + f.start_x) * pixel, x + j * p.place_y
        left = nx
        for tiles in range(ceil_div(nx, most), 0, -1):
            places = left // tiles
            outer_products(
                sums, p.step_x * pixel, w, f.w_vector, source, p.place_x, f.offsets, f.terms, bias, places, vectors,
                accumulator,
            )  # fmt: skip
            sums, source, left = sums + places * p.step_x * pixel, source + places * p.place_x, left - places


@njit(error_model="numpy")
def _write_places(y, yc, yx, sums, pixel, count, rows, square, size, lanes, accumulator):  # type: ignore[no-untyped-def]
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


@njit(error_model="numpy")
def _strip(p, phases, x, vector, vectors, group, y, qz, qy, qx, ny, nx, sums, square, most, size, lanes, accumulator):  # type: ignore[no-untyped-def]
    """Compute and write `ny` lines of `nx` places, in all phases, of some vectors of output channels."""
    # The outputs that all phases together fill.
    out_z, out_y = min(p.step_z, p.size_z - qz * p.step_z), min(ny * p.step_y, p.size_y - qy * p.step_y)
    out_x = min(nx * p.step_x, p.size_x - qx * p.step_x)
    pixel = vectors * lanes * size
    bias = p.bias + group * p.bias_group + vector * lanes * size
    for number in range(p.phase_count):
        f = phases[number]
        w = p.w + f.w_offset + group * f.w_group + vector * f.w_vector
        to = sums + f.start_z * out_y * out_x * pixel
        _multiply(p, f, x, w, bias, to, pixel, vectors, qz, qy, qx, ny, nx, out_x, most, accumulator)
    # Lines that follow each other in y are one run.
    run, lines = out_x, out_y
    if lines > 1 and p.yy == run * p.yx:
        run, lines = run * lines, 1
    for k in range(out_z):
        for j in range(lines):
            to, own = y + k * p.yz + j * p.yy, sums + (k * lines + j) * run * pixel
            if p.yc == size:
                for i in range(run):
                    rows = min(vectors * lanes, p.outputs - vector * lanes)
                    write_run(to + i * p.yx, size, own + i * pixel, rows, zero(accumulator), accumulator, accumulator)
                continue
            for v in range(vectors):
                rows = min(lanes, p.outputs - (vector + v) * lanes)
                _write_places(
                    to + v * lanes * p.yc, p.yc, p.yx, own + v * lanes * size, pixel, run, rows, square, size, lanes,
                    accumulator,
                )  # fmt: skip


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
        if p.in_place:
            x = p.x + image * p.xn + group * p.channels * p.xc + qz * p.place_z + qy * p.place_y + qx * p.place_x
            x += p.offset_z * p.xz + p.offset_y * p.xy + p.offset_x * p.xx
        else:
            x = scratch
            pack_input(
                p, p, p.x + image * p.xn, group * p.channels, p.channels, qz * p.stride_z,
                qy * p.stride_y, qx * p.stride_x, (nz - 1) * p.stride_z + 1, (ny - 1) * p.stride_y + 1,
                (nx - 1) * p.stride_x + 1, scratch, code, code, size,
            )  # fmt: skip
        corner = p.y + image * p.yn + group * p.outputs * p.yc
        corner += qz * p.step_z * p.yz + qy * p.step_y * p.yy + qx * p.step_x * p.yx
        vector, last = chunk * p.chunk, min((chunk + 1) * p.chunk, p.vectors)
        sums, square = scratch + p.sums_offset, scratch + p.square_offset
        while vector < last:
            vectors = min(VECTORS, last - vector)
            to = corner + vector * lanes * p.yc
            for k in range(nz):
                for j in range(0, ny, p.strip_y):
                    for i in range(0, nx, p.strip_x):
                        _strip(
                            p, phases, x + k * p.place_z + j * p.place_y + i * p.place_x, vector, vectors, group,
                            to + k * p.step_z * p.yz + j * p.step_y * p.yy + i * p.step_x * p.yx, qz + k, qy + j,
                            qx + i, min(p.strip_y, ny - j), min(p.strip_x, nx - i), sums, square, most, size, lanes,
                            code,
                        )  # fmt: skip
            vector += vectors

    return convolve
