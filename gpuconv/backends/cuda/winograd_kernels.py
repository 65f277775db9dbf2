"""Device code of Winograd's F(2x2, 3x3) and F(4x4, 3x3): the three transforms.

The products between them are `implicit_gemm_kernels`'. Tiles of n x n inputs, n = m + 2, give m x m outputs.
Transformed arrays are (n * n, channels, tiles), so that neighbouring threads, which have neighbouring tiles, read and
write neighbouring places.
"""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars
from gpuconv.boundary import source_index
from gpuconv.transforms import winograd

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


# A transform along one axis goes over n numbers of an array that lie `step` apart from `at` on. F(2, 3) has the points
# 0, 1, -1 and infinity; F(4, 3) has 0, a, -a, b, -b and infinity, whose pairs share half of their work.


class _Points(NamedTuple):
    """The numbers of F(4, 3) in a kernel's dtype."""

    a: Any
    b: Any
    a2: Any
    b2: Any
    both: Any
    """a^2 + b^2."""
    product: Any
    """a^2 b^2."""
    a3: Any
    b3: Any
    at_0: Any
    """What the weights at 0, at a and -a, at b and -b, and at infinity are multiplied by."""
    at_a: Any
    at_b: Any
    at_infinity: Any


def _points(sums: str) -> _Points:
    number, matrices = np.dtype(sums).type, winograd(4, 3)
    a, b = matrices.output[1][1], matrices.output[1][3]
    scales = (matrices.weights[row][column] for row, column in ((0, 0), (1, 0), (3, 0), (5, 2)))
    values = (a, b, a**2, b**2, a**2 + b**2, a**2 * b**2, a**3, b**3, *scales)
    return _Points(*(number(float(value)) for value in values))


@functools.cache
def _input_line(size: int, sums: str) -> Any:
    """Return the device function ``(array, at, step)`` that transforms inputs in place."""
    if size == 2:

        def line(array, at, step):  # type: ignore[no-untyped-def]
            d0, d1, d2, d3 = array[at], array[at + step], array[at + 2 * step], array[at + 3 * step]
            array[at] = d0 - d2
            array[at + step] = d1 + d2
            array[at + 2 * step] = d2 - d1
            array[at + 3 * step] = d1 - d3

    else:
        a, b, a2, b2, both, product = _points(sums)[:6]

        def line(array, at, step):  # type: ignore[no-untyped-def]
            d0, d1, d2 = array[at], array[at + step], array[at + 2 * step]
            d3, d4, d5 = array[at + 3 * step], array[at + 4 * step], array[at + 5 * step]
            even, odd = d4 - b2 * d2, a * (d3 - b2 * d1)
            array[at] = product * d0 - both * d2 + d4
            array[at + step] = even + odd
            array[at + 2 * step] = even - odd
            even, odd = d4 - a2 * d2, b * (d3 - a2 * d1)
            array[at + 3 * step] = even + odd
            array[at + 4 * step] = even - odd
            array[at + 5 * step] = product * d1 - both * d3 + d5

    return launch.compile_device_function(line)


@functools.cache
def _weight_line(size: int, sums: str) -> Any:
    """Return the device function ``(g0, g1, g2, array, at, step)`` that writes transformed weights."""
    if size == 2:
        half = np.dtype(sums).type(0.5)

        def line(g0, g1, g2, array, at, step):  # type: ignore[no-untyped-def]
            array[at] = g0
            array[at + step] = (g0 + g1 + g2) * half
            array[at + 2 * step] = (g0 - g1 + g2) * half
            array[at + 3 * step] = g2

    else:
        p = _points(sums)
        a, b, a2, b2, at_0, at_a, at_b, at_infinity = p.a, p.b, p.a2, p.b2, p.at_0, p.at_a, p.at_b, p.at_infinity

        def line(g0, g1, g2, array, at, step):  # type: ignore[no-untyped-def]
            array[at] = at_0 * g0
            even, odd = g0 + a2 * g2, a * g1
            array[at + step] = at_a * (even + odd)
            array[at + 2 * step] = at_a * (even - odd)
            even, odd = g0 + b2 * g2, b * g1
            array[at + 3 * step] = at_b * (even + odd)
            array[at + 4 * step] = at_b * (even - odd)
            array[at + 5 * step] = at_infinity * g2

    return launch.compile_device_function(line)


@functools.cache
def _output_line(size: int, sums: str) -> Any:
    """Return the device function ``(array, at, step, result, to, by)`` that makes outputs of transformed sums."""
    if size == 2:

        def line(array, at, step, result, to, by):  # type: ignore[no-untyped-def]
            m0, m1, m2, m3 = array[at], array[at + step], array[at + 2 * step], array[at + 3 * step]
            result[to] = m0 + m1 + m2
            result[to + by] = m1 - m2 - m3

    else:
        p = _points(sums)
        a, b, a2, b2, a3, b3 = p.a, p.b, p.a2, p.b2, p.a3, p.b3

        def line(array, at, step, result, to, by):  # type: ignore[no-untyped-def]
            m1, m2, m3, m4 = array[at + step], array[at + 2 * step], array[at + 3 * step], array[at + 4 * step]
            even_a, odd_a, even_b, odd_b = m1 + m2, m1 - m2, m3 + m4, m3 - m4
            result[to] = array[at] + even_a + even_b
            result[to + by] = a * odd_a + b * odd_b
            result[to + 2 * by] = a2 * even_a + b2 * even_b
            result[to + 3 * by] = a3 * odd_a + b3 * odd_b + array[at + 5 * step]

    return launch.compile_device_function(line)


@launch.specialise
def weights(sums: str, size: int) -> Any:
    """Return the kernel ``(w, u, outputs)`` from weights (outputs, inputs, 9) to transformed (n n, inputs, outputs)."""
    dtype = np.dtype(sums)
    shared_type, line, n = scalars.numba_type(dtype), _weight_line(size, sums), size + 2
    columns = 3 * n

    def kernel(w, u, outputs):  # type: ignore[no-untyped-def]
        half_done = cuda.local.array(columns, shared_type)
        result = cuda.local.array(n, shared_type)
        element = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        step = u64(cuda.gridDim.x) * u64(cuda.blockDim.x)
        count = u64(u64(u.size) // u64(n * n))
        inputs = u64(count // u64(outputs))
        while element < count:
            o = u64(element % u64(outputs))
            c = u64(element // u64(outputs))
            at = u64(u64(o * inputs + c) * u64(9))
            for j in range(3):
                line(w[u64(at + u64(j))], w[u64(at + u64(3 + j))], w[u64(at + u64(6 + j))], half_done, j, 3)
            for i in range(n):
                line(half_done[i * 3], half_done[i * 3 + 1], half_done[i * 3 + 2], result, 0, 1)
                for j in range(n):
                    u[u64(element + u64(i * n + j) * count)] = result[j]
            element = u64(element + step)

    return launch.compile_kernel(kernel)


@launch.specialise
def inputs(kind: str, size: int) -> Any:
    """Return the kernel ``(x, v, fill, meta, first)`` that transforms the tiles of x.

    A thread has one tile of one channel: the grid's first axis counts tiles, its second channels from `first` on.
    """
    seen = scalars.of(kind)
    shared_type, load = scalars.numba_type(seen.sums), scalars.loader(kind)
    line, n = _input_line(size, seen.sums.name), size + 2
    square = n * n

    def kernel(x, v, fill, meta, first):  # type: ignore[no-untyped-def]
        patch = cuda.local.array(square, shared_type)
        from_rows = cuda.local.array(n, np.int64)
        from_columns = cuda.local.array(n, np.int64)
        tile = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        tiles = u64(meta[TILES])
        if tile < tiles:
            channel = u64(first) + u64(cuda.blockIdx.y)
            within = u64(tile % u64(meta[OF_IMAGE]))
            row = i64(u64(within // u64(meta[ALONG_ROW]))) * size
            column = i64(u64(within % u64(meta[ALONG_ROW]))) * size
            plane = u64(tile // u64(meta[OF_IMAGE])) * u64(meta[IN_BATCH]) + channel * u64(meta[IN_CHANNEL])
            for i in range(n):
                from_rows[i] = _row_placed(meta, row + i)
                from_columns[i] = _column_placed(meta, column + i)
            for i in range(n):
                for j in range(n):
                    value = fill
                    if from_rows[i] >= 0 and from_columns[j] >= 0:
                        value = load(x[u64(plane + u64(from_rows[i] + from_columns[j]))])
                    patch[i * n + j] = value
            for j in range(n):
                line(patch, j, n)
            step = u64(u64(meta[CHANNELS]) * tiles)
            at = u64(channel * tiles + tile)
            for i in range(n):
                line(patch, i * n, 1)
                for j in range(n):
                    v[u64(at + u64(i * n + j) * step)] = patch[i * n + j]

    return launch.compile_kernel(kernel)


@launch.specialise
def outputs(kind: str, size: int) -> Any:
    """Return the kernel ``(m, x, w, bias, y, fill, meta, first)`` that transforms products back to outputs.

    A thread has one tile of one output channel. A NaN or an infinity among a tile's inputs spreads over all of its
    outputs: where one of these is not finite, all are computed again from x and w, by the definition.
    """
    seen = scalars.of(kind)
    shared_type, zero = scalars.numba_type(seen.sums), seen.sums.type(0)
    load, load_bias, store = scalars.loader(kind), scalars.loader(seen.result), scalars.storer(seen.result)
    line, n = _output_line(size, seen.sums.name), size + 2
    strip, square = size * n, size * size

    def kernel(m, x, w, bias, y, fill, meta, first):  # type: ignore[no-untyped-def]
        sums = cuda.local.array(n, shared_type)
        half_done = cuda.local.array(strip, shared_type)
        result = cuda.local.array(square, shared_type)
        tile = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        tiles = u64(meta[TILES])
        if tile < tiles:
            o = u64(first) + u64(cuda.blockIdx.y)
            within = u64(tile % u64(meta[OF_IMAGE]))
            image = u64(tile // u64(meta[OF_IMAGE]))
            row = i64(u64(within // u64(meta[ALONG_ROW]))) * size
            column = i64(u64(within % u64(meta[ALONG_ROW]))) * size
            step = u64(u64(meta[OUTPUTS]) * tiles)
            at = u64(o * tiles + tile)
            for j in range(n):
                for i in range(n):
                    sums[i] = m[u64(at + u64(i * n + j) * step)]
                line(sums, 0, 1, half_done, j, n)
            finite = True
            for i in range(size):
                line(half_done, i * n, 1, result, i * size, 1)
            for i in range(square):
                if not result[i] - result[i] == zero:  # noqa: SIM201 - of a NaN both are false
                    finite = False
            offset = zero
            if meta[BIASED] != 0:
                offset = load_bias(bias[o])
            rows, columns = meta[ROWS], meta[COLUMNS]
            row_stride, column_stride = meta[OUT_ROW], meta[OUT_COLUMN]
            out_base = image * u64(meta[OUT_BATCH]) + o * u64(meta[OUT_CHANNEL])
            if finite:
                for i in range(square):
                    out_row, out_column = row + i // size, column + i % size
                    if out_row < rows and out_column < columns:
                        place = u64(out_row * row_stride + out_column * column_stride)
                        y[u64(out_base + place)] = store(result[i] + offset)
            else:
                # Sums of its own: were `result` indexed in this loop, it would not be in registers.
                plane = image * u64(meta[IN_BATCH])
                for i in range(square):
                    out_row, out_column = row + i // size, column + i % size
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
