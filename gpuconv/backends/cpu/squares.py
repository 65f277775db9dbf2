"""Squares transposed in registers, and sums added in place: what turns sums by places into sums by channels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.conversions import narrow, widen
from gpuconv.backends.cpu.simd import BYTES, constant, lanes_of, load_vector, store_vector

__all__ = ["add_run", "transpose_square"]


@intrinsic(prefer_literal=True)
def transpose_square(
    typingctx: Any, to: Any, to_step: Any, address: Any, step: Any, source: Any, accumulator: Any, target: Any
) -> Any:
    """Transpose a square of as many rows and columns as a vector has numbers.

    Row i of `source` numbers lies `step` * i bytes from `address`, row j of the result `to_step` * j bytes from `to`,
    of type `target`; one of the two types is the accumulator's.
    """
    s, a, t = source.literal_value, accumulator.literal_value, target.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, address, step = args[:4]
        rows = []
        for i in range(n):
            row = load_vector(builder, builder.add(address, builder.mul(step, constant(i))), s, n)
            rows.append(widen(builder, row, s, a, n))
        # Each stage exchanges the off-diagonal quarters of all blocks of 2 * half rows and columns.
        half = n // 2
        while half:
            low = [j if not j & half else n + j - half for j in range(n)]
            high = [j + half if not j & half else n + j for j in range(n)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), n), mask) for mask in (low, high)]
            for i in range(n):
                if not i & half:
                    upper, lower = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (builder.shuffle_vector(upper, lower, mask) for mask in masks)
            half //= 2
        for j, row in enumerate(rows):
            store_vector(builder, narrow(builder, row, a, t, n), builder.add(to, builder.mul(to_step, constant(j))), t)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator, target), codegen


@intrinsic(prefer_literal=True)
def add_run(typingctx: Any, to: Any, address: Any, count: Any, accumulator: Any) -> Any:
    """Add `count` consecutive numbers, a multiple of a vector's, to those at `to`."""
    a = accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, address, count = args[:3]
        plus = builder.fadd if a < 2 else builder.add
        with cgutils.for_range(builder, builder.sdiv(count, constant(n))) as loop:
            i = builder.mul(loop.index, constant(n * BYTES[a]))
            here = builder.add(to, i)
            value = load_vector(builder, builder.add(address, i), a, n)
            store_vector(builder, plus(load_vector(builder, here, a, n), value), here, a)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, accumulator), codegen
