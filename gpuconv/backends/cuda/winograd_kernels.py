"""Device code of Winograd's F(2x2, 3x3): the three transforms; the products between them are `implicit_gemm_kernels`'.

Tiles of 4x4 inputs give 2x2 outputs. Transformed arrays are (16, channels, tiles), so that neighbouring threads, which
have neighbouring tiles, read and write neighbouring places.
"""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars
from gpuconv.boundary import source_index

__all__ = ["FIELDS", "inputs", "outputs", "weights"]

u64, i64 = np.uint64, np.int64

FIELDS = (
    "tiles", "along_row", "of_image", "channels", "outputs", "rows", "columns", "mode", "biased",
    "first_row", "first_column", "low_row", "low_column", "high_row", "high_column",
    "in_batch", "in_channel", "in_row", "in_column", "out_batch", "out_channel", "out_row", "out_column",
)  # fmt: skip
"""What `meta` holds: how many tiles there are in all, in a row of them and in an image; channels and sizes of the
output; where output 0 begins to read; what cropping leaves of the input; strides."""
(
    TILES, ALONG_ROW, OF_IMAGE, CHANNELS, OUTPUTS, ROWS, COLUMNS, MODE, BIASED,
    FIRST_ROW, FIRST_COLUMN, LOW_ROW, LOW_COLUMN, HIGH_ROW, HIGH_COLUMN,
    IN_BATCH, IN_CHANNEL, IN_ROW, IN_COLUMN, OUT_BATCH, OUT_CHANNEL, OUT_ROW, OUT_COLUMN,
) = range(len(FIELDS))  # fmt: skip

_source = launch.compile_device_function(source_index)


def _row_place(meta, row):  # type: ignore[no-untyped-def]
    """Return where the row stands that an output of a row reads first, or -1 for the border."""
    low = meta[LOW_ROW]
    found = i64(_source(meta[MODE], row + meta[FIRST_ROW] - low, meta[HIGH_ROW] - low))
    return (found + low) * meta[IN_ROW] if found >= 0 else i64(-1)


def _column_place(meta, column):  # type: ignore[no-untyped-def]
    """Return where in its row the column stands that an output of a column reads first, or -1 for the border."""
    low = meta[LOW_COLUMN]
    found = i64(_source(meta[MODE], column + meta[FIRST_COLUMN] - low, meta[HIGH_COLUMN] - low))
    return (found + low) * meta[IN_COLUMN] if found >= 0 else i64(-1)


_row_placed = launch.compile_device_function(_row_place)
_column_placed = launch.compile_device_function(_column_place)


@launch.specialise
def weights(sums: str) -> Any:
    """Return the kernel ``(w, u, outputs)`` from weights (outputs, inputs, 9) to transformed (16, inputs, outputs)."""
    dtype = np.dtype(sums)
    shared_type, half = scalars.numba_type(dtype), dtype.type(0.5)

    def kernel(w, u, outputs):  # type: ignore[no-untyped-def]
        half_done = cuda.local.array(12, shared_type)
        element = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        step = u64(cuda.gridDim.x) * u64(cuda.blockDim.x)
        count = u64(u64(u.size) // u64(16))
        inputs = u64(count // u64(outputs))
        while element < count:
            o = u64(element % u64(outputs))
            c = u64(element // u64(outputs))
            at = u64(u64(o * inputs + c) * u64(9))
            for j in range(3):
                top, middle, bottom = w[u64(at + u64(j))], w[u64(at + u64(3 + j))], w[u64(at + u64(6 + j))]
                half_done[j] = top
                half_done[3 + j] = (top + middle + bottom) * half
                half_done[6 + j] = (top - middle + bottom) * half
                half_done[9 + j] = bottom
            for i in range(4):
                left, middle, right = half_done[i * 3], half_done[i * 3 + 1], half_done[i * 3 + 2]
                u[u64(element + u64(i * 4) * count)] = left
                u[u64(element + u64(i * 4 + 1) * count)] = (left + middle + right) * half
                u[u64(element + u64(i * 4 + 2) * count)] = (left - middle + right) * half
                u[u64(element + u64(i * 4 + 3) * count)] = right
            element = u64(element + step)

    return launch.compile_kernel(kernel)


@launch.specialise
def inputs(kind: str) -> Any:
    """Return the kernel ``(x, v, fill, meta, first)`` that transforms the tiles of x.

    A thread has one tile of one channel: the grid's first axis counts tiles, its second channels from `first` on.
    """
    seen = scalars.of(kind)
    shared_type, load = scalars.numba_type(seen.sums), scalars.loader(kind)

    def kernel(x, v, fill, meta, first):  # type: ignore[no-untyped-def]
        patch = cuda.local.array(16, shared_type)
        from_rows = cuda.local.array(4, np.int64)
        from_columns = cuda.local.array(4, np.int64)
        tile = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        tiles = u64(meta[TILES])
        if tile < tiles:
            channel = u64(first) + u64(cuda.blockIdx.y)
            within = u64(tile % u64(meta[OF_IMAGE]))
            row = i64(u64(within // u64(meta[ALONG_ROW]))) * 2
            column = i64(u64(within % u64(meta[ALONG_ROW]))) * 2
            plane = u64(tile // u64(meta[OF_IMAGE])) * u64(meta[IN_BATCH]) + channel * u64(meta[IN_CHANNEL])
            for i in range(4):
                from_rows[i] = _row_placed(meta, row + i)
                from_columns[i] = _column_placed(meta, column + i)
            for i in range(4):
                for j in range(4):
                    value = fill
                    if from_rows[i] >= 0 and from_columns[j] >= 0:
                        value = load(x[u64(plane + u64(from_rows[i] + from_columns[j]))])
                    patch[i * 4 + j] = value
            for j in range(4):
                d0, d1, d2, d3 = patch[j], patch[4 + j], patch[8 + j], patch[12 + j]
                patch[j] = d0 - d2
                patch[4 + j] = d1 + d2
                patch[8 + j] = d2 - d1
                patch[12 + j] = d1 - d3
            step = u64(u64(meta[CHANNELS]) * tiles)
            at = u64(channel * tiles + tile)
            for i in range(4):
                d0, d1, d2, d3 = patch[i * 4], patch[i * 4 + 1], patch[i * 4 + 2], patch[i * 4 + 3]
                v[u64(at + u64(i * 4) * step)] = d0 - d2
                v[u64(at + u64(i * 4 + 1) * step)] = d1 + d2
                v[u64(at + u64(i * 4 + 2) * step)] = d2 - d1
                v[u64(at + u64(i * 4 + 3) * step)] = d1 - d3

    return launch.compile_kernel(kernel)


@launch.specialise
def outputs(kind: str) -> Any:
    """Return the kernel ``(m, x, w, bias, y, fill, meta, first)`` that transforms products back to outputs.

    A thread has one tile of one output channel. A NaN or an infinity among 4x4 inputs spreads over all 2x2 outputs:
    where one of these is not finite, all four are computed again from x and w, by the definition.
    """
    seen = scalars.of(kind)
    shared_type, zero = scalars.numba_type(seen.sums), seen.sums.type(0)
    load, load_bias, store = scalars.loader(kind), scalars.loader(seen.result), scalars.storer(seen.result)

    def kernel(m, x, w, bias, y, fill, meta, first):  # type: ignore[no-untyped-def]
        half_done = cuda.local.array(8, shared_type)
        result = cuda.local.array(4, shared_type)
        tile = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        tiles = u64(meta[TILES])
        if tile < tiles:
            o = u64(first) + u64(cuda.blockIdx.y)
            within = u64(tile % u64(meta[OF_IMAGE]))
            image = u64(tile // u64(meta[OF_IMAGE]))
            row = i64(u64(within // u64(meta[ALONG_ROW]))) * 2
            column = i64(u64(within % u64(meta[ALONG_ROW]))) * 2
            step = u64(u64(meta[OUTPUTS]) * tiles)
            at = u64(o * tiles + tile)
            for j in range(4):
                m0, m1 = m[u64(at + u64(j) * step)], m[u64(at + u64(4 + j) * step)]
                m2, m3 = m[u64(at + u64(8 + j) * step)], m[u64(at + u64(12 + j) * step)]
                half_done[j] = m0 + m1 + m2
                half_done[4 + j] = m1 - m2 - m3
            finite = True
            for i in range(2):
                m0, m1, m2, m3 = half_done[i * 4], half_done[i * 4 + 1], half_done[i * 4 + 2], half_done[i * 4 + 3]
                result[i * 2] = m0 + m1 + m2
                result[i * 2 + 1] = m1 - m2 - m3
            for i in range(4):
                if not result[i] - result[i] == zero:  # noqa: SIM201 - of a NaN both are false
                    finite = False
            offset = zero
            if meta[BIASED] != 0:
                offset = load_bias(bias[o])
            rows, columns = meta[ROWS], meta[COLUMNS]
            row_stride, column_stride = meta[OUT_ROW], meta[OUT_COLUMN]
            out_base = image * u64(meta[OUT_BATCH]) + o * u64(meta[OUT_CHANNEL])
            if finite:
                for i in range(4):
                    out_row, out_column = row + i // 2, column + i % 2
                    if out_row < rows and out_column < columns:
                        place = u64(out_row * row_stride + out_column * column_stride)
                        y[u64(out_base + place)] = store(result[i] + offset)
            else:
                # Sums of its own: were `result` indexed in this loop, it would not be in registers.
                plane = image * u64(meta[IN_BATCH])
                for i in range(4):
                    out_row, out_column = row + i // 2, column + i % 2
                    total = zero
                    c = u64(0)
                    while c < u64(meta[CHANNELS]):
                        at_w = u64(u64(o * u64(meta[CHANNELS]) + c) * u64(9))
                        for t in range(9):
                            from_row = _row_placed(meta, out_row + t // 3)
                            from_column = _column_placed(meta, out_column + t % 3)
                            value = fill
                            if from_row >= 0 and from_column >= 0:
                                at = u64(plane + c * u64(meta[IN_CHANNEL]) + u64(from_row + from_column))
                                value = load(x[at])
                            total += w[u64(at_w + u64(t))] * value
                        c = u64(c + u64(1))
                    if out_row < rows and out_column < columns:
                        place = u64(out_row * row_stride + out_column * column_stride)
                        y[u64(out_base + place)] = store(total + offset)

    return launch.compile_kernel(kernel)
