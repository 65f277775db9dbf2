"""The inner kernel of stencils and separable filters: a block of output rows in registers over all taps.

Output row r of a block meets input row i with kernel row i - r, so one load of shifted inputs feeds as many sums as
there are rows in the block. Rows of inputs that meet only some of the block's rows come first and last, and are
unrolled; the rows that meet all of them are a loop. No tap is multiplied that does not belong to its output.

The blocks are compiled functions of their own, which kernels call by address.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import read
from gpuconv.backends.cpu.rows import prefetch_lines
from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    counted,
    element_type,
    lanes_of,
    load_vector,
    multiply_add,
    store_part,
    store_vector,
)

__all__ = ["PART_BYTES", "block", "divisor_record", "finished"]

_Slots = list[list[Any]]
"""Where the sums of a tile are kept: a vector for each of its rows and columns."""
_Body = Callable[[Any, _Slots, tuple[Any, ...]], None]
"""What adds the products of a part to the sums of a tile, which begins at a vector."""

PART_BYTES = 32
"""A part is four int64: offset of its input in bytes, kernel rows, kernel columns, offset of its weights in bytes."""


def _widths(rows: int) -> tuple[int, ...]:
    """Return the widths of tiles in vectors, widest first: what leaves registers for the inputs and a weight."""
    if simd.registers() == 32:
        return {8: (3, 2, 1), 4: (6, 4, 3, 2, 1), 1: (8, 4, 1)}[rows]
    return {8: (1,), 4: (3, 2, 1), 1: (8, 4, 1)}[rows]


def _masked_widths(rows: int) -> tuple[int, ...]:
    """Return the widths of tiles at the ends of a row: with few registers one vector, whose mask takes one too."""
    return _widths(rows) if simd.registers() == 32 else (1,)


def _unrolled_taps() -> tuple[int, ...]:
    """Return the kernel rows that tiles of 4 rows have code of their own for, where no weight is loaded twice.

    Narrow tiles take few turns of the shared loop, and its beginning and end are a larger part of them.
    """
    return (2, 3) if simd.registers() == 32 else (2, 3, 4, 5, 6, 7)


@functools.cache
def block(rows: int, code: int, edges: int = 0) -> int:
    """Return the address of the function that computes `rows` rows of outputs: `_stencil` without its literals."""
    return int(_block(rows, code, edges, simd.source_version()).address)


def _block(rows: int, code: int, edges: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def compute(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        first_x, size_x, begin, whole = 0, 0, 0, 0
        if edges:
            first_x, size_x, begin, whole = read(a + 120), read(a + 128), read(a + 136), read(a + 144)
        _stencil(
            read(a), read(a + 8), read(a + 16), read(a + 24), read(a + 32), read(a + 40), read(a + 48), read(a + 56),
            read(a + 64), read(a + 72), read(a + 80), read(a + 88), read(a + 96), read(a + 104), read(a + 112),
            first_x, size_x, begin, whole, rows, code, edges,
        )  # fmt: skip

    return compute


@intrinsic(prefer_literal=True)
def _stencil(
    typingctx: Any,
    y: Any,
    y_step: Any,
    x: Any,
    row_step: Any,
    column_step: Any,
    parts: Any,
    part_count: Any,
    w: Any,
    count: Any,
    bias: Any,
    divisor: Any,
    tiles: Any,
    x_down: Any,
    ahead: Any,
    ahead_down: Any,
    first_x: Any,
    size_x: Any,
    begin: Any,
    whole: Any,
    rows: Any,
    code: Any,
    edges: Any,
) -> Any:
    """Correlate one channel: y[r, j] = bias + sum over parts, m, n of w[n, m] * x[offset + (r + m, n) steps + j].

    The taps of a stencil are split into parts, each a dense kernel of m rows and n columns; w holds part after part,
    column by column. Whole vectors of x are read: it must be readable up to the next multiple of a vector.

    Parameters
    ----------
    y, x, parts, w : int64
        Addresses; steps and offsets are in bytes.
    bias : int64
        Address of what the sums begin with.
    divisor : int64
        Address of what `finished` reads, or 0.
    tiles, x_down : int64
        Tiles of `rows` rows below each other, and the bytes from the x of one to that of the next.
    ahead, ahead_down : int64
        What will be read soon, and how much of it is asked for beside each tile.
    first_x, size_x : int64
        Where `x` stands in its row, from -1 back before its beginning, and the row's length; used with `edges`.
    begin, whole : int64
        Outputs from `begin` on, `whole` of them, read nothing outside of the row; both whole vectors.
    rows, code : literal int
        Rows of y, and the type of all numbers.
    edges : literal int
        1 where x is the caller's array, which has no border: elements outside of the row count as 0. There is one part.
    """
    height, a, has_edges = rows.literal_value, code.literal_value, bool(edges.literal_value)
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, y_step, x, row_step, column_step, parts, part_count, w, count, bias, divisor, tiles, x_down = args[:13]
        ahead, ahead_down, first_x, size_x, begin, whole = args[13:19]
        dilation = builder.sdiv(column_step, constant(size))
        vector = ir.VectorType(element_type(a), n)
        start = broadcast(builder, load_vector(builder, bias, a, 1), n)
        total = builder.sdiv(builder.add(count, constant(n - 1)), constant(n))
        masks: list[bool] = []  # not empty while code for the ends of a row is emitted
        below: list[tuple[Any, Any]] = []  # how far below x and y the tile is that code is emitted for

        def part_record(index: Any) -> tuple[Any, ...]:
            record = builder.add(parts, builder.mul(index, constant(PART_BYTES)))
            offset, taps, columns, weights = (
                load_vector(builder, builder.add(record, constant(8 * i)), 3, 1) for i in range(4)
            )
            return builder.add(x, offset), taps, columns, builder.add(w, weights)

        def column_by_column(
            first: Any, slots: _Slots, part: tuple[Any, ...], rows: Callable[[Callable[[Any, list[int]], None]], None]
        ) -> None:
            """Add the products of a part: `rows` says which input rows meet which rows of sums."""
            corner, taps, columns, weights = part
            corner = builder.add(corner, below[0][0])
            stride = builder.mul(taps, constant(size))
            at, width = builder.add(corner, builder.mul(first, constant(n * size))), len(slots[0])
            with counted(builder, columns) as index:
                source = builder.add(at, builder.mul(index, column_step))
                place = builder.add(weights, builder.mul(index, stride))
                inside: list[Any] = []
                if masks:
                    # Each load of a column may leave the row on either side.
                    start_x = builder.add(
                        builder.add(first_x, builder.mul(first, constant(n))), builder.mul(index, dilation)
                    )
                    starts = [builder.add(start_x, constant(v * n)) for v in range(width)]
                    inside = [_inside(builder, start, size_x, n) for start in starts]

                def input_row(i: Any, active: list[int]) -> None:
                    """Add input row i to the active rows of sums; row r's weight is that of kernel row i - r."""
                    row = builder.add(source, builder.mul(i, row_step))
                    weight_row = builder.add(place, builder.mul(i, constant(size)))
                    inputs = []
                    for v in range(width):
                        address = builder.add(row, constant(v * n * size))
                        if masks:
                            inputs.append(simd.load_masked(builder, address, inside[v], a, n))
                        else:
                            inputs.append(load_vector(builder, address, a, n))
                    for r in active:
                        weight = load_vector(builder, builder.add(weight_row, constant(-r * size)), a, 1)
                        weight = broadcast(builder, weight, n)
                        for slot, value in zip(slots[r], inputs, strict=True):
                            builder.store(multiply_add(builder, weight, value, builder.load(slot), a), slot)

                rows(input_row)

        def apart(first: Any, slots: _Slots, part: tuple[Any, ...]) -> None:
            def rows(input_row: Any) -> None:
                with counted(builder, part[1]) as m:
                    for r in range(height):
                        input_row(builder.add(m, constant(r)), [r])

            column_by_column(first, slots, part, rows)

        def shared(first: Any, slots: _Slots, part: tuple[Any, ...]) -> None:
            def rows(input_row: Any) -> None:
                taps = part[1]
                for i in range(height - 1):
                    input_row(constant(i), list(range(i + 1)))
                with counted(builder, builder.sub(taps, constant(height - 1))) as index:
                    input_row(builder.add(index, constant(height - 1)), list(range(height)))
                for i in range(height - 1):
                    input_row(builder.add(taps, constant(i)), list(range(i + 1, height)))

            column_by_column(first, slots, part, rows)

        def few(k: int) -> _Body:
            def rows(input_row: Any) -> None:
                for i in range(height + k - 1):
                    input_row(constant(i), [r for r in range(height) if 0 <= i - r < k])

            return lambda first, slots, part: column_by_column(first, slots, part, rows)

        def by_taps(taps: Any, emit: Callable[[_Body], None]) -> None:
            """Emit code for each way to go over the rows of a part, of which that for its taps runs."""
            if height == 1:
                emit(apart)
                return
            end = builder.append_basic_block("taps.end")
            for k in _unrolled_taps() if height == 4 else ():
                with builder.if_then(builder.icmp_signed("==", taps, constant(k))):
                    emit(few(k))
                    builder.branch(end)
            with builder.if_then(builder.icmp_signed(">=", taps, constant(height))):
                emit(shared)
                builder.branch(end)
            emit(apart)
            builder.branch(end)
            builder.position_at_end(end)

        def tile(first: Any, width: int, products: Callable[[Any, _Slots], None]) -> None:
            slots = [[cgutils.alloca_once(builder, vector) for _ in range(width)] for _ in range(height)]
            for row in slots:
                for slot in row:
                    builder.store(start, slot)
            products(first, slots)
            with builder.if_then(builder.icmp_signed("!=", divisor, constant(0))):
                flat = [slot for row in slots for slot in row]
                for slot, value in zip(flat, finished(builder, map(builder.load, flat), divisor, a, n), strict=True):
                    builder.store(value, slot)
            left = builder.sub(count, builder.mul(builder.add(first, constant(width - 1)), constant(n)))
            corner = builder.add(y, builder.mul(first, constant(n * size)))
            corner = builder.add(corner, below[0][1])
            places = [builder.add(corner, builder.mul(y_step, constant(r))) for r in range(height)]
            values = [[builder.load(slot) for slot in row] for row in slots]
            for place, row in zip(places, values, strict=True):
                for v, value in enumerate(row[:-1]):
                    store_vector(builder, value, builder.add(place, constant(v * n * size)), a)
                store_part(builder, row[-1], builder.add(place, constant((width - 1) * n * size)), a, left)

        def every_tile(products: Callable[[Any, _Slots], None], done: Any, end: Any, widths: tuple[int, ...]) -> None:
            """Compute the vectors from `done` to `end` in tiles."""
            for width in widths:
                rest = builder.sub(end, done)
                number = builder.sdiv(rest, constant(width))
                if width > 2 and 2 in widths:
                    # Of a last tile of one vector the loads and the weights cost as much as the products: 7 is 4 + 3.
                    lonely = builder.icmp_signed("==", builder.srem(rest, constant(width)), constant(1))
                    fewer = builder.and_(lonely, builder.icmp_signed(">", number, constant(0)))
                    number = builder.sub(number, builder.zext(fewer, number.type))
                with counted(builder, number) as index:
                    tile(builder.add(done, builder.mul(index, constant(width))), width, products)
                done = builder.add(done, builder.mul(number, constant(width)))

        def every_range(products: Callable[[Any, _Slots], None]) -> None:
            """Compute all vectors; masks, which cost registers, are for those at the ends of a row."""
            widths = _widths(height)
            with counted(builder, tiles) as index:
                down = builder.mul(index, x_down)
                below.append((down, builder.mul(index, builder.mul(y_step, constant(height)))))
                prefetch_lines(builder, builder.add(ahead, builder.mul(index, ahead_down)), ahead_down)
                if has_edges:
                    first = builder.sdiv(begin, constant(n))
                    last = builder.add(first, builder.sdiv(whole, constant(n)))
                    masks.append(True)
                    every_tile(products, constant(0), first, _masked_widths(height))
                    masks.pop()
                    every_tile(products, first, last, widths)
                    masks.append(True)
                    every_tile(products, last, total, _masked_widths(height))
                    masks.pop()
                else:
                    every_tile(products, constant(0), total, widths)
                below.pop()

        def every_part(first: Any, slots: _Slots) -> None:
            with counted(builder, part_count) as index:
                part = part_record(index)
                by_taps(part[1], lambda body: body(first, slots, part))

        def one_part() -> None:
            part = part_record(constant(0))
            # What a part settles is settled once for all tiles.
            by_taps(part[1], lambda body: every_range(lambda first, slots: body(first, slots, part)))

        if has_edges:
            one_part()
            return context.get_dummy_value()
        with builder.if_else(builder.icmp_signed("==", part_count, constant(1))) as (one, several):
            with one:
                one_part()
            with several:
                every_range(every_part)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 19, rows, code, edges), codegen


def _inside(builder: Any, place: Any, size: Any, n: int) -> Any:
    """Return which of n neighbouring places are at least 0 and less than `size`."""
    i32 = ir.IntType(32)
    lanes = ir.Constant(ir.VectorType(i32, n), list(range(n)))
    places = builder.add(broadcast(builder, builder.trunc(place, i32), n), lanes)
    return builder.icmp_unsigned("<", places, broadcast(builder, builder.trunc(size, i32), n))


def finished(builder: Any, values: Iterable[Any], divisor: Any, code: int, n: int) -> list[Any]:
    """Return vectors of sums divided, and without their fraction where that is wanted.

    At `divisor` lie a divisor, its reciprocal, and a number that is not 0 where fractions are lost. Such quotients must
    be less than 2**31.
    """
    size, type_ = BYTES[code], ir.VectorType(element_type(code), n)
    by, inverse, whole = (load_vector(builder, builder.add(divisor, constant(i * size)), code, 1) for i in range(3))
    loses = builder.fcmp_unordered("!=", whole, ir.Constant(whole.type, 0.0))
    by, inverse = broadcast(builder, by, n), broadcast(builder, inverse, n)
    results = []
    for value in values:
        quotient = _quotient(builder, value, by, inverse, code)
        integer = builder.fptosi(quotient, ir.VectorType(ir.IntType(32), n))
        results.append(builder.select(loses, builder.sitofp(integer, type_), quotient))
    return results


def _quotient(builder: Any, value: Any, by: Any, inverse: Any, code: int) -> Any:
    """Return value / by: where FMA exists a product with the reciprocal and one correction, which rounds correctly."""
    if not simd.has_fma():
        return builder.fdiv(value, by)
    quotient = builder.fmul(value, inverse)
    error = multiply_add(builder, builder.fneg(quotient), by, value, code)
    better = multiply_add(builder, error, inverse, quotient, code)
    # The correction of an infinite quotient is not a number.
    return builder.select(builder.fcmp_ordered("ord", better, better), better, quotient)


def divisor_record(divisor: float, dtype: Any, *, is_whole: bool = False) -> Any:
    """Return the array that `finished` reads."""
    return np.array([divisor, 1 / divisor, is_whole], dtype)
