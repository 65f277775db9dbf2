"""The weight gradient's kernel for any dtype and few output channels: vectors along the places of the outputs."""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, njit

from gpuconv.backends.cpu import direct_kernels as kernels
from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.direct_kernels import channel_address, pack_input, phase_pointer
from gpuconv.backends.cpu.elements import copy_run, fill_run, store, zero
from gpuconv.backends.cpu.tiles import contract

__all__ = ["contraction"]


@njit
def _fill_mask(mask, height, width, pitch, flat):  # type: ignore[no-untyped-def]
    """Write 1 for every place of a plane that is an output and 0 for the others."""
    for byte in range(0, flat, 8):
        store(mask + byte, 0, 3, 3)
    for row in range(height):
        start = mask + row * pitch
        for i in range(0, width - 7, 8):
            store(start + i, 0x0101010101010101, 3, 3)
        for i in range(width - width % 8, width):
            store(start + i, 1, 2, 6)


@functools.cache
def contraction(source: int, accumulator: int) -> int:
    """Return the address of the kernel of weight gradients, which reads x and y and adds to partial sums.

    A task is one partial sum, group, chunk of output channels and chunk of input channels; it runs through the
    images and blocks of its partial sum in order. The partial sums depend on the shapes alone.
    """
    return int(_contraction(source, accumulator, simd.BYTES[accumulator], simd.source_version()).address)


def _contraction(source: int, accumulator: int, size: int, version: int) -> Any:
    @cfunc(kernels.KERNEL, cache=True, error_model="numpy")
    def contract_all(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        phases = carray(phase_pointer(p.phases), p.phase_count)
        channel, task = task % p.channel_chunks * p.channel_chunk, task // p.channel_chunks
        first_row, task = task % p.row_chunks * p.row_chunk, task // p.row_chunks
        group, part = task % p.groups, task // p.groups
        channels = min(p.channel_chunk, p.channels - channel)
        rows_here = min(p.row_chunk, p.outputs - first_row)
        y_scratch, mask = scratch + p.y_offset, scratch + p.mask_offset
        nothing = zero(accumulator)
        for number in range(p.phase_count):
            f = phases[number]
            sums = p.partials + part * p.partial_bytes + f.partial_offset
            sums_stride = p.channels * f.tap_count * size
            sums += (group * p.outputs + first_row) * sums_stride + channel * f.tap_count * size
            for row in range(rows_here):
                fill_run(sums + row * sums_stride, channels * f.tap_count, nothing, accumulator)
            first = part * p.blocks_in_partial
            masked = 0
            for number_of_block in range(first, min(first + p.blocks_in_partial, f.blocks * p.batch)):
                image, block = number_of_block // f.blocks, number_of_block % f.blocks
                qx, block = block % f.blocks_x * f.block_x, block // f.blocks_x
                qy, qz = block % f.blocks_y * f.block_y, block // f.blocks_y * f.block_z
                nx, ny, nz = (
                    min(f.block_x, f.count_x - qx),
                    min(f.block_y, f.count_y - qy),
                    min(f.block_z, f.count_z - qz),
                )
                pack_input(
                    p, f, p.x + image * p.xn, group * p.channels + channel, channels, qz, qy, qx, nz, ny, nx, scratch,
                    source, accumulator, size,
                )  # fmt: skip
                plane = f.flat * size
                if number_of_block == first or ny * f.pitch_x + nx != masked:
                    masked = ny * f.pitch_x + nx
                    _fill_mask(mask, ny, nx, f.pitch_x, f.flat)
                corner = (
                    p.y + image * p.yn + (f.start_z + f.step_z * qz) * p.yz + (f.start_y + f.step_y * qy) * p.yy
                    + (f.start_x + f.step_x * qx) * p.yx
                )  # fmt: skip
                for row in range(rows_here):
                    index = group * p.outputs + first_row + row
                    start = channel_address(corner, index, p.yc, p.y_half, p.is_complex)
                    for k in range(nz):
                        for j in range(ny):
                            copy_run(
                                y_scratch + (row * nz + k) * plane + j * f.pitch_x * size,
                                start + k * f.step_z * p.yz + j * f.step_y * p.yy,
                                nx, f.step_x * p.yx, source, accumulator,
                            )  # fmt: skip
                            end = f.flat if j == ny - 1 else (j + 1) * f.pitch_x
                            beside = y_scratch + (row * nz + k) * plane + (j * f.pitch_x + nx) * size
                            fill_run(beside, end - j * f.pitch_x - nx, nothing, accumulator)
                number_of_pairs = channels * f.tap_count
                for k in range(nz):
                    x_plane, y_plane = scratch + k * f.pitch_y * f.pitch_x * size, y_scratch + k * plane
                    stride = nz * plane
                    row = 0
                    while row < rows_here:
                        to, at = sums + row * sums_stride, y_plane + row * stride
                        left = rows_here - row
                        if left >= 4:
                            contract(
                                to,
                                sums_stride,
                                at,
                                stride,
                                x_plane,
                                f.pairs,
                                number_of_pairs,
                                mask,
                                f.flat,
                                4,
                                accumulator,
                            )
                            row += 4
                        elif left >= 2:
                            contract(
                                to,
                                sums_stride,
                                at,
                                stride,
                                x_plane,
                                f.pairs,
                                number_of_pairs,
                                mask,
                                f.flat,
                                2,
                                accumulator,
                            )
                            row += 2
                        else:
                            contract(
                                to,
                                sums_stride,
                                at,
                                stride,
                                x_plane,
                                f.pairs,
                                number_of_pairs,
                                mask,
                                f.flat,
                                1,
                                accumulator,
                            )
                            row += 1

    return contract_all
