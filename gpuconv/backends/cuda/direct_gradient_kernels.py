"""Device code of the gradient by the weights: a product of y with the inputs that each tap met, and sums of its slices.

The sum over all images and output positions is cut into slices, whose number depends on shapes alone; the slices are
added in their order. So a result is the same in every run, and no two threads add into one place.
"""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars
from gpuconv.boundary import source_index

if TYPE_CHECKING:
    from gpuconv.tuning_cuda import GradientTile

__all__ = ["AXIS_FIELDS", "FIELDS", "add_slices", "contraction"]

u32, u64, i64 = np.uint32, np.uint64, np.int64

FIELDS = (
    "rows", "columns", "row_tiles", "column_tiles", "slices", "length", "slice_length", "taps", "mode", "along_rows",
    "x_batch", "x_channel", "x_group", "y_batch", "y_channel", "y_group", "groups",
)  # fmt: skip
"""The head of `meta`. Rows are output channels, columns pairs (input channel, tap), of one group; `length` is the
sum's: images and output positions. All but columns count real numbers, two in a complex one."""
(
    ROWS, COLUMNS, ROW_TILES, COLUMN_TILES, SLICES, LENGTH, SLICE_LENGTH, TAPS, MODE, ALONG_ROWS,
    X_BATCH, X_CHANNEL, X_GROUP, Y_BATCH, Y_CHANNEL, Y_GROUP, GROUPS,
) = range(len(FIELDS))  # fmt: skip

AXIS_FIELDS = ("output", "kernel", "stride", "dilation", "first", "low", "size", "inner", "x_stride", "y_stride")
"""Then for each of three axes: output j and tap t read position j*stride + t*dilation + first of the input, in which
`inner` - 1 zeros stand between neighbours; `size` elements from `low` on are what cropping leaves."""
OUTPUT, KERNEL, STRIDE, DILATION, FIRST, LOW, SIZE, INNER, X_STRIDE, Y_STRIDE = range(len(AXIS_FIELDS))
AXIS0 = len(FIELDS)
AXIS1, AXIS2 = AXIS0 + len(AXIS_FIELDS), AXIS0 + 2 * len(AXIS_FIELDS)

_source = launch.compile_device_function(source_index)


def _place(meta, axis, at):  # type: ignore[no-untyped-def]
    """Return the element that stands at a position of an axis, or -1 for none."""
    inner = meta[axis + INNER]
    if inner > 1:
        if at < 0 or at % inner != 0:
            return i64(-1)
        at = at // inner
    low = meta[axis + LOW]
    found = i64(_source(meta[MODE], at - low, meta[axis + SIZE]))
    if found < 0:
        return i64(-1)
    return found + low


_placed = launch.compile_device_function(_place)


@launch.specialise
def contraction(kind: str, tile: GradientTile, parts: int) -> Any:
    """Return the kernel ``(x, y, partial, fill, meta, first)``.

    A block computes `tile.rows` by `tile.columns` elements of one group over one slice of the sum. The grid's first
    axis counts slices and tiles, the second groups from `first` on. `partial` is (slices, groups, rows, columns,
    parts) in the dtype of sums.
    """
    seen = scalars.of(kind)
    shared_type = scalars.numba_type(seen.sums)
    zero, load = seen.sums.type(0), scalars.loader(kind)
    rows, columns, depth = u32(tile.rows), u32(tile.columns), u32(tile.depth)
    own_rows, own_columns = tile.rows_per_thread, tile.columns_per_thread
    threads = u32(tile.threads)
    across = u32(tile.columns // own_columns)
    row_pitch, column_pitch = u32(tile.rows + 1), u32(tile.columns + 1)
    rows_size, columns_size = tile.depth * (tile.rows + 1), tile.depth * (tile.columns + 1)
    depth_size, table_size, sums = tile.depth, tile.columns, own_rows * own_columns
    pairs = parts == 2
    two = u64(2)

    def kernel(x, y, partial, fill, meta, first):  # type: ignore[no-untyped-def]
        of_y = cuda.shared.array(rows_size, shared_type)
        of_x = cuda.shared.array(columns_size, shared_type)
        y_places = cuda.shared.array(depth_size, numba.uint64)
        x_places = cuda.shared.array(depth_size, numba.uint64)
        starts0 = cuda.shared.array(depth_size, numba.int64)
        starts1 = cuda.shared.array(depth_size, numba.int64)
        starts2 = cuda.shared.array(depth_size, numba.int64)
        channels = cuda.shared.array(table_size, numba.uint64)
        taps0 = cuda.shared.array(table_size, numba.int64)
        taps1 = cuda.shared.array(table_size, numba.int64)
        taps2 = cuda.shared.array(table_size, numba.int64)
        total = cuda.local.array(sums, shared_type)
        values = cuda.local.array(own_columns, shared_type)

        thread = u32(cuda.threadIdx.x)
        tx = u32(thread % across)
        ty = u32(thread // across)
        rest = u64(cuda.blockIdx.x)
        c0 = u64(u64(rest % u64(meta[COLUMN_TILES])) * u64(columns))
        rest = u64(rest // u64(meta[COLUMN_TILES]))
        r0 = u64(u64(rest % u64(meta[ROW_TILES])) * u64(rows))
        piece = u64(rest // u64(meta[ROW_TILES]))
        g = u64(first) + u64(cuda.blockIdx.y)
        all_rows = u64(meta[ROWS])
        all_columns = u64(meta[COLUMNS])
        y_base = g * u64(meta[Y_GROUP])
        x_base = g * u64(meta[X_GROUP])
        y_channel = u64(meta[Y_CHANNEL])
        x_stride0, x_stride1, x_stride2 = meta[AXIS0 + X_STRIDE], meta[AXIS1 + X_STRIDE], meta[AXIS2 + X_STRIDE]
        by_rows = meta[ALONG_ROWS] != 0

        # What each column reads: its channel, and on each axis its tap's distance.
        i = thread
        while i < columns:
            of_group = u64(c0 + u64(i))
            channels[i] = u64(u64(of_group // u64(meta[TAPS])) * u64(meta[X_CHANNEL]))
            tap = i64(u64(of_group % u64(meta[TAPS])))
            taps2[i] = tap % meta[AXIS2 + KERNEL] * meta[AXIS2 + DILATION] + meta[AXIS2 + FIRST]
            tap = tap // meta[AXIS2 + KERNEL]
            taps1[i] = tap % meta[AXIS1 + KERNEL] * meta[AXIS1 + DILATION] + meta[AXIS1 + FIRST]
            taps0[i] = tap // meta[AXIS1 + KERNEL] * meta[AXIS0 + DILATION] + meta[AXIS0 + FIRST]
            i = u32(i + threads)
        for r in range(sums):
            total[r] = zero

        k0 = u64(piece * u64(meta[SLICE_LENGTH]))
        end = u64(k0 + u64(meta[SLICE_LENGTH]))
        if end > u64(meta[LENGTH]):  # noqa: PLR1730 - Numba's CUDA target cannot compile min() where there is no device
            end = u64(meta[LENGTH])
        while k0 < end:
            count = depth
            if u64(end - k0) < u64(depth):
                count = u32(u64(end - k0))
            # Where in y and in x each term of this part of the sum begins.
            i = thread
            while i < count:
                term = u64(k0 + u64(i))
                part = u64(0)
                if pairs:
                    part = u64(term % two)
                    term = u64(term // two)
                j2 = i64(u64(term % u64(meta[AXIS2 + OUTPUT])))
                term = u64(term // u64(meta[AXIS2 + OUTPUT]))
                j1 = i64(u64(term % u64(meta[AXIS1 + OUTPUT])))
                term = u64(term // u64(meta[AXIS1 + OUTPUT]))
                j0 = i64(u64(term % u64(meta[AXIS0 + OUTPUT])))
                n = u64(term // u64(meta[AXIS0 + OUTPUT]))
                place = j0 * meta[AXIS0 + Y_STRIDE] + j1 * meta[AXIS1 + Y_STRIDE] + j2 * meta[AXIS2 + Y_STRIDE]
                y_places[i] = u64(y_base + n * u64(meta[Y_BATCH]) + u64(place))
                x_places[i] = u64(x_base + n * u64(meta[X_BATCH]) + part)
                starts0[i] = j0 * meta[AXIS0 + STRIDE]
                starts1[i] = j1 * meta[AXIS1 + STRIDE]
                starts2[i] = j2 * meta[AXIS2 + STRIDE]
                i = u32(i + threads)
            cuda.syncthreads()

            i = thread
            while i < u32(count * rows):
                k = u32(i % count)
                row = u32(i // count)
                if by_rows:
                    k = u32(i // rows)
                    row = u32(i % rows)
                here = u64(r0 + u64(row))
                value = zero
                if here < all_rows:
                    if pairs:
                        # Rows are parts of a complex gradient, terms of a complex x; the other factor is y's part.
                        term_part = u64(u64(k0 + u64(k)) % two)
                        row_part = u64(here % two)
                        other = u64(u64(term_part + row_part) % two)
                        value = load(y[u64(y_places[k] + u64(here // two) * y_channel + other)])
                        if term_part == u64(1) and row_part == u64(1):
                            value = -value
                    else:
                        value = load(y[u64(y_places[k] + here * y_channel)])
                of_y[u32(k * row_pitch + row)] = value
                i = u32(i + threads)
            i = thread
            while i < u32(count * columns):
                k = u32(i % count)
                column = u32(i // count)
                if by_rows:
                    k = u32(i // columns)
                    column = u32(i % columns)
                value = zero
                if u64(c0 + u64(column)) < all_columns:
                    p0 = _placed(meta, AXIS0, starts0[k] + taps0[column])
                    p1 = _placed(meta, AXIS1, starts1[k] + taps1[column])
                    p2 = _placed(meta, AXIS2, starts2[k] + taps2[column])
                    if p0 >= 0 and p1 >= 0 and p2 >= 0:
                        place = u64(p0 * x_stride0 + p1 * x_stride1 + p2 * x_stride2)
                        value = load(x[u64(x_places[k] + channels[column] + place)])
                    elif not pairs or u64(u64(k0 + u64(k)) % two) == u64(0):
                        value = fill
                of_x[u32(k * column_pitch + column)] = value
                i = u32(i + threads)
            cuda.syncthreads()

            k = u32(0)
            while k < count:
                at_x = u64(u32(k * column_pitch + tx))
                at_y = u64(u32(k * row_pitch + u32(ty * u32(own_rows))))
                for c in range(own_columns):
                    values[c] = of_x[u64(at_x + u64(u32(c) * across))]
                for r in range(own_rows):
                    weight = of_y[u64(at_y + u64(r))]
                    for c in range(own_columns):
                        total[r * own_columns + c] += weight * values[c]
                k = u32(k + u32(1))
            cuda.syncthreads()
            k0 = u64(k0 + u64(count))

        base = u64(u64(piece * u64(meta[GROUPS])) + g) * all_rows
        for r in range(own_rows):
            in_row = u64(r0 + u64(ty * u32(own_rows)) + u64(r))
            for c in range(own_columns):
                in_column = u64(c0 + u64(u32(tx + u32(u32(c) * across))))
                if in_row < all_rows and in_column < all_columns:
                    if pairs:
                        pair = u64(u64(base + u64(in_row - u64(in_row % two))) * all_columns)
                        partial[u64(pair + in_column * two + u64(in_row % two))] = total[r * own_columns + c]
                    else:
                        partial[u64(u64(base + in_row) * all_columns + in_column)] = total[r * own_columns + c]

    return launch.compile_kernel(kernel)


@launch.specialise
def add_slices(kind: str) -> Any:
    """Return the kernel ``(partial, dw, slices)`` that adds the slices of each element, in their order."""
    seen = scalars.of(kind)
    zero, store = seen.sums.type(0), scalars.storer(seen.result)

    def kernel(partial, target, slices):  # type: ignore[no-untyped-def]
        element = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        step = u64(cuda.gridDim.x) * u64(cuda.blockDim.x)
        size = u64(target.size)
        while element < size:
            total = zero
            piece = u64(0)
            while piece < u64(slices):
                total += partial[u64(piece * size + element)]
                piece = u64(piece + u64(1))
            target[element] = store(total)
            element = u64(element + step)

    return launch.compile_kernel(kernel)
