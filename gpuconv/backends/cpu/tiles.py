"""The inner kernels: register tiles over LLVM vectors, as Numba intrinsics.

Each keeps a block of sums in registers over the whole reduction. Code sizes stay small: the reduction is a loop, and
only the tile is unrolled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.simd import (
    BYTES,
    CODES,
    broadcast,
    constant,
    element_type,
    lanes_of,
    load_vector,
    multiply_add,
    registers,
    store_vector,
)

__all__ = ["accumulate", "contract", "outer", "row_blocks"]


def _tile_widths(rows: int) -> tuple[int, ...]:
    """Return the tile widths, in vectors, for a number of rows: the widest that the registers hold, then remainders."""
    if registers() == 32:
        return {8: (3, 2, 1), 4: (6, 3, 1), 2: (8, 4, 1), 1: (8, 4, 1)}[rows]
    return {8: (1,), 4: (3, 2, 1), 2: (4, 2, 1), 1: (8, 4, 1)}[rows]


def row_blocks() -> tuple[int, ...]:
    """Return the numbers of rows that `accumulate` is worth calling with, largest first."""
    return (8, 4, 2, 1) if registers() == 32 else (4, 2, 1)


@intrinsic(prefer_literal=True)
def accumulate(
    typingctx: Any,
    sums: Any,
    sums_stride: Any,
    x: Any,
    count: Any,
    plane: Any,
    channels: Any,
    taps: Any,
    tap_count: Any,
    w: Any,
    is_first: Any,
    rows: Any,
    code: Any,
) -> Any:
    """Correlate: sums[r, i] (+)= sum over c, t of w[c, t, r] * x[c * plane + taps[t] + i], for i in range(count).

    The inner kernel of a direct convolution: `rows` output channels by a few vectors of neighbouring outputs are
    kept in registers over all channels and taps, so a tap costs one load a vector and one broadcast a row. Whole
    vectors are computed: `sums` and x must be readable, and `sums` writable, up to the next multiple of a vector.

    Parameters
    ----------
    sums, x, w, taps : int64
        Addresses; `sums_stride`, `plane` and the entries of `taps` are in bytes.
    is_first : int64
        Nonzero to start from 0 instead of from what `sums` holds.
    rows, code : literal int
        Rows of w, and the type of all numbers.
    """
    height, a = rows.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, sums_stride, x, count, plane, channels, taps, tap_count, w, is_first = args[:10]
        vector = ir.VectorType(element_type(a), n)
        zero = ir.Constant(vector, None)
        fresh = builder.icmp_signed("!=", is_first, constant(0))
        total = builder.sdiv(builder.add(count, constant(n - 1)), constant(n))
        done = constant(0)

        def tile(first: Any, width: int) -> None:
            start = builder.mul(first, constant(n * size))
            places = []
            for r in range(height):
                row = builder.add(sums, builder.add(start, builder.mul(sums_stride, constant(r))))
                for v in range(width):
                    at = builder.add(row, constant(v * n * size))
                    slot = cgutils.alloca_once(builder, vector)
                    builder.store(builder.select(fresh, zero, load_vector(builder, at, a, n)), slot)
                    places.append((at, slot))
            with cgutils.for_range(builder, channels) as channel:
                base = builder.add(builder.add(x, start), builder.mul(channel.index, plane))
                weights = builder.add(w, builder.mul(builder.mul(channel.index, tap_count), constant(height * size)))
                with cgutils.for_range(builder, tap_count) as tap:
                    offset = load_vector(builder, builder.add(taps, builder.mul(tap.index, constant(8))), 3, 1)
                    source = builder.add(base, offset)
                    inputs = [
                        load_vector(builder, builder.add(source, constant(v * n * size)), a, n) for v in range(width)
                    ]
                    row = builder.add(weights, builder.mul(tap.index, constant(height * size)))
                    for r in range(height):
                        weight = broadcast(builder, load_vector(builder, builder.add(row, constant(r * size)), a, 1), n)
                        for v in range(width):
                            slot = places[r * width + v][1]
                            builder.store(multiply_add(builder, weight, inputs[v], builder.load(slot), a), slot)
            for at, slot in places:
                store_vector(builder, builder.load(slot), at, a)

        for width in _tile_widths(height):
            number = builder.sdiv(builder.sub(total, done), constant(width))
            with cgutils.for_range(builder, number) as loop:
                tile(builder.add(done, builder.mul(loop.index, constant(width))), width)
            done = builder.add(done, builder.mul(number, constant(width)))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 10, rows, code), codegen


@intrinsic(prefer_literal=True)
def contract(
    typingctx: Any,
    sums: Any,
    sums_stride: Any,
    y: Any,
    y_stride: Any,
    x: Any,
    offsets: Any,
    number: Any,
    mask: Any,
    count: Any,
    rows: Any,
    code: Any,
) -> Any:
    """Contract: sums[r, m] += sum over i of y[r, i] * x[offsets[m] + i] where mask[i], for m in range(number).

    The inner kernel of a weight gradient: `rows` output channels by a few (channel, tap) pairs are kept in
    registers over all places. Places that are not outputs have mask 0 and y 0; the mask keeps an infinity or NaN
    of x there from the sum. `count` is a multiple of a vector.

    Parameters
    ----------
    sums, y, x, offsets, mask : int64
        Addresses; strides and the entries of `offsets` are in bytes; `mask` is of bytes.
    rows, code : literal int
        Rows of y, and the type of all numbers.
    """
    height, a = rows.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]
    if registers() == 32:
        widths = {4: (5, 1), 2: (9, 3, 1), 1: (9, 3, 1)}[height]
    else:
        widths = {4: (2, 1), 2: (4, 1), 1: (6, 3, 1)}[height]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, sums_stride, y, y_stride, x, offsets, number, mask, count = args[:9]
        vector = ir.VectorType(element_type(a), n)
        zero = ir.Constant(vector, None)
        steps = builder.sdiv(count, constant(n))
        done = constant(0)

        def tile(first: Any, width: int) -> None:
            slots = [cgutils.alloca_once(builder, vector) for _ in range(height * width)]
            for slot in slots:
                builder.store(zero, slot)
            at = builder.add(offsets, builder.mul(first, constant(8)))
            sources = [
                builder.add(x, load_vector(builder, builder.add(at, constant(8 * m)), 3, 1)) for m in range(width)
            ]
            with cgutils.for_range(builder, steps) as loop:
                i = builder.mul(loop.index, constant(n))
                chosen = builder.icmp_unsigned(
                    "!=",
                    load_vector(builder, builder.add(mask, i), CODES["int8"], n),
                    ir.Constant(ir.VectorType(ir.IntType(8), n), None),
                )
                here = builder.mul(i, constant(size))
                inputs = [
                    builder.select(chosen, load_vector(builder, builder.add(source, here), a, n), zero)
                    for source in sources
                ]
                for r in range(height):
                    gradient = load_vector(
                        builder, builder.add(y, builder.add(here, builder.mul(y_stride, constant(r)))), a, n
                    )
                    for m in range(width):
                        slot = slots[r * width + m]
                        builder.store(multiply_add(builder, gradient, inputs[m], builder.load(slot), a), slot)
            plus = builder.fadd if a < 2 else builder.add
            for r in range(height):
                row = builder.add(sums, builder.mul(sums_stride, constant(r)))
                for m in range(width):
                    place = builder.add(row, builder.mul(builder.add(first, constant(m)), constant(size)))
                    total = _total(builder, builder.load(slots[r * width + m]), n, plus)
                    store_vector(builder, plus(load_vector(builder, place, a, 1), total), place, a)

        for width in widths:
            tiles = builder.sdiv(builder.sub(number, done), constant(width))
            with cgutils.for_range(builder, tiles) as loop:
                tile(builder.add(done, builder.mul(loop.index, constant(width))), width)
            done = builder.add(done, builder.mul(tiles, constant(width)))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 9, rows, code), codegen


def outer_width(vectors: int) -> int:
    """Return how many pairs a tile of `outer` takes beside a number of vectors of outputs."""
    if registers() == 32:
        return {4: 6, 2: 12, 1: 12}[vectors]
    return {4: 2, 2: 5, 1: 8}[vectors]


@intrinsic(prefer_literal=True)
def outer(
    typingctx: Any,
    sums: Any,
    y: Any,
    x: Any,
    pitch: Any,
    offsets: Any,
    number: Any,
    height: Any,
    width: Any,
    is_first: Any,
    vectors: Any,
    code: Any,
) -> Any:
    """Sum outer products: sums[m] (+)= sum over j, i of y[j, i] * x[offsets[m] + j * pitch + i], for m < number.

    The inner kernel of a weight gradient with enough output channels for vectors: y[j, i] is `vectors` vectors of
    channels, sums[m] as many sums of one (input channel, tap) pair. Only places that are outputs are visited.

    Parameters
    ----------
    sums, y, x, offsets : int64
        Addresses; `pitch` and the entries of `offsets` are in bytes. y is dense, `height` rows of `width` places.
    is_first : int64
        Nonzero to start from 0 instead of from what `sums` holds.
    vectors, code : literal int
        Vectors of channels (1, 2 or 4), and the type of all numbers.
    """
    v, a = vectors.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]
    place = v * n * size

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, y, x, pitch, offsets, number, height, width, is_first = args[:9]
        vector = ir.VectorType(element_type(a), n)
        zero = ir.Constant(vector, None)
        fresh = builder.icmp_signed("!=", is_first, constant(0))
        done = constant(0)

        def tile(first: Any, pairs: int) -> None:
            to = builder.add(sums, builder.mul(first, constant(place)))
            slots = []
            for k in range(pairs * v):
                slot = cgutils.alloca_once(builder, vector)
                at = builder.add(to, constant(k * n * size))
                builder.store(builder.select(fresh, zero, load_vector(builder, at, a, n)), slot)
                slots.append((at, slot))
            table = builder.add(offsets, builder.mul(first, constant(8)))
            sources = [
                builder.add(x, load_vector(builder, builder.add(table, constant(8 * m)), 3, 1)) for m in range(pairs)
            ]
            with cgutils.for_range(builder, height) as row:
                y_row = builder.add(y, builder.mul(row.index, builder.mul(width, constant(place))))
                down = builder.mul(row.index, pitch)
                rows = [builder.add(source, down) for source in sources]
                with cgutils.for_range(builder, width) as column:
                    here = builder.add(y_row, builder.mul(column.index, constant(place)))
                    gradients = [
                        load_vector(builder, builder.add(here, constant(k * n * size)), a, n) for k in range(v)
                    ]
                    right = builder.mul(column.index, constant(size))
                    for m in range(pairs):
                        value = broadcast(builder, load_vector(builder, builder.add(rows[m], right), a, 1), n)
                        for k in range(v):
                            slot = slots[m * v + k][1]
                            builder.store(multiply_add(builder, value, gradients[k], builder.load(slot), a), slot)
            for at, slot in slots:
                store_vector(builder, builder.load(slot), at, a)

        widest = outer_width(v)
        for pairs in sorted({widest, max(widest // 3, 1), 1}, reverse=True):
            tiles = builder.sdiv(builder.sub(number, done), constant(pairs))
            with cgutils.for_range(builder, tiles) as loop:
                tile(builder.add(done, builder.mul(loop.index, constant(pairs))), pairs)
            done = builder.add(done, builder.mul(tiles, constant(pairs)))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 9, vectors, code), codegen


def _total(builder: Any, value: Any, n: int, plus: Any) -> Any:
    """Return the sum of a vector's elements, by halves."""
    while n > 1:
        n //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(
                value, undefined, ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(k, k + n)))
            )
            for k in (0, n)
        )
        value = plus(low, high)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))
