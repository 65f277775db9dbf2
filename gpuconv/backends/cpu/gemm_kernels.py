"""The compiled kernel of the implicit matrix product.

A kernel takes the address of a `GEMM` record, which `gemm_geometry` and `gemm` fill. Sizes and strides are run-time
values: a new shape compiles nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.direct_kernels import ROWS, block_rows, pack_input, row_count
from gpuconv.backends.cpu.elements import read, store, write_run, zero
from gpuconv.backends.cpu.gemm_blocks import LINES, PANELS, PLANES
from gpuconv.backends.cpu.gemm_panels import (
    TERMS,
    TILE_BYTES,
    fill_panel,
    find_runs,
    find_tiles,
    first_vector,
    pack_weights,
)
from gpuconv.backends.cpu.gemm_tiles import WIDTH, interleave, product
from gpuconv.backends.cpu.records import record, record_at

__all__ = ["GEMM", "PHASE", "SET", "multiplication"]


GEMM = record(
    # the arrays and the bytes between neighbours along each of their axes
    "x xn xc xz xy xx x_half y yn yc yz yy yx y_half fill bias "
    # the weights, the bytes of a group's and from one output channel to the next; 0 for packed ones
    "w w_group w_row "
    # whether x is read where it lies, and without a panel; bytes between its lines; whether y takes whole tiles; and
    # what tiles read (see `gemm_blocks`)
    "in_place in_rows line_z line_y dense runs_of "
    # bytes between neighbouring outputs' inputs; whether neighbouring taps are neighbours that no other output reads
    "pixel patches "
    "sets "
    "channels outputs groups batch is_complex row_chunk row_chunks "
    "mode low_z low_y low_x high_z high_y high_x "
    # output `start of the phase + step * q`, for q below `count`, reads input `advance * q + offset + ...`
    "step_z step_y step_x count_z count_y count_x advance_z advance_y advance_x offset_z offset_y offset_x "
    "block_z block_y block_x blocks_z blocks_y blocks_x "
    # the packed input, as in `direct_kernels.PHASE`
    "pitch_z pitch_y pitch_x residues_z residues_y residues_x residue_count_z residue_count_y residue_count_x plane "
    "channel_chunk depth set_count phases phases_x phase_count order "
    # the kernel's planes, the input planes from one to the next and a plane's taps, or 0 where none is left out
    "kernel_z dilation_z plane_taps "
    # offsets in the scratch memory, which begins with the packed input
    "runs_offset tiles_offset panel_offset panel_bytes panel_group panel_count weights_offset sums_offset sums_stride "
    "phase_bytes "
    # offsets of a panel's terms
    "panel_terms"
)
"""One call; what belongs to the caller's arrays comes first."""

PHASE = record("start_z start_y start_x count_z count_y count_x w_offset w_group")
"""One phase, in the order of the axes; `w_offset` and `w_group` place its packed weights."""

SET = record("offsets tap_count first last")
"""Phases ``order[first:last]``, which read the same inputs: ``offsets[channel * tap_count + tap]``, in bytes."""

_POINTER = types.CPointer(from_dtype(GEMM))


_phases = record_at(PHASE)


_sets = record_at(SET)


@njit
def _rows(p, row, last_row):  # type: ignore[no-untyped-def]
    """Return the rows of the tile that begins at a row of the weights."""
    if p.w_row == 0:
        return block_rows(row // ROWS, p.outputs)
    rows = ROWS
    while rows > last_row - row:
        rows >>= 1
    return rows


@njit
def _planes(p, qz):  # type: ignore[no-untyped-def]
    """Return the range of the kernel's planes that meet x beside output plane `qz`: at least one plane."""
    place, size = p.advance_z * qz + p.offset_z - p.low_z, p.high_z - p.low_z
    first, last = 0, p.kernel_z
    while first < last - 1 and place + p.dilation_z * first < 0:
        first += 1
    while last > first + 1 and place + p.dilation_z * (last - 1) >= size:
        last -= 1
    return first, last


@njit
def _runs_of(p, nz, ny, nx):  # type: ignore[no-untyped-def]
    """Return the runs of outputs that tiles are made of: planes, lines of each, and outputs of each line."""
    if p.runs_of == LINES:
        return nz, ny, nx
    if p.runs_of == PLANES:
        return nz, 1, (ny - 1) * p.pitch_x + nx
    return 1, 1, nz * ny * nx


@njit(error_model="numpy")
def _tile_rows(rows, width, to, to_stride, sums, stride, w, x, offsets, depth, bias, accumulator):  # type: ignore[no-untyped-def]
    if width == 3 and rows == 8:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 8, 3, accumulator)
    elif width == 3 and rows == 4:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 4, 3, accumulator)
    elif width == 3 and rows == 2:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 2, 3, accumulator)
    elif width == 3 and rows == 1:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 1, 3, accumulator)
    elif width == 2 and rows == 8:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 8, 2, accumulator)
    elif width == 2 and rows == 4:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 4, 2, accumulator)
    elif width == 2 and rows == 2:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 2, 2, accumulator)
    elif width == 2 and rows == 1:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 1, 2, accumulator)
    elif width == 1 and rows == 8:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 8, 1, accumulator)
    elif width == 1 and rows == 4:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 4, 1, accumulator)
    elif width == 1 and rows == 2:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 2, 1, accumulator)
    else:
        product(to, to_stride, sums, stride, w, x, offsets, depth, bias, 1, 1, accumulator)


@njit(error_model="numpy")
def _multiply_tiles(p, weights, own_terms, own_rows, own_tiles, places, is_direct, in_rows, is_near, size, accumulator):  # type: ignore[no-untyped-def]
    """Multiply a range of terms of some tiles with all rows of weights of a task.

    `fresh` sums begin with the bias; those of whole tiles go to y where `is_direct`, to `sums` otherwise. Weights are
    those of all terms, or of this range alone where the task packed them. Tiles read panels but where `is_near`, and
    whole ones `in_rows`.
    """
    term, terms, depth, fresh = own_terms
    first_row, last_row, first_output = own_rows
    first_tile, last_tile, tiles = own_tiles
    panel, base, offsets, sums, corner = places
    row = first_row
    while row < last_row:
        rows = _rows(p, row, last_row)
        at = weights + (row - first_row) * depth * size
        if p.w_row == 0:
            at = weights + (row * terms + term * rows) * size
        bias = p.bias + (first_output + row) * size if fresh else 0
        for number in range(first_tile, last_tile):
            tile = tiles + TILE_BYTES * number
            is_whole = read(tile + 32) != 0
            own = sums + (row - first_row) * p.sums_stride + read(tile + 16)
            to, stride = own, p.sums_stride
            if is_direct and is_whole and row + rows <= p.outputs:
                to, stride = corner + row * p.yc + read(tile + 8), p.yc
            inputs, terms_at = panel + (number - first_tile) * p.panel_bytes, p.panel_terms
            if is_near or (in_rows and is_whole):
                inputs, terms_at = base + read(tile), offsets
            _tile_rows(
                rows, read(tile + 24), to, stride, own, p.sums_stride, at, inputs, terms_at, depth, bias, accumulator
            )  # fmt: skip
        row += rows


@njit(error_model="numpy")
def _write(p, phases, corner, sums, first_row, last_row, qz, qy, qx, nz, ny, nx, size, lanes, accumulator, target):  # type: ignore[no-untyped-def]
    """Write the sums that are in scratch memory to y."""
    planes, lines, pixels = _runs_of(p, nz, ny, nx)
    vectors = -((-pixels) // lanes)
    tiles = -((-vectors) // WIDTH)
    if p.dense:
        # What no whole tile could take: the last tile's outputs, and rows beside which the weights are padded.
        begin = first_vector(tiles - 1, tiles, vectors) * lanes
        left = pixels % lanes != 0
        for row in range(first_row, last_row):
            padded = p.w_row == 0 and row // ROWS * ROWS + block_rows(row // ROWS, p.outputs) > p.outputs
            start = 0 if padded else begin
            if padded or left:
                origin = sums + (row - first_row) * p.sums_stride + start * size
                for k in range(planes):
                    for j in range(lines):
                        write_run(
                            corner + row * p.yc + k * p.yz + j * p.yy + start * size, size,
                            origin + (k * lines + j) * vectors * lanes * size, pixels - start, zero(accumulator),
                            accumulator, target,
                        )  # fmt: skip
        return
    # Elements from the sums of one line to those of the next, and of one plane.
    line_pitch, plane_pitch = nx, ny * nx
    if p.runs_of == LINES:
        line_pitch, plane_pitch = vectors * lanes, ny * vectors * lanes
    elif p.runs_of == PLANES:
        line_pitch, plane_pitch = p.pitch_x, vectors * lanes
    for row in range(first_row, last_row):
        for slot in range(0, p.phase_count, p.phases_x):
            # Phases of one line of y, which x's phases interleave.
            f = phases[slot]
            origin = sums + slot * p.phase_bytes + (row - first_row) * p.sums_stride
            to = corner + row * p.yc + f.start_z * p.yz + f.start_y * p.yy
            pairs = 0
            if p.phases_x == 2 and p.yx == size and accumulator == target:
                pairs = min(nx, phases[slot + 1].count_x - qx)
            for k in range(min(nz, f.count_z - qz)):
                for j in range(min(ny, f.count_y - qy)):
                    line = to + k * p.step_z * p.yz + j * p.step_y * p.yy
                    at = origin + (k * plane_pitch + j * line_pitch) * size
                    if pairs > 0:
                        interleave(line, at, at + p.phase_bytes, pairs, accumulator)
                    for i in range(p.phases_x):
                        count = min(nx, phases[slot + i].count_x - qx) - pairs
                        write_run(
                            line + (phases[slot + i].start_x + pairs * p.step_x) * p.yx, p.step_x * p.yx,
                            at + i * p.phase_bytes + pairs * size, count, zero(accumulator), accumulator, target,
                        )  # fmt: skip


@functools.cache
def multiplication(source: int, accumulator: int, target: int) -> int:
    """Return the address of the kernel for three element codes.

    A task is one image, group, block of outputs and chunk of output channels, in all phases.
    """
    lanes, size = simd.lanes_of(accumulator), simd.BYTES[accumulator]
    return int(_multiplication(source, accumulator, target, size, lanes, simd.source_version()).address)


def _multiplication(source: int, accumulator: int, target: int, size: int, lanes: int, version: int) -> Any:
    @cfunc(types.void(_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def multiply(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version < 0:
            return
        p = carray(pointer, 1)[0]
        sets, phases = carray(_sets(p.sets), p.set_count), carray(_phases(p.phases), p.phase_count)
        chunk, local = task % p.row_chunks, task // p.row_chunks
        qx, local = local % p.blocks_x * p.block_x, local // p.blocks_x
        qy, local = local % p.blocks_y * p.block_y, local // p.blocks_y
        qz, local = local % p.blocks_z * p.block_z, local // p.blocks_z
        group, image = local % p.groups, local // p.groups
        nx, ny = min(p.block_x, p.count_x - qx), min(p.block_y, p.count_y - qy)
        nz = min(p.block_z, p.count_z - qz)
        first_row = chunk * p.row_chunk
        last_row = min(first_row + p.row_chunk, row_count(p.outputs) if p.w_row == 0 else p.outputs)
        runs, panel, sums = scratch + p.runs_offset, scratch + p.panel_offset, scratch + p.sums_offset
        table, is_near = scratch + p.tiles_offset, p.runs_of != PANELS
        planes, lines, pixels = _runs_of(p, nz, ny, nx)
        line_bytes = p.pitch_x * size
        tiles = find_tiles(
            table, planes, lines, pixels, p.pitch_y * line_bytes, line_bytes, p.yz, p.yy, size, lanes
        )  # fmt: skip
        in_rows = False
        if not is_near:
            run_count = find_runs(runs, nz, ny, nx, p.line_z, p.line_y, p.pixel, size, lanes)
            # A tile whose inputs are one run of each channel needs no panel.
            in_rows = p.in_rows != 0 and run_count == tiles
            for tile in range(tiles if in_rows else 0):
                store(table + TILE_BYTES * tile, read(runs + 32 * tile), 3, 3)
        corner = p.y + image * p.yn + qz * p.step_z * p.yz + qy * p.step_y * p.yy + qx * p.step_x * p.yx
        corner += group * p.outputs * p.yc
        # Planes of the kernel that meet nothing but the border are left out, channel by channel.
        first_plane, last_plane = 0, p.kernel_z
        if p.plane_taps != 0 and nz == 1:
            first_plane, last_plane = _planes(p, qz)
        is_cut = last_plane - first_plane < p.kernel_z
        channel = 0
        while True:
            channels = 1 if is_cut else min(p.channel_chunk, p.channels - channel)
            if p.in_place:
                base = p.x + image * p.xn + (group * p.channels + channel) * p.xc
                base += (p.advance_z * qz + p.offset_z) * p.xz + (p.advance_y * qy + p.offset_y) * p.xy
                base += (p.advance_x * qx + p.offset_x) * p.xx
            else:
                base = scratch
                pack_input(
                    p, p, p.x + image * p.xn, group * p.channels + channel, channels, qz, qy, qx, nz, ny, nx, scratch,
                    source, accumulator, size,
                )  # fmt: skip
            for number in range(p.set_count):
                s = sets[number]
                begin, terms = 0, channels * s.tap_count
                if is_cut:
                    begin, terms = first_plane * p.plane_taps, last_plane * p.plane_taps
                term = begin
                while True:
                    depth = min(p.depth, terms - term)
                    fresh = channel == 0 and term == begin
                    final = term + depth == terms and channel + channels == p.channels
                    if p.w_row != 0:
                        packed, from_here = scratch + p.weights_offset, p.w + group * p.w_group
                        pack_weights(
                            packed, from_here + first_row * p.w_row + (channel * s.tap_count + term) * size, p.w_row,
                            last_row - first_row, depth, size, accumulator,
                        )  # fmt: skip
                    run = 0
                    for first_packed in range(0, tiles, p.panel_count):
                        last_packed = min(first_packed + p.panel_count, tiles)
                        # A few terms of all panels at a time: neighbouring tiles read the same pages and cache lines.
                        first_run = run
                        for k in range(0, 0 if is_near else depth, TERMS):
                            run = first_run
                            for tile in range(first_packed, last_packed):
                                is_whole = read(table + TILE_BYTES * tile + 32) != 0
                                if in_rows and is_whole:
                                    run += 1
                                    continue
                                run = fill_panel(
                                    panel + (tile - first_packed) * p.panel_bytes + k * WIDTH * lanes * size,
                                    not is_whole, runs, run, tile, base, s.offsets + 8 * (term + k),
                                    min(TERMS, depth - k), p.pixel, p.patches, size, lanes, accumulator,
                                )  # fmt: skip
                        for first_tile in range(first_packed, last_packed, p.panel_group):
                            last_tile = min(first_tile + p.panel_group, last_packed)
                            for number_in_set in range(s.first, s.last):
                                slot = read(p.order + 8 * number_in_set)
                                weights = scratch + p.weights_offset
                                if p.w_row == 0:
                                    weights = p.w + phases[slot].w_offset + group * phases[slot].w_group
                                _multiply_tiles(
                                    p, weights, (channel * s.tap_count + term, p.channels * s.tap_count, depth, fresh),
                                    (first_row, last_row, group * p.outputs),
                                    (first_tile, last_tile, table),
                                    (
                                        panel + (first_tile - first_packed) * p.panel_bytes, base, s.offsets + 8 * term,
                                        sums + slot * p.phase_bytes, corner,
                                    ),
                                    p.dense != 0 and final, in_rows, is_near, size, accumulator,
                                )  # fmt: skip
                    term += depth
                    if term >= terms:
                        break
            channel += channels
            if channel >= p.channels:
                break
        _write(
            p, phases, corner, sums, first_row, min(last_row, p.outputs), qz, qy, qx, nz, ny, nx, size, lanes,
            accumulator, target,
        )  # fmt: skip

    return multiply
