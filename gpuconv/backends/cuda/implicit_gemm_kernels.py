"""Device code of the implicit matrix product: weights by the inputs that each tap and output position met."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import activation_kernels, launch, scalars
from gpuconv.boundary import source_index

if TYPE_CHECKING:
    from gpuconv.tuning_cuda import GemmTile

__all__ = ["AXIS_FIELDS", "FIELDS", "TAP_FIELDS", "product"]

u32, u64, i64 = np.uint32, np.uint64, np.int64

FIELDS = (
    "rows", "columns", "row_tiles", "channels", "chunks", "taps", "mode", "biased", "weights_start",
    "in_start", "in_batch", "in_group", "in_channel", "out_start", "out_batch", "out_channel",
)  # fmt: skip
"""The head of `meta`. Rows are the output channels of a group, columns the output positions of all images."""
(
    ROWS, COLUMNS, ROW_TILES, CHANNELS, CHUNKS, TAPS, MODE, BIASED, WEIGHTS_START,
    IN_START, IN_BATCH, IN_GROUP, IN_CHANNEL, OUT_START, OUT_BATCH, OUT_CHANNEL,
) = range(len(FIELDS))  # fmt: skip

AXIS_FIELDS = ("count", "advance", "length", "in_stride", "out_stride")
"""Then for each of three axes: how many outputs, how far apart they read, the input's size, and strides."""
COUNT, ADVANCE, LENGTH, IN_STRIDE, OUT_STRIDE = range(len(AXIS_FIELDS))
AXIS0 = len(FIELDS)
AXIS1, AXIS2 = AXIS0 + len(AXIS_FIELDS), AXIS0 + 2 * len(AXIS_FIELDS)
TABLE = AXIS0 + 3 * len(AXIS_FIELDS)

TAP_FIELDS = 3
"""Then for each tap its offset on each axis."""

_source = launch.compile_device_function(source_index)


@launch.specialise
def product(kind: str, tile: GemmTile, channels_inside: bool, activation: str = "") -> Any:
    """Return the kernel ``(x, w, bias, y, fill, meta, first)`` of one kind of number and tile.

    A block computes `tile.rows` output channels of one group at `tile.columns` output positions; the grid's first axis
    counts tiles, its second groups from `first` on. The sum runs over taps, and within a tap over its channels,
    `tile.depth` at a time: so where an output position reads is worked out once a tap. While one part of the sum is
    computed from shared memory the next is read into registers; it then goes to the other half of shared memory, and
    one barrier a part is enough. With `channels_inside` neighbouring threads read neighbouring channels, otherwise
    neighbouring positions.
    """
    seen = scalars.of(kind)
    shared_type = scalars.numba_type(seen.sums)
    zero = seen.sums.type(0)
    load, load_bias = scalars.loader(kind), scalars.loader(seen.result)
    store = activation_kernels.storer(activation, seen.result)
    rows, columns, depth, threads = tile.rows, tile.columns, tile.depth, tile.threads
    row_fours, column_fours = tile.rows_per_thread // 4, tile.columns_per_thread // 4
    row_step, column_step = rows // row_fours, columns // column_fours
    across = column_step // 4
    own_rows, own_columns, sums = (
        tile.rows_per_thread,
        tile.columns_per_thread,
        tile.rows_per_thread * tile.columns_per_thread,
    )
    weight_loads, input_loads = rows * depth // threads, columns * depth // threads
    # A thread reads several channels of one position, or one channel of several.
    own_positions = input_loads if channels_inside else max(columns // threads, 1)
    own_channels = input_loads // own_positions
    position_step = threads // depth if channels_inside else threads
    channel_step = max(threads // columns, 1)
    unrolled = min(depth, 4)
    weights_size, inputs_size = 2 * depth * rows, 2 * depth * columns

    def kernel(x, w, bias, y, fill, meta, first):  # type: ignore[no-untyped-def]
        of_w = cuda.shared.array(weights_size, shared_type)
        of_x = cuda.shared.array(inputs_size, shared_type)
        total = cuda.local.array(sums, shared_type)
        w_values = cuda.local.array(own_rows, shared_type)
        x_values = cuda.local.array(own_columns, shared_type)
        next_w = cuda.local.array(weight_loads, shared_type)
        next_x = cuda.local.array(input_loads, shared_type)
        starts0 = cuda.local.array(own_positions, np.int64)
        starts1 = cuda.local.array(own_positions, np.int64)
        starts2 = cuda.local.array(own_positions, np.int64)
        images = cuda.local.array(own_positions, np.uint64)
        places = cuda.local.array(own_positions, np.int64)

        thread = u32(cuda.threadIdx.x)
        row_tiles = u64(meta[ROW_TILES])
        row0 = u64(u64(u64(cuda.blockIdx.x) % row_tiles) * u64(rows))
        column0 = u64(u64(u64(cuda.blockIdx.x) // row_tiles) * u64(columns))
        g = u64(first) + u64(cuda.blockIdx.y)
        all_rows, all_columns = u64(meta[ROWS]), u64(meta[COLUMNS])
        channels, chunks = u64(meta[CHANNELS]), u64(meta[CHUNKS])
        in_channel = u64(meta[IN_CHANNEL])
        in_base = u64(meta[IN_START]) + g * u64(meta[IN_GROUP])

        if channels_inside:
            x_channel = u32(thread % u32(depth))
            x_column = u32(thread // u32(depth))
        else:
            x_channel = u32(thread // u32(columns))
            x_column = u32(thread % u32(columns))

        # Where the positions that this thread reads for begin.
        for a in range(own_positions):
            rest = u64(column0 + u64(x_column) + u64(a * position_step))
            starts2[a] = i64(u64(rest % u64(meta[AXIS2 + COUNT]))) * meta[AXIS2 + ADVANCE]
            rest = u64(rest // u64(meta[AXIS2 + COUNT]))
            starts1[a] = i64(u64(rest % u64(meta[AXIS1 + COUNT]))) * meta[AXIS1 + ADVANCE]
            rest = u64(rest // u64(meta[AXIS1 + COUNT]))
            starts0[a] = i64(u64(rest % u64(meta[AXIS0 + COUNT]))) * meta[AXIS0 + ADVANCE]
            images[a] = u64(in_base + u64(rest // u64(meta[AXIS0 + COUNT])) * u64(meta[IN_BATCH]))
            places[a] = i64(-1)
        for i in range(sums):
            total[i] = zero

        ty = u32(thread // u32(across))
        tx = u32(thread % u32(across))
        weights_base = u64(meta[WEIGHTS_START]) + g * u64(meta[TAPS]) * channels * all_rows
        parts = u64(u64(meta[TAPS]) * chunks)
        tap = u64(0)
        chunk = u64(0)
        part = u64(0)
        while part <= parts:
            if part < parts:
                if chunk == u64(0):
                    at = u64(u64(TABLE) + tap * u64(TAP_FIELDS))
                    for a in range(own_positions):
                        s0 = i64(_source(meta[MODE], starts0[a] + meta[at], meta[AXIS0 + LENGTH]))
                        s1 = i64(_source(meta[MODE], starts1[a] + meta[u64(at + u64(1))], meta[AXIS1 + LENGTH]))
                        s2 = i64(_source(meta[MODE], starts2[a] + meta[u64(at + u64(2))], meta[AXIS2 + LENGTH]))
                        places[a] = i64(-1)
                        if s0 >= 0 and s1 >= 0 and s2 >= 0:
                            places[a] = (
                                s0 * meta[AXIS0 + IN_STRIDE]
                                + s1 * meta[AXIS1 + IN_STRIDE]
                                + s2 * meta[AXIS2 + IN_STRIDE]
                            )
                c0 = u64(chunk * u64(depth))
                for i in range(weight_loads):
                    element = u32(thread + u32(i * threads))
                    channel = u64(c0 + u64(u32(element // u32(rows))))
                    row = u64(row0 + u64(u32(element % u32(rows))))
                    next_w[i] = zero
                    if channel < channels and row < all_rows:
                        next_w[i] = w[u64(weights_base + u64(u64(tap * channels) + channel) * all_rows + row)]
                for a in range(own_positions):
                    column = u64(column0 + u64(x_column) + u64(a * position_step))
                    for b in range(own_channels):
                        channel = u64(c0 + u64(x_channel) + u64(b * channel_step))
                        value = zero
                        if channel < channels and column < all_columns:
                            value = fill
                            if places[a] >= 0:
                                value = load(x[u64(images[a] + u64(places[a]) + channel * in_channel)])
                        next_x[a * own_channels + b] = value
            if part > u64(0):
                half = u32(u64(part - u64(1)) % u64(2))
                w_half = u32(half * u32(depth * rows))
                x_half = u32(half * u32(depth * columns))
                at_w = u64(u32(w_half + u32(ty * u32(4))))
                at_x = u64(u32(x_half + u32(tx * u32(4))))
                for _ in range(depth // unrolled):
                    for k in range(unrolled):
                        for q in range(row_fours):
                            for j in range(4):
                                w_values[q * 4 + j] = of_w[u64(at_w + u64(k * rows + q * row_step + j))]
                        for q in range(column_fours):
                            for j in range(4):
                                x_values[q * 4 + j] = of_x[u64(at_x + u64(k * columns + q * column_step + j))]
                        for i in range(own_rows):
                            for j in range(own_columns):
                                total[i * own_columns + j] += w_values[i] * x_values[j]
                    at_w = u64(at_w + u64(unrolled * rows))
                    at_x = u64(at_x + u64(unrolled * columns))
            if part < parts:
                half = u32(part % u64(2))
                w_at = u64(u32(u32(half * u32(depth * rows)) + thread))
                for i in range(weight_loads):
                    of_w[u64(w_at + u64(i * threads))] = next_w[i]
                x_at = u64(u32(u32(half * u32(depth * columns)) + u32(x_channel * u32(columns)) + x_column))
                for a in range(own_positions):
                    for b in range(own_channels):
                        of_x[u64(x_at + u64(b * channel_step * columns + a * position_step))] = next_x[
                            a * own_channels + b
                        ]
            cuda.syncthreads()
            part = u64(part + u64(1))
            chunk = u64(chunk + u64(1))
            if chunk == chunks:
                chunk = u64(0)
                tap = u64(tap + u64(1))

        out_channel = u64(meta[OUT_CHANNEL])
        for q in range(column_fours):
            for j in range(4):
                out_column = u64(column0 + u64(u32(tx * u32(4))) + u64(q * column_step + j))
                if out_column < all_columns:
                    rest = u64(out_column // u64(meta[AXIS2 + COUNT]))
                    place = u64(u64(out_column % u64(meta[AXIS2 + COUNT])) * u64(meta[AXIS2 + OUT_STRIDE]))
                    place = u64(place + u64(rest % u64(meta[AXIS1 + COUNT])) * u64(meta[AXIS1 + OUT_STRIDE]))
                    rest = u64(rest // u64(meta[AXIS1 + COUNT]))
                    place = u64(place + u64(rest % u64(meta[AXIS0 + COUNT])) * u64(meta[AXIS0 + OUT_STRIDE]))
                    rest = u64(rest // u64(meta[AXIS0 + COUNT]))
                    place = u64(place + u64(meta[OUT_START]) + rest * u64(meta[OUT_BATCH]))
                    for p in range(row_fours):
                        for i in range(4):
                            out_row = u64(row0 + u64(u32(ty * u32(4))) + u64(p * row_step + i))
                            if out_row < all_rows:
                                o = u64(g * all_rows + out_row)
                                sum_ = total[(p * 4 + i) * own_columns + q * 4 + j]
                                if meta[BIASED] != 0:
                                    sum_ = sum_ + load_bias(bias[o])
                                y[u64(place + o * out_channel)] = store(sum_)

    return launch.compile_kernel(kernel)
