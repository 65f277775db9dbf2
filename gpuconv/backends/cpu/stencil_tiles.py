"""The inner kernel of stencils and separable filters: a block of output rows in registers over all taps.

Output row r of a block meets input row i with kernel row i - r, so one load of shifted inputs feeds as many sums as
there are rows in the block. Rows of inputs that meet only some of the block's rows come first and last, and are
unrolled; the rows that meet all of them are a loop. No tap is multiplied that does not belong to its output.

The blocks are compiled functions of their own, which kernels call by address.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import cfunc
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    counted,
    element_type,
    lanes_of,
    load_vector,
    multiply_add,
    read,
    store_part,
    store_vector,
)

__all__ = ["PART_BYTES", "block", "row_blocks"]

PART_BYTES = 32
"""A part is four int64: offset of its input in bytes, kernel rows, kernel columns, offset of its weights in bytes."""


def row_blocks() -> tuple[int, ...]:
    """Return the numbers of rows that `stencil` is made for, largest first."""
    return (8, 4, 1)


def _widths(rows: int) -> tuple[int, ...]:
    """Return the widths of tiles in vectors, widest first: what leaves registers for the inputs and a weight."""
    if simd.registers() == 32:
        return {8: (3, 2, 1), 4: (6, 4, 3, 2, 1), 1: (8, 4, 1)}[rows]
    return {8: (1,), 4: (3, 2, 1), 1: (8, 4, 1)}[rows]


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
        first_x, size_x = (read(a + 88), read(a + 96)) if edges else (0, 0)
        _stencil(
            read(a), read(a + 8), read(a + 16), read(a + 24), read(a + 32), read(a + 40), read(a + 48), read(a + 56),
            read(a + 64), read(a + 72), read(a + 80), first_x, size_x, rows, code, edges,
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
    first_x: Any,
    size_x: Any,
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
        Address of a divisor and its reciprocal, or 0.
    first_x, size_x : int64
        Where `x` stands in its row, from -1 back before its beginning, and the row's length; used with `edges`.
    rows, code : literal int
        Rows of y, and the type of all numbers.
    edges : literal int
        1 where x is the caller's array, which has no border: elements outside of the row count as 0.
    """
    height, a, has_edges = rows.literal_value, code.literal_value, bool(edges.literal_value)
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, y_step, x, row_step, column_step, parts, part_count, w, count, bias, divisor, first_x, size_x = args[:13]
        dilation = builder.sdiv(column_step, constant(size))
        vector = ir.VectorType(element_type(a), n)
        start = broadcast(builder, load_vector(builder, bias, a, 1), n)
        total = builder.sdiv(builder.add(count, constant(n - 1)), constant(n))
        done = constant(0)

        def tile(first: Any, width: int) -> None:
            slots = [[cgutils.alloca_once(builder, vector) for _ in range(width)] for _ in range(height)]
            for row in slots:
                for slot in row:
                    builder.store(start, slot)
            corner = builder.add(x, builder.mul(first, constant(n * size)))

            def masks(index: Any) -> list[Any]:
                """Return the masks of the tile's loads of a column: each may leave the row on either side."""
                place = builder.add(builder.add(first_x, builder.mul(first, constant(n))), builder.mul(index, dilation))
                places = [builder.add(place, constant(v * n)) for v in range(width)]
                return [_inside(builder, place, size_x, n) for place in places] if has_edges else []

            def section(at: Any, weights: Any, inside: list[Any], active: list[int]) -> None:
                """Add one input row to the active rows of sums; row r's weight lies r elements before `weights`."""
                inputs = []
                for v in range(width):
                    source = builder.add(at, constant(v * n * size))
                    if has_edges:
                        inputs.append(simd.load_masked(builder, source, inside[v], a, n))
                    else:
                        inputs.append(load_vector(builder, source, a, n))
                for r in active:
                    weight = load_vector(builder, builder.add(weights, constant(-r * size)), a, 1)
                    weight = broadcast(builder, weight, n)
                    for slot, value in zip(slots[r], inputs, strict=True):
                        builder.store(multiply_add(builder, weight, value, builder.load(slot), a), slot)

            with counted(builder, part_count) as part:
                record = builder.add(parts, builder.mul(part, constant(PART_BYTES)))
                offset, taps, columns, weights = (
                    load_vector(builder, builder.add(record, constant(8 * i)), 3, 1) for i in range(4)
                )
                at, weights = builder.add(corner, offset), builder.add(w, weights)
                stride = builder.mul(taps, constant(size))

                @contextlib.contextmanager
                def every_column() -> Iterator[Callable[[Any, list[int]], None]]:
                    with counted(builder, columns) as index:
                        source = builder.add(at, builder.mul(index, column_step))
                        place = builder.add(weights, builder.mul(index, stride))
                        inside = masks(index)

                        def input_row(i: Any, active: list[int]) -> None:
                            row, weight = builder.mul(i, row_step), builder.mul(i, constant(size))
                            section(builder.add(source, row), builder.add(place, weight), inside, active)

                        yield input_row

                def every_row_apart() -> None:
                    with every_column() as input_row, counted(builder, taps) as m:
                        for r in range(height):
                            input_row(builder.add(m, constant(r)), [r])

                def shared() -> None:
                    with every_column() as input_row:
                        for i in range(height - 1):
                            input_row(constant(i), list(range(i + 1)))
                        full = builder.sub(taps, constant(height - 1))
                        with counted(builder, full) as index:
                            input_row(builder.add(index, constant(height - 1)), list(range(height)))
                        for i in range(height - 1):
                            input_row(builder.add(taps, constant(i)), list(range(i + 1, height)))

                def few(k: int) -> None:
                    with every_column() as input_row:
                        for i in range(height + k - 1):
                            input_row(constant(i), [r for r in range(height) if 0 <= i - r < k])

                if height == 1:
                    every_row_apart()
                else:
                    end = builder.append_basic_block("part.end")
                    cases = _unrolled_taps() if height == 4 else ()
                    for k in cases:
                        with builder.if_then(builder.icmp_signed("==", taps, constant(k))):
                            few(k)
                            builder.branch(end)
                    with builder.if_then(builder.icmp_signed(">=", taps, constant(height))):
                        shared()
                        builder.branch(end)
                    every_row_apart()
                    builder.branch(end)
                    builder.position_at_end(end)

            with builder.if_then(builder.icmp_signed("!=", divisor, constant(0))):
                by = broadcast(builder, load_vector(builder, divisor, a, 1), n)
                inverse = broadcast(builder, load_vector(builder, builder.add(divisor, constant(size)), a, 1), n)
                for row in slots:
                    for slot in row:
                        builder.store(_quotient(builder, builder.load(slot), by, inverse, a), slot)
            left = builder.sub(count, builder.mul(builder.add(first, constant(width - 1)), constant(n)))
            begin = builder.add(y, builder.mul(first, constant(n * size)))
            places = [builder.add(begin, builder.mul(y_step, constant(r))) for r in range(height)]
            values = [[builder.load(slot) for slot in row] for row in slots]
            for place, row in zip(places, values, strict=True):
                for v, value in enumerate(row[:-1]):
                    store_vector(builder, value, builder.add(place, constant(v * n * size)), a)
                store_part(builder, row[-1], builder.add(place, constant((width - 1) * n * size)), a, left)

        widths = _widths(height)
        for width in widths:
            rest = builder.sub(total, done)
            number = builder.sdiv(rest, constant(width))
            if width > 2 and 2 in widths:
                # Of a last tile of one vector the loads and the weights cost as much as the products: 7 is 4 + 3.
                lonely = builder.icmp_signed("==", builder.srem(rest, constant(width)), constant(1))
                fewer = builder.and_(lonely, builder.icmp_signed(">", number, constant(0)))
                number = builder.sub(number, builder.zext(fewer, number.type))
            with counted(builder, number) as index:
                tile(builder.add(done, builder.mul(index, constant(width))), width)
            done = builder.add(done, builder.mul(number, constant(width)))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 13, rows, code, edges), codegen


def _inside(builder: Any, place: Any, size: Any, n: int) -> Any:
    """Return which of n neighbouring places are at least 0 and less than `size`."""
    i32 = ir.IntType(32)
    lanes = ir.Constant(ir.VectorType(i32, n), list(range(n)))
    places = builder.add(broadcast(builder, builder.trunc(place, i32), n), lanes)
    return builder.icmp_unsigned("<", places, broadcast(builder, builder.trunc(size, i32), n))


def _quotient(builder: Any, value: Any, by: Any, inverse: Any, code: int) -> Any:
    """Return value / by: a product with the reciprocal and one correction, which rounds correctly where FMA exists."""
    quotient = builder.fmul(value, inverse)
    error = multiply_add(builder, builder.fneg(quotient), by, value, code)
    better = multiply_add(builder, error, inverse, quotient, code)
    # The correction of an infinite quotient is not a number.
    return builder.select(builder.fcmp_ordered("ord", better, better), better, quotient)
