"""The compiled kernel of the separable algorithm: both passes over a block of an image."""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import read
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.rows import prefetch
from gpuconv.backends.cpu.simd import call
from gpuconv.backends.cpu.stencil_kernels import PART_BYTES, source_place

__all__ = ["CALL", "STEP_BYTES", "passes"]

CALL = record(
    # the arrays, the bytes between neighbours along their axes, and the weights of the two passes
    "x xn xy xx y yn yy column_weights row_weights "
    # what a border of a constant and sums begin with, and what sums are divided by after each pass
    "fill zero column_divisor row_divisor "
    # the functions that pack a row, sum columns for a tile's rows, for fewer and for one, sum along a row, add rows,
    # run down and along with sums of integers and convert a row; bytes of an element
    "pack tile fewer_tile one_tile across add slide along write size y_size "
    "mode low_y low_x high_y high_x offset_y offset_x count_y count_x "
    "block_y block_x blocks_y blocks_x reach_y reach_x tap_step pixel rows fewer "
    # products that are added, and their parts of each pass
    "terms column_parts row_parts "
    # sums that are had from their neighbours', and the steps of such a sum along a row
    "is_mean steps step_count "
    # the scratch memory: packed rows that it has room for, places of one that are read, its bytes, where columns' sums
    # lie, the bytes between those of two rows and of two terms, and where a sum that is yet to grow and one yet to be
    # converted lie
    "band_rows used row_bytes columns_offset column_step term_step prefix_offset sums_offset"
)
"""One call; what belongs to the caller's arrays comes first."""

STEP_BYTES = 48
"""A step is six int64: the offset of the row that it writes, and of those that it adds, from the sums of columns, and
by how much the row is longer than the result; -1 stands for the result, and for a row that there is not."""

_KERNEL = types.void(types.CPointer(from_dtype(CALL)), types.int64, types.int64)


@functools.cache
def passes() -> int:
    """Return the address of the kernel.

    A task is a block of one image. Each input row is packed, its border filled in, into scratch memory; as soon as
    the last one that some rows of outputs read is there, the sums of their columns are taken, and along those the
    outputs.
    """
    return int(_passes(simd.source_version()).address)


@njit(error_model="numpy")
def _column_sums(p, band, columns, prefix, j, count):  # type: ignore[no-untyped-def]
    """Write the sums of the columns of rows j, j + 1 ... of a block, as many as a mean has, which are all it keeps.

    Rows are taken in runs as long as a sum. Each is replaced by the sum of the rest of its run, and the sum that begins
    with it is this and the beginning of the next run (M. van Herk, "A fast algorithm for local minimum and maximum
    filters on rectangular and octagonal kernels", Pattern Recognition Letters 13, 1992): three additions a row for any
    number of rows, and nothing is subtracted, so neither rounding nor a NaN outlasts its window. The next run's rows
    take the places of those before, each just after the last sum that begins there.
    """
    place = j % (p.reach_y + 1)
    row = band + place * p.row_bytes
    if place == 0:
        below = row + p.reach_y * p.row_bytes
        while below > row:
            below -= p.row_bytes
            call(p.add, (below, below, below + p.row_bytes, 0, 0, count, 0))
        call(p.add, (columns, row, 0, 0, 0, count, p.column_divisor))
        return
    newest = row - p.row_bytes
    start = newest
    if place > 1:
        call(p.add, (prefix, newest - p.row_bytes if place == 2 else prefix, newest, 0, 0, count, 0))
        start = prefix
    call(p.add, (columns, row, start, 0, 0, count, p.column_divisor))


@njit(error_model="numpy")
def _slide_down(p, band, columns, running, j, count):  # type: ignore[no-untyped-def]
    """Write what `_column_sums` does for integers, of which nothing outlasts what is subtracted again."""
    if j > 0:
        newest = band + (j + p.reach_y) % p.band_rows * p.row_bytes
        oldest = band + (j - 1) % p.band_rows * p.row_bytes
        call(p.slide, (columns, running, newest, oldest, count, p.column_divisor))
        return
    call(p.add, (running, band, 0, 0, 0, count, 0))
    for i in range(1, p.reach_y + 1):
        call(p.add, (running, running, band + i * p.row_bytes, 0, 0, count, 0))
    call(p.add, (columns, running, 0, 0, 0, count, p.column_divisor))


@njit(error_model="numpy")
def _row_sums(p, columns, into, nx):  # type: ignore[no-untyped-def]
    """Add up a mean's sums along a row in steps that double their length or more, or of parts of runs."""
    if p.along:
        call(p.along, (into, columns, columns + p.row_bytes, p.row_bytes, nx, p.reach_x, p.row_divisor))
        return
    for index in range(p.step_count):
        step = p.steps + index * STEP_BYTES
        target, second, third, fourth = read(step), read(step + 16), read(step + 24), read(step + 32)
        call(
            p.add,
            (
                into if target < 0 else columns + target, columns + read(step + 8),
                0 if second < 0 else columns + second, 0 if third < 0 else columns + third,
                0 if fourth < 0 else columns + fourth, nx + read(step + 40), p.row_divisor if target < 0 else 0,
            ),
        )  # fmt: skip


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
        y = p.y + image * p.yn + qy * p.yy + qx * p.y_size
        columns, sums = scratch + p.columns_offset, scratch + p.sums_offset
        packed = j = 0
        while j < ny:
            rows, left = p.rows, ny - j
            if rows > left:
                rows = p.fewer if left >= p.fewer else 1
            while packed < j + rows + p.reach_y:
                iy = source_place(p.mode, qy + p.offset_y - p.low_y + packed, size_y)
                call(
                    p.pack,
                    (
                        scratch + packed % p.band_rows * p.row_bytes, x + (iy + p.low_y) * p.xy,
                        qx + p.offset_x - p.low_x, nx + p.reach_x, p.used, 1, size_x, p.xx, p.mode,
                        int(iy < 0), p.fill, p.pixel,
                    ),
                )  # fmt: skip
                ahead = iy + p.rows
                if iy >= 0 and ahead < size_y:
                    prefetch(x + (ahead + p.low_y) * p.xy + max(qx + p.offset_x, 0) * p.xx, (nx + p.reach_x) * p.xx)
                packed += 1
            if p.slide:
                _slide_down(p, scratch, columns, scratch + p.prefix_offset, j, nx + p.reach_x)
            elif p.is_mean:
                _column_sums(p, scratch, columns, scratch + p.prefix_offset, j, nx + p.reach_x)
            else:
                for term in range(p.terms):
                    call(
                        p.tile if rows == p.rows else p.fewer_tile if rows == p.fewer > 1 else p.one_tile,
                        (
                            columns + term * p.term_step, p.column_step, scratch + j * p.row_bytes, p.row_bytes, p.size,
                            p.column_parts + term * PART_BYTES, 1, p.column_weights, nx + p.reach_x, p.zero,
                            p.column_divisor, 1, 0, 0, 0,
                        ),
                    )  # fmt: skip
            for r in range(rows):
                to = y + (j + r) * p.yy
                into = sums if p.write else to
                if p.is_mean:
                    _row_sums(p, columns, into, nx)
                else:
                    call(
                        p.across,
                        (
                            into, 0, columns + r * p.column_step, p.tap_step, p.tap_step, p.row_parts, p.terms,
                            p.row_weights, nx, p.zero, p.row_divisor, 1, 0, 0, 0,
                        ),
                    )  # fmt: skip
                if p.write:
                    call(p.write, (to, into, nx))
            j += rows

    return run
