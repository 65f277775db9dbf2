"""The compiled kernels of the separable algorithm: both passes over a block of an image, one for each element type."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, from_dtype, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.simd import load
from gpuconv.backends.cpu.stencil_kernels import pack_row, source_place
from gpuconv.backends.cpu.stencil_tiles import stencil

__all__ = ["CALL", "passes"]

CALL = np.dtype(
    [
        (name, np.int64)
        for name in (
            # the arrays, the bytes between neighbours along their axes, and a pass's weights after its part
            "x xn xy xx y yn yy row_part row_weights column_part column_weights fill zero divisor "
            "mode low_y low_x high_y high_x offset_y offset_x count_y count_x "
            "block_y block_x blocks_y blocks_x reach_y reach_x rows "
            # the scratch memory: elements of a packed row that are read, and bytes of a row of sums and of what precedes them
            "used sums_step sums_offset"
        ).split()
    ]
)
"""One call; what belongs to the caller's arrays comes first."""

_KERNEL = types.void(types.CPointer(from_dtype(CALL)), types.int64, types.int64)


@functools.cache
def passes(code: int) -> int:
    """Return the address of the kernel for an element code.

    A task is a block of one image. Each input row is packed, its border filled in, and summed along itself into a row
    of scratch memory; each row of outputs is summed from those as soon as the last one that it reads is there.
    """
    return int(_passes(code, simd.BYTES[code], simd.source_version()).address)


def _passes(code: int, size: int, version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def run(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        qx, task = task % p.blocks_x * p.block_x, task // p.blocks_x
        qy, image = task % p.blocks_y * p.block_y, task // p.blocks_y
        nx, ny = min(p.block_x, p.count_x - qx), min(p.block_y, p.count_y - qy)
        size_y, size_x = p.high_y - p.low_y, p.high_x - p.low_x
        fill = load(p.fill, code, code)
        x = p.x + image * p.xn + p.low_x * p.xx
        sums = scratch + p.sums_offset
        summed = j = 0
        while j < ny:
            rows, left = p.rows, ny - j
            if rows > left:
                rows = 4 if left >= 4 and rows >= 4 else 1
            while summed < j + rows + p.reach_y:
                iy = source_place(p.mode, qy + p.offset_y - p.low_y + summed, size_y)
                pack_row(
                    scratch, x + (iy + p.low_y) * p.xy, qx + p.offset_x - p.low_x, nx + p.reach_x, p.used, 1, size_x,
                    p.xx, p.mode, iy < 0, fill, code, code, size,
                )  # fmt: skip
                stencil(
                    sums + summed * p.sums_step, 0, scratch, 0, size, p.row_part, 1, p.row_weights, nx, p.zero, 0,
                    1, code, code,
                )  # fmt: skip
                summed += 1
            to, at = p.y + image * p.yn + (qy + j) * p.yy + qx * size, sums + j * p.sums_step
            if rows == 8:
                stencil(
                    to, p.yy, at, p.sums_step, size, p.column_part, 1, p.column_weights, nx, p.zero, p.divisor,
                    8, code, code,
                )  # fmt: skip
            elif rows == 4:
                stencil(
                    to, p.yy, at, p.sums_step, size, p.column_part, 1, p.column_weights, nx, p.zero, p.divisor,
                    4, code, code,
                )  # fmt: skip
            else:
                stencil(
                    to, p.yy, at, p.sums_step, size, p.column_part, 1, p.column_weights, nx, p.zero, p.divisor,
                    1, code, code,
                )  # fmt: skip
            j += rows

    return run
