"""Device code of the stencil algorithm: one kernel, made for a size of window."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import cuda

from gpuconv.backends.cuda import activation_kernels, launch, ndarray_kernels, scalars
from gpuconv.boundary import source_index

if TYPE_CHECKING:
    from gpuconv.backends.cuda.stencil import Strips

__all__ = ["FIELDS", "correlation"]

u32, u64, i64 = np.uint32, np.uint64, np.int64

FIELDS = (
    "tiles", "rows", "columns", "outputs", "multiplier", "mode", "biased",
    "first_row", "first_column", "low_row", "low_column", "high_row", "high_column",
    "in_batch", "in_channel", "in_row", "in_column", "out_batch", "out_channel", "out_row", "out_column",
)  # fmt: skip
"""What `meta` holds: tiles along a row, sizes of the output, where output 0 begins to read, what cropping leaves of the
input, and strides."""
(
    TILES, ROWS, COLUMNS, OUTPUTS, MULTIPLIER, MODE, BIASED,
    FIRST_ROW, FIRST_COLUMN, LOW_ROW, LOW_COLUMN, HIGH_ROW, HIGH_COLUMN,
    IN_BATCH, IN_CHANNEL, IN_ROW, IN_COLUMN, OUT_BATCH, OUT_CHANNEL, OUT_ROW, OUT_COLUMN,
) = range(len(FIELDS))  # fmt: skip

_source = launch.compile_device_function(source_index)


@launch.specialise
def correlation(
    kind: str, height: int, width: int, strips: Strips, activation: str = "", others: tuple[str, str] | None = None
) -> Any:
    """Return the kernel ``(x, w, bias, y, fill, meta, first)`` of windows of `height` by `width`.

    `kind` is that of `scalars.Scalars`; `others` are the dtypes of x and y where they are not those of `kind`.

    A block computes a tile of one plane, an output channel of an image: the grid's first axis counts tiles, its second
    planes from `first` on. The input of a tile with its halo is staged once. A thread slides down `strips.rows` rows
    of `strips.columns` columns: each row of inputs that it reads is added to all outputs whose window it is in,
    whose sums stay in registers. In the registers are the outputs of as many rows as the window has, of which the first
    is finished by each row of inputs; or, for a window that is taller than the strip, those of the whole strip.
    """
    seen = scalars.of(kind)
    shared_type = scalars.numba_type(seen.sums)
    zero = seen.sums.type(0)
    load, load_bias = scalars.loader(kind), scalars.loader(seen.result)
    store = activation_kernels.storer(activation, seen.result)
    if others is not None:
        load = ndarray_kernels.loader(others[0], seen.sums.name)
        store = ndarray_kernels.storer(scalars.of(others[1]).kind, seen.sums.name)
    lanes, columns, own_rows = strips.lanes, strips.columns, strips.rows
    threads = u32(strips.threads)
    tile_rows, tile_columns = strips.tile_rows, strips.tile_columns
    halo_rows, halo_columns = tile_rows + height - 1, tile_columns + width - 1
    tall = strips.tall
    staged_size, taps, sums = halo_rows * halo_columns, height * width, (own_rows if tall else height) * columns
    table_size = halo_rows + halo_columns
    in_registers = taps <= 49 and not tall

    def kernel(x, w, bias, y, fill, meta, first):  # type: ignore[no-untyped-def]
        staged = cuda.shared.array(staged_size, shared_type)
        sources = cuda.shared.array(table_size, numba.int64)
        shared_weights = cuda.shared.array(taps, shared_type)
        weights = cuda.local.array(taps, shared_type)
        total = cuda.local.array(sums, shared_type)
        values = cuda.local.array(columns, shared_type)

        thread = u32(cuda.threadIdx.x)
        tiles = u32(meta[TILES])
        row0 = i64(u32(u32(cuda.blockIdx.x) // tiles)) * i64(tile_rows)
        column0 = i64(u32(u32(cuda.blockIdx.x) % tiles)) * i64(tile_columns)
        plane = u64(first) + u64(cuda.blockIdx.y)
        o = u64(plane % u64(meta[OUTPUTS]))
        n = u64(plane // u64(meta[OUTPUTS]))
        in_base = n * u64(meta[IN_BATCH]) + u64(o // u64(meta[MULTIPLIER])) * u64(meta[IN_CHANNEL])

        # The element that each row and column of the halo shows, as an offset into the plane; -1 for the fill value.
        i = thread
        while i < u32(table_size):
            if i < u32(halo_rows):
                low, size = meta[LOW_ROW], meta[HIGH_ROW] - meta[LOW_ROW]
                at, stride = row0 + meta[FIRST_ROW] + i64(i), meta[IN_ROW]
            else:
                low, size = meta[LOW_COLUMN], meta[HIGH_COLUMN] - meta[LOW_COLUMN]
                at, stride = column0 + meta[FIRST_COLUMN] + i64(u32(i - u32(halo_rows))), meta[IN_COLUMN]
            source = i64(_source(meta[MODE], at - low, size))
            sources[i] = (source + low) * stride if source >= 0 else i64(-1)
            i = u32(i + threads)
        i = thread
        while i < u32(taps):
            shared_weights[i] = w[u64(o * u64(taps) + u64(i))]
            i = u32(i + threads)
        cuda.syncthreads()

        i = thread
        while i < u32(staged_size):
            from_row = sources[u32(i // u32(halo_columns))]
            from_column = sources[u32(u32(halo_rows) + u32(i % u32(halo_columns)))]
            value = fill
            if from_row >= 0 and from_column >= 0:
                value = load(x[u64(in_base + u64(from_row + from_column))])
            staged[i] = value
            i = u32(i + threads)
        cuda.syncthreads()

        lane = u32(thread % u32(lanes))
        strip = u32(u32(thread // u32(lanes)) * u32(own_rows))
        if in_registers:
            for t in range(taps):
                weights[t] = shared_weights[t]
        for r in range(sums):
            total[r] = zero
        offset = zero
        if meta[BIASED] != 0:
            offset = load_bias(bias[o])
        rows, out_columns = meta[ROWS], meta[COLUMNS]
        row_stride, column_stride = meta[OUT_ROW], meta[OUT_COLUMN]
        out_base = n * u64(meta[OUT_BATCH]) + o * u64(meta[OUT_CHANNEL])

        below = u32(0)
        if tall:
            while below < u32(own_rows + height - 1):
                begin = u64(u32(u32(strip + below) * u32(halo_columns) + lane))
                whole = below >= u32(own_rows - 1) and below < u32(height)
                for t in range(width):
                    for c in range(columns):
                        values[c] = staged[u64(begin + u64(c * lanes + t))]
                    at_w = u64(u64(u32(below * u32(width))) + u64(t))
                    if whole:
                        for r in range(own_rows):
                            weight = shared_weights[u64(at_w - u64(r * width))]
                            for c in range(columns):
                                total[r * columns + c] += weight * values[c]
                    else:
                        for r in range(own_rows):
                            if below >= u32(r) and below < u32(r + height):
                                weight = shared_weights[u64(at_w - u64(r * width))]
                                for c in range(columns):
                                    total[r * columns + c] += weight * values[c]
                below = u32(below + u32(1))
            for r in range(own_rows):
                out_row = row0 + i64(strip) + i64(r)
                if out_row < rows:
                    for c in range(columns):
                        out_column = column0 + i64(lane) + i64(c * lanes)
                        if out_column < out_columns:
                            place = u64(out_row * row_stride + out_column * column_stride)
                            y[u64(out_base + place)] = store(total[r * columns + c] + offset)
        else:
            while below < u32(own_rows + height - 1):
                begin = u64(u32(u32(strip + below) * u32(halo_columns) + lane))
                for t in range(width):
                    for c in range(columns):
                        values[c] = staged[u64(begin + u64(c * lanes + t))]
                    for j in range(height):
                        if in_registers:
                            weight = weights[u64((height - 1 - j) * width) + u64(t)]
                        else:
                            weight = shared_weights[u64((height - 1 - j) * width) + u64(t)]
                        for c in range(columns):
                            total[j * columns + c] += weight * values[c]
                # The first sums have met all rows of their windows once this row is the last of one.
                if below >= u32(height - 1):
                    out_row = row0 + i64(strip) + i64(u32(below - u32(height - 1)))
                    if out_row < rows:
                        for c in range(columns):
                            out_column = column0 + i64(lane) + i64(c * lanes)
                            if out_column < out_columns:
                                place = u64(out_row * row_stride + out_column * column_stride)
                                y[u64(out_base + place)] = store(total[c] + offset)
                for j in range(height - 1):
                    for c in range(columns):
                        total[j * columns + c] = total[(j + 1) * columns + c]
                for c in range(columns):
                    total[(height - 1) * columns + c] = zero
                below = u32(below + u32(1))

    return launch.compile_kernel(kernel)
