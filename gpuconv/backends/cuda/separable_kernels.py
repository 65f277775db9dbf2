"""Device code of the separable algorithm: both passes of a tile in one launch."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, ndarray_kernels, scalars
from gpuconv.boundary import source_index

if TYPE_CHECKING:
    from gpuconv.backends.cuda.separable import Space

__all__ = ["FIELDS", "RUN", "passes"]

u32, u64, i64 = np.uint32, np.uint64, np.int64

RUN = 8
"""Neighbouring sums of a thread: along a row in the first pass, down a column in the second."""

FIELDS = (
    "tiles", "height", "width", "rows", "columns", "staged_rows", "mode",
    "first_row", "first_column", "low_row", "low_column", "high_row", "high_column", "out_rows", "out_columns",
    "in_batch", "in_row", "in_column", "out_batch", "out_row", "out_column",
)  # fmt: skip
"""What `meta` holds: tiles along a row; weights of the passes; rows and columns of a tile, and rows staged at once;
where output 0 begins to read, what cropping leaves of the input, sizes of the output, and strides."""
(
    TILES, HEIGHT, WIDTH, ROWS, COLUMNS, STAGED_ROWS, MODE,
    FIRST_ROW, FIRST_COLUMN, LOW_ROW, LOW_COLUMN, HIGH_ROW, HIGH_COLUMN, OUT_ROWS, OUT_COLUMNS,
    IN_BATCH, IN_ROW, IN_COLUMN, OUT_BATCH, OUT_ROW, OUT_COLUMN,
) = range(len(FIELDS))  # fmt: skip

_source = launch.compile_device_function(source_index)
_quotient = operator.truediv


@launch.specialise
def passes(source: str, sums: str, result: str, space: Space, threads: int) -> Any:
    """Return the kernel ``(x, w, y, fill, divisor, meta, first)`` of images of dtype `source` and results of `result`.

    `w` holds the weights down a column, then those along a row. A block computes a tile of one image: the grid's first
    axis counts tiles, its second images from `first` on. Some rows of the input with their halo are staged at a time,
    and summed along themselves into a second array of shared memory; that is then summed down its columns. A thread
    has `RUN` neighbouring sums in registers, and the `RUN` numbers that a weight meets: with the next weight each moves
    on by one, so that two numbers of shared memory are read for `RUN` products.
    """
    kind = np.dtype(sums)
    shared_type, zero = scalars.numba_type(kind), kind.type(0)
    load, store = ndarray_kernels.loader(source, sums), ndarray_kernels.storer(scalars.of(result).kind, sums)
    block = u32(threads)
    staged_size, sums_size, weights_size, places_size = space
    run = u32(RUN)

    def kernel(x, w, y, fill, divisor, meta, first):  # type: ignore[no-untyped-def]
        staged = cuda.shared.array(staged_size, shared_type)
        across = cuda.shared.array(sums_size, shared_type)
        weights = cuda.shared.array(weights_size, shared_type)
        places = cuda.shared.array(places_size, numba.int64)
        total = cuda.local.array(RUN, shared_type)
        values = cuda.local.array(RUN, shared_type)

        thread = u32(cuda.threadIdx.x)
        height, width = u32(meta[HEIGHT]), u32(meta[WIDTH])
        rows, columns = u32(meta[ROWS]), u32(meta[COLUMNS])
        staged_rows = u32(meta[STAGED_ROWS])
        tiles = u32(meta[TILES])
        row0 = i64(u32(u32(cuda.blockIdx.x) // tiles)) * meta[ROWS]
        column0 = i64(u32(u32(cuda.blockIdx.x) % tiles)) * meta[COLUMNS]
        image = u64(first) + u64(cuda.blockIdx.y)
        in_base = u64(image * u64(meta[IN_BATCH]))
        halo_rows = u32(u32(rows + height) - u32(1))
        halo_columns = u32(u32(columns + width) - u32(1))
        # Neighbouring threads read neighbouring rows in the first pass: an odd distance keeps their banks apart.
        pitch, sums_pitch = u32(halo_columns | u32(1)), u32(columns | u32(1))

        # The element that each column of the halo shows, as an offset into a row; -1 for the fill value.
        i = thread
        while i < halo_columns:
            at = column0 + meta[FIRST_COLUMN] + i64(i) - meta[LOW_COLUMN]
            found = i64(_source(meta[MODE], at, meta[HIGH_COLUMN] - meta[LOW_COLUMN]))
            places[i] = (found + meta[LOW_COLUMN]) * meta[IN_COLUMN] if found >= 0 else i64(-1)
            i = u32(i + block)
        i = thread
        while i < u32(height + width):
            weights[i] = w[u64(i)]
            i = u32(i + block)

        top = u32(0)
        while top < halo_rows:
            count = u32(halo_rows - top)
            if count > staged_rows:  # noqa: PLR1730 - Numba's CUDA target cannot compile min() where there is no device
                count = staged_rows
            # And of each row to be staged now, as an offset into the image.
            i = thread
            while i < count:
                at = row0 + meta[FIRST_ROW] + i64(u32(top + i)) - meta[LOW_ROW]
                found = i64(_source(meta[MODE], at, meta[HIGH_ROW] - meta[LOW_ROW]))
                places[u32(halo_columns + i)] = (found + meta[LOW_ROW]) * meta[IN_ROW] if found >= 0 else i64(-1)
                i = u32(i + block)
            cuda.syncthreads()
            i = thread
            while i < u32(count * halo_columns):
                row, column = u32(i // halo_columns), u32(i % halo_columns)
                from_row, from_column = places[u32(halo_columns + row)], places[column]
                value = fill
                if from_row >= 0 and from_column >= 0:
                    value = load(x[u64(in_base + u64(from_row + from_column))])
                staged[u32(u32(row * pitch) + column)] = value
                i = u32(i + block)
            cuda.syncthreads()
            i = thread
            while i < u32(count * u32(columns // run)):
                row, column = u32(i % count), u32(u32(i // count) * run)
                begin = u64(u32(u32(row * pitch) + column))
                for r in range(RUN):
                    total[r] = zero
                    values[r] = staged[u64(begin + u64(r))]
                t = u32(0)
                while u32(t + run) < width:
                    at_w, after = u64(u32(height + t)), u64(begin + u64(u32(t + run)))
                    for j in range(RUN):
                        weight = weights[u64(at_w + u64(j))]
                        for r in range(RUN):
                            total[r] += weight * values[(j + r) % RUN]
                        values[j] = staged[u64(after + u64(j))]
                    t = u32(t + run)
                while t < width:
                    for j in range(RUN):
                        if u32(t + u32(j)) < width:
                            weight = weights[u32(height + u32(t + u32(j)))]
                            for r in range(RUN):
                                total[r] += weight * values[(j + r) % RUN]
                            if u32(t + u32(j + 1)) < width:
                                values[j] = staged[u64(begin + u64(u32(t + u32(j + RUN))))]
                    t = u32(t + run)
                target = u64(u32(u32(u32(top + row) * sums_pitch) + column))
                for r in range(RUN):
                    across[u64(target + u64(r))] = total[r]
                i = u32(i + block)
            cuda.syncthreads()
            top = u32(top + staged_rows)

        i = thread
        while i < u32(columns * u32(rows // run)):
            column, row = u32(i % columns), u32(u32(i // columns) * run)
            begin = u64(u32(u32(row * sums_pitch) + column))
            step = u64(sums_pitch)
            for r in range(RUN):
                total[r] = zero
                values[r] = across[u64(begin + u64(u64(r) * step))]
            t = u32(0)
            while u32(t + run) < height:
                at_w, after = u64(t), u64(begin + u64(u64(u32(t + run)) * step))
                for j in range(RUN):
                    weight = weights[u64(at_w + u64(j))]
                    for r in range(RUN):
                        total[r] += weight * values[(j + r) % RUN]
                    values[j] = across[u64(after + u64(u64(j) * step))]
                t = u32(t + run)
            # At the end there may be fewer weights than sums.
            while t < height:
                for j in range(RUN):
                    if u32(t + u32(j)) < height:
                        weight = weights[u32(t + u32(j))]
                        for r in range(RUN):
                            total[r] += weight * values[(j + r) % RUN]
                        if u32(t + u32(j + 1)) < height:
                            values[j] = across[u64(begin + u64(u64(u32(t + u32(j + RUN))) * step))]
                t = u32(t + run)
            out_column = column0 + i64(column)
            for r in range(RUN):
                out_row = row0 + i64(row) + i64(r)
                if out_row < meta[OUT_ROWS] and out_column < meta[OUT_COLUMNS]:
                    place = u64(out_row * meta[OUT_ROW] + out_column * meta[OUT_COLUMN])
                    y[u64(image * u64(meta[OUT_BATCH]) + place)] = store(_quotient(total[r], divisor))
            i = u32(i + block)

    return launch.compile_kernel(kernel)
