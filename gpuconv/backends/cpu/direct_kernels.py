"""The compiled kernels of the direct algorithm, one set for each dtype.

A kernel takes the address of a `CALL` record, which `direct_geometry` fills. Sizes and strides are run-time
values: a new shape compiles nothing. In these records a complex number counts as two real channels, so the
kernels know real numbers only; an axis that a problem of lower rank lacks has size 1.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import copy_halves, copy_run, fill_run, load, read, store, write_run, zero
from gpuconv.backends.cpu.records import record, record_at
from gpuconv.backends.cpu.rows import prefetch
from gpuconv.backends.cpu.tiles import accumulate, row_blocks
from gpuconv.boundary import source_index

__all__ = [
    "CALL",
    "KERNEL",
    "PHASE",
    "ROWS",
    "block_rows",
    "ceil_div",
    "channel_address",
    "correlation",
    "int_pointer",
    "pack_input",
    "phase_pointer",
    "row_count",
]


CALL = record(
    # the arrays, the bytes between neighbours along each of their axes, and between real and imaginary parts
    "x xn xc xz xy xx x_half y yn yc yz yy yx y_half w bias fill partials is_complex "
    # channels and outputs of one group, and how tasks divide them
    "channels outputs channel_chunk channel_chunks row_chunk row_chunks groups batch "
    # the border mode, and the range of inputs that negative padding leaves on each axis
    "mode low_z low_y low_x high_z high_y high_x "
    "phases phase_count "
    # offsets in the scratch memory, which begins with the packed input
    "sums_offset sums_stride y_offset mask_offset "
    # a weight gradient's partial sums, and the blocks that each of them takes
    "partial_bytes partial_count blocks_in_partial"
)
"""One call; what belongs to the caller's arrays comes first."""

PHASE = record(
    "first_task tasks blocks w_offset w_group_bytes taps tap_count pairs partial_offset "
    # output `start + step * q`, for q below `count`, reads input `advance * q + offset + ...`
    "start_z start_y start_x step_z step_y step_x count_z count_y count_x "
    "advance_z advance_y advance_x offset_z offset_y offset_x "
    # the block of q that a task takes, and how many blocks an axis has
    "block_z block_y block_x blocks_z blocks_y blocks_x "
    # the packed input: one array (pitch_z, pitch_y, pitch_x) for each combination of residues modulo the advance
    "pitch_z pitch_y pitch_x residues_z residues_y residues_x residue_count_z residue_count_y residue_count_x "
    # bytes of a packed channel, and elements of a plane of sums
    "plane flat"
)
"""One phase of a call: an ordinary convolution on part of the taps (see `gpuconv.problem.AxisPhase`)."""

_CALL_POINTER = types.CPointer(from_dtype(CALL))
KERNEL = types.void(_CALL_POINTER, types.int64, types.int64)
ROWS = row_blocks()[0]
_LAST_ROWS = tuple(reversed(row_blocks()))


phase_pointer = record_at(PHASE)


@intrinsic
def int_pointer(typingctx: Any, address: Any) -> Any:
    """Return the address of a table of int64 as a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), codegen


_source_index = njit(source_index, error_model="numpy")


@njit
def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -((-a) // b)


@njit
def block_rows(block: int, outputs: int) -> int:
    """Return the rows of a block of output channels: full but for the last, whose rows beyond `outputs` are zeros."""
    left = outputs - block * ROWS
    for rows in _LAST_ROWS:
        if rows >= left:
            return rows
    return ROWS


@njit
def row_count(outputs):  # type: ignore[no-untyped-def]  # noqa: ANN201 - Numba's types
    """Return the rows of all blocks."""
    blocks = ceil_div(outputs, ROWS)
    if blocks == 0:
        return 0
    return (blocks - 1) * ROWS + block_rows(blocks - 1, outputs)


@njit
def channel_address(start: int, index: int, stride: int, half: int, is_complex: int) -> int:
    """Return the address of a real channel: of a complex one's real or imaginary part."""
    if is_complex:
        return start + (index >> 1) * stride + (index & 1) * half
    return start + index * stride


@njit(error_model="numpy")
def _pack_outside(p, row, start, x0, advance, first, last, size_x, fill, source, accumulator, size):  # type: ignore[no-untyped-def]
    """Copy places `first` to `last` of a line, whose inputs stand beyond its ends."""
    for i in range(first, last):
        at = _source_index(p.mode, x0 + advance * i, size_x)
        value = fill if at < 0 else load(start + at * p.xx, source, accumulator)
        store(row + i * size, value, accumulator, accumulator)


@njit(error_model="numpy")
def pack_input(p, f, x, first_channel, channels, qz, qy, qx, nz, ny, nx, to, source, accumulator, size) -> None:  # type: ignore[no-untyped-def]
    """Copy what a block of outputs reads into packed rows, borders filled in, strides undone.

    Input position ``advance * l + residue`` of the block becomes place l of that residue's array, so a tap is one
    offset from any output's place, whatever the stride.
    """
    lz, ly, lx = nz + f.pitch_z - f.block_z, ny + f.pitch_y - f.block_y, nx + f.pitch_x - f.block_x
    size_z, size_y, size_x = p.high_z - p.low_z, p.high_y - p.low_y, p.high_x - p.low_x
    row_bytes = f.pitch_x * size
    # Lines that follow each other in memory a processor prefetches by itself.
    is_spread = f.advance_x * f.advance_y * f.advance_z > 1
    # Both residues of a stride of 2 are copied at once.
    is_halved = f.residue_count_x == 2 and f.advance_x == 2 and p.xx == size and source == accumulator
    part = 0
    for a in range(f.residue_count_z):
        z0 = f.advance_z * qz + f.offset_z + read(f.residues_z + 8 * a) - p.low_z
        for b in range(f.residue_count_y):
            y0 = f.advance_y * qy + f.offset_y + read(f.residues_y + 8 * b) - p.low_y
            for c in range(f.residue_count_x):
                x0 = f.advance_x * qx + f.offset_x + read(f.residues_x + 8 * c) - p.low_x
                inner = min(max(ceil_div(-x0, f.advance_x), 0), lx)
                outer = min(max(ceil_div(size_x - x0, f.advance_x), inner), lx)
                part_bytes = f.pitch_z * f.pitch_y * row_bytes
                part_start = to + part * part_bytes
                part += 1
                if is_halved:
                    if c == 1:
                        continue
                    # Of the second residue, and of both.
                    inner_1 = min(max(ceil_div(-x0 - 1, 2), 0), lx)
                    outer_1 = min(max(ceil_div(size_x - x0 - 1, 2), inner_1), lx)
                    both = max(inner, inner_1)
                    end = max(min(outer, outer_1), both)
                for channel in range(channels):
                    index = first_channel + channel
                    plane = channel_address(x, index, p.xc, p.x_half, p.is_complex)
                    fill = load(channel_address(p.fill, index * p.is_complex, 0, size, 1), accumulator, accumulator)
                    for k in range(lz):
                        iz = _source_index(p.mode, z0 + f.advance_z * k, size_z)
                        for j in range(ly):
                            iy = _source_index(p.mode, y0 + f.advance_y * j, size_y)
                            row = part_start + channel * f.plane + (k * f.pitch_y + j) * row_bytes
                            if iz < 0 or iy < 0:
                                fill_run(row, lx, fill, accumulator)
                                if is_halved:
                                    fill_run(row + part_bytes, lx, fill, accumulator)
                                continue
                            start = plane + (iz + p.low_z) * p.xz + (iy + p.low_y) * p.xy + p.low_x * p.xx
                            if is_spread and channel + 1 < channels:
                                prefetch(
                                    start + p.xc + (x0 + f.advance_x * inner) * p.xx,
                                    (outer - inner) * f.advance_x * p.xx,
                                )  # fmt: skip
                            if is_halved:
                                second = row + part_bytes
                                _pack_outside(
                                    p, row, start, x0, 2, 0, both, size_x, fill, source, accumulator, size
                                )  # fmt: skip
                                _pack_outside(
                                    p, second, start, x0 + 1, 2, 0, both, size_x, fill, source, accumulator, size
                                )  # fmt: skip
                                copy_halves(
                                    row + both * size, second + both * size, start + (x0 + 2 * both) * p.xx, end - both,
                                    accumulator,
                                )  # fmt: skip
                                _pack_outside(
                                    p, row, start, x0, 2, end, lx, size_x, fill, source, accumulator, size
                                )  # fmt: skip
                                _pack_outside(
                                    p, second, start, x0 + 1, 2, end, lx, size_x, fill, source, accumulator, size
                                )  # fmt: skip
                                continue
                            _pack_outside(
                                p, row, start, x0, f.advance_x, 0, inner, size_x, fill, source, accumulator, size
                            )  # fmt: skip
                            copy_run(
                                row + inner * size, start + (x0 + f.advance_x * inner) * p.xx, outer - inner,
                                f.advance_x * p.xx, source, accumulator,
                            )  # fmt: skip
                            _pack_outside(
                                p, row, start, x0, f.advance_x, outer, lx, size_x, fill, source, accumulator, size
                            )  # fmt: skip


@functools.cache
def correlation(source: int, accumulator: int, target: int) -> int:
    """Return the address of the kernel of forward and transposed convolutions for three element codes.

    A task is one image, group, block of outputs and chunk of output channels. Its inputs are packed a chunk of
    channels at a time, the sums staying in scratch memory between chunks.
    """
    return int(_correlation(source, accumulator, target, simd.BYTES[accumulator], simd.source_version()).address)


def _correlation(source: int, accumulator: int, target: int, size: int, version: int) -> Any:
    @cfunc(KERNEL, cache=True, error_model="numpy")
    def correlate(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        phases = carray(phase_pointer(p.phases), p.phase_count)
        number = 0
        while number + 1 < p.phase_count and task >= phases[number + 1].first_task:
            number += 1
        f = phases[number]
        local = task - f.first_task
        chunk, local = local % p.row_chunks, local // p.row_chunks
        qx, local = local % f.blocks_x * f.block_x, local // f.blocks_x
        qy, local = local % f.blocks_y * f.block_y, local // f.blocks_y
        qz, local = local % f.blocks_z * f.block_z, local // f.blocks_z
        group, image = local % p.groups, local // p.groups
        nx, ny = min(f.block_x, f.count_x - qx), min(f.block_y, f.count_y - qy)
        nz = min(f.block_z, f.count_z - qz)
        flat = (ny - 1) * f.pitch_x + nx
        first_row = chunk * p.row_chunk
        last_row = min(first_row + p.row_chunk, row_count(p.outputs))
        sums, stride, taps, tap_count = scratch + p.sums_offset, p.sums_stride, f.taps, f.tap_count
        weights = p.w + f.w_offset + group * f.w_group_bytes
        channel = 0
        while True:
            channels = min(p.channel_chunk, p.channels - channel)
            pack_input(
                p, f, p.x + image * p.xn, group * p.channels + channel, channels, qz, qy, qx, nz, ny, nx, scratch,
                source, accumulator, size,
            )  # fmt: skip
            row = first_row
            while row < last_row:
                rows = block_rows(row // ROWS, p.outputs)
                at = weights + (row * p.channels + channel * rows) * tap_count * size
                for k in range(nz):
                    to = sums + (row - first_row) * stride + k * f.flat * size
                    start = scratch + k * f.pitch_y * f.pitch_x * size
                    fresh = channel == 0
                    if rows == 8:
                        accumulate(
                            to, stride, start, flat, f.plane, channels, taps, tap_count, at, fresh, 8, accumulator
                        )
                    elif rows == 4:
                        accumulate(
                            to, stride, start, flat, f.plane, channels, taps, tap_count, at, fresh, 4, accumulator
                        )
                    elif rows == 2:
                        accumulate(
                            to, stride, start, flat, f.plane, channels, taps, tap_count, at, fresh, 2, accumulator
                        )
                    else:
                        accumulate(
                            to, stride, start, flat, f.plane, channels, taps, tap_count, at, fresh, 1, accumulator
                        )
                row += rows
            channel += channels
            if channel >= p.channels:
                break
        step = f.step_x * p.yx
        corner = (
            p.y + image * p.yn + (f.start_z + f.step_z * qz) * p.yz + (f.start_y + f.step_y * qy) * p.yy
            + (f.start_x + f.step_x * qx) * p.yx
        )  # fmt: skip
        for row in range(first_row, min(last_row, p.outputs)):
            index = group * p.outputs + row
            plane = channel_address(corner, index, p.yc, p.y_half, p.is_complex)
            bias = zero(accumulator)
            if p.bias != 0:
                bias = load(p.bias + index * size, accumulator, accumulator)
            for k in range(nz):
                for j in range(ny):
                    write_run(
                        plane + k * f.step_z * p.yz + j * f.step_y * p.yy, step,
                        sums + (row - first_row) * stride + (k * f.flat + j * f.pitch_x) * size, nx, bias,
                        accumulator, target,
                    )  # fmt: skip

    return correlate
