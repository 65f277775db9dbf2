"""The inner kernel of a stencil's weight gradient: a block of taps in registers over all rows of outputs.

The gradient of tap (m, n) is the sum over outputs (r, j) of y[r, j] * x[r + m, j + n]. Four rows of y are held at a
time: one load of shifted inputs meets each of them, and so feeds as many taps as there are kernel rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.simd import (
    BYTES,
    constant,
    counted,
    element_type,
    lanes_of,
    load_part,
    load_vector,
    multiply_add,
    store_vector,
)

__all__ = ["most_taps", "tap_sums", "total"]

_ROWS = 4
_CHAINS = 8
"""Sums that wait for nothing: a fused operation takes four cycles, and two begin in each."""


def most_taps() -> int:
    """Return the most rows, and columns, of a block of taps: their sums, rows of y and an input fill the registers."""
    return 5 if simd.registers() == 32 else 3


@intrinsic(prefer_literal=True)
def tap_sums(
    typingctx: Any,
    sums: Any,
    sums_step: Any,
    high: Any,
    wide: Any,
    y: Any,
    y_step: Any,
    x: Any,
    row_step: Any,
    column_step: Any,
    rows: Any,
    count: Any,
    code: Any,
) -> Any:
    """Add to the sums of a block of `high` by `wide` taps: vectors, whose lanes are yet to be added.

    Parameters
    ----------
    sums, y, x : int64
        Addresses; steps are in bytes. The sums of a column's taps are consecutive, `sums_step` lies between columns.
    high, wide : int64
        From 1 to `most_taps()`.
    rows, count : int64
        Rows of y and the elements of each; beyond the last nothing is read.
    code : literal int
        The type of all numbers.
    """
    a = code.literal_value
    n, size, most = lanes_of(a), BYTES[a], most_taps()

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, sums_step, high, wide, y, y_step, x, row_step, column_step, rows, count = args[:11]
        vector = ir.VectorType(element_type(a), n)
        full, left = builder.sdiv(count, constant(n)), builder.srem(count, constant(n))
        last = builder.mul(full, constant(n * size))

        def block(taps: int, columns: int) -> None:
            chains = min(4, -(-_CHAINS // (taps * columns)))
            slots = [
                [[cgutils.alloca_once(builder, vector) for _ in range(columns)] for _ in range(taps)]
                for _ in range(chains)
            ]
            places = [
                [
                    builder.add(sums, builder.add(builder.mul(sums_step, constant(c)), constant(m * n * size)))
                    for c in range(columns)
                ]
                for m in range(taps)
            ]
            for chain in range(chains):
                for m in range(taps):
                    for c in range(columns):
                        start = ir.Constant(vector, None) if chain else load_vector(builder, places[m][c], a, n)
                        builder.store(start, slots[chain][m][c])

            def products(own: list[list[Any]], height: int, y_at: Any, x_at: Any, part: Any) -> None:
                """Add what `height` rows of a vector of outputs give, of its first `part` lanes or of all."""

                def values(address: Any) -> Any:
                    if part is None:
                        return load_vector(builder, address, a, n)
                    return load_part(builder, address, a, n, part)

                outputs = [values(builder.add(y_at, builder.mul(y_step, constant(r)))) for r in range(height)]
                for i in range(height + taps - 1):
                    row = builder.add(x_at, builder.mul(row_step, constant(i)))
                    for c in range(columns):
                        inputs = values(builder.add(row, builder.mul(column_step, constant(c))))
                        for r in range(max(0, i - taps + 1), min(height, i + 1)):
                            slot = own[i - r][c]
                            builder.store(multiply_add(builder, outputs[r], inputs, builder.load(slot), a), slot)

            def every_row(height: int, first: Any, number: Any) -> None:
                with counted(builder, number) as index:
                    row = builder.add(first, builder.mul(index, constant(height)))
                    y_at = builder.add(y, builder.mul(row, y_step))
                    x_at = builder.add(x, builder.mul(row, row_step))
                    turns = builder.sdiv(full, constant(chains))
                    with counted(builder, turns) as turn:
                        begin = builder.mul(turn, constant(chains * n * size))
                        for chain in range(chains):
                            shift = builder.add(begin, constant(chain * n * size))
                            products(slots[chain], height, builder.add(y_at, shift), builder.add(x_at, shift), None)
                    done = builder.mul(turns, constant(chains))
                    if chains > 1:
                        with counted(builder, builder.sub(full, done)) as turn:
                            shift = builder.mul(builder.add(done, turn), constant(n * size))
                            products(slots[0], height, builder.add(y_at, shift), builder.add(x_at, shift), None)
                    with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                        products(slots[0], height, builder.add(y_at, last), builder.add(x_at, last), left)

            groups = builder.sdiv(rows, constant(_ROWS))
            if taps > 1:
                every_row(_ROWS, constant(0), groups)
                done = builder.mul(groups, constant(_ROWS))
                every_row(1, done, builder.sub(rows, done))
            else:
                # Kernels of one row share no input between rows of outputs.
                every_row(1, constant(0), rows)
            for m in range(taps):
                for c in range(columns):
                    value = builder.load(slots[0][m][c])
                    for own in slots[1:]:
                        value = (builder.fadd if a < 2 else builder.add)(value, builder.load(own[m][c]))
                    store_vector(builder, value, places[m][c], a)

        end = builder.append_basic_block("block.end")
        for taps in range(1, most + 1):
            with builder.if_then(builder.icmp_signed("==", high, constant(taps))):
                for columns in range(1, most + 1):
                    with builder.if_then(builder.icmp_signed("==", wide, constant(columns))):
                        block(taps, columns)
                        builder.branch(end)
                builder.branch(end)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 11, code), codegen


@intrinsic(prefer_literal=True)
def total(typingctx: Any, address: Any, code: Any) -> Any:
    """Return the sum of the lanes of the vector at an address, halves added to halves."""
    a = code.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = load_vector(builder, args[0], a, n), n
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(
                    value,
                    ir.Constant(value.type, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width))),
                )
                for first in (0, width)
            ]
            value = (builder.fadd if a < 2 else builder.add)(*halves)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return simd.number(a)(types.int64, code), codegen
