"""The compiled kernel of the separable algorithm: both passes over a block of an image."""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.simd import call
from gpuconv.backends.cpu.stencil_kernels import source_place

__all__ = ["CALL", "passes"]

CALL = record(
    # the arrays, the bytes between neighbours along their axes, and a pass's weights after its part
    "x xn xy xx y yn yy row_part row_weights column_part column_weights fill zero divisor "
    # the functions that pack a row and compute 8, 4 and 1 rows, and bytes of an element
    "pack block_8 block_4 block_1 size "
    "mode low_y low_x high_y high_x offset_y offset_x count_y count_x "
    "block_y block_x blocks_y blocks_x reach_y reach_x rows "
    # the scratch memory: places of a packed row that are read, bytes of a row of sums and of what precedes
    "used sums_step sums_offset"
)
"""One call; what belongs to the caller's arrays comes first."""

_KERNEL = types.void(types.CPointer(from_dtype(CALL)), types.int64, types.int64)


@functools.cache
def passes() -> int:
    """Return the address of the kernel.

    A task is a block of one image. Each input row is packed, its border filled in, and summed along itself into a row
    of scratch memory; each row of outputs is summed from those as soon as the last one that it reads is there.
    """
    return int(_passes(simd.source_version()).address)


def _passes(version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def run(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        qx, task = task % p.blocks_x * p.block_x, task // p.blocks_x
        qy, image = task % p.blocks_y * p.block_y, task // p.blocks_y
        nx, ny = min(p.block_x, p.count_x - qx), min(p.block_y, p.count_y - qy)
        size_y, size_x = p.high_y - p.low_y, p.high_x - p.low_x
        x = p.x + image * p.xn + p.low_x * p.xx
        sums = scratch + p.sums_offset
        summed = j = 0
        while j < ny:
            rows, left = p.rows, ny - j
            if rows > left:
                rows = 4 if left >= 4 and rows >= 4 else 1
            while summed < j + rows + p.reach_y:
                iy = source_place(p.mode, qy + p.offset_y - p.low_y + summed, size_y)
                call(
                    p.pack,
                    (
                        scratch, x + (iy + p.low_y) * p.xy, qx + p.offset_x - p.low_x, nx + p.reach_x, p.used, 1,
                        size_x, p.xx, p.mode, int(iy < 0), p.fill,
                    ),
                )  # fmt: skip
                call(
                    p.block_1,
                    (
                        sums + summed * p.sums_step, 0, scratch, 0, p.size, p.row_part, 1, p.row_weights, nx, p.zero, 0,
                    ),
                )  # fmt: skip
                summed += 1
            call(
                p.block_8 if rows == 8 else p.block_4 if rows == 4 else p.block_1,
                (
                    p.y + image * p.yn + (qy + j) * p.yy + qx * p.size, p.yy, sums + j * p.sums_step, p.sums_step,
                    p.size, p.column_part, 1, p.column_weights, nx, p.zero, p.divisor,
                ),
            )  # fmt: skip
            j += rows

    return run
