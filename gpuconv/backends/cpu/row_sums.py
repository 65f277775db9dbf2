"""Sums of rows: what means are made of, whose windows share most of their sum with their neighbours'.

The function is compiled by itself, and called by its address.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc
from numba.core import types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import read
from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    counted,
    lanes_of,
    load_vector,
    splat,
    store_part,
    store_vector,
)
from gpuconv.backends.cpu.stencil_tiles import finished

__all__ = ["MOST_BYTES", "MOST_ROWS", "add_rows", "whole_divisor"]

MOST_ROWS = 4
"""Rows that one call adds."""
MOST_BYTES = 257
"""Bytes whose sum 16 bits hold."""
_VECTORS = 4


@functools.cache
def add_rows(code: int) -> int:
    """Return the address of the function that adds up to `MOST_ROWS` rows: `_add` without its literal."""
    return int(_add_rows(code, simd.source_version()).address)


def _add_rows(code: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def compute(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        _add(read(a), read(a + 8), read(a + 16), read(a + 24), read(a + 32), read(a + 40), read(a + 48), code)

    return compute


@intrinsic(prefer_literal=True)
def _add(typingctx: Any, to: Any, a: Any, b: Any, c: Any, d: Any, count: Any, divisor: Any, code: Any) -> Any:
    """Write the sum of rows, divided: to[i] = a[i] + b[i] + c[i] + d[i] for i < count.

    Rows are addresses; b, c and d are 0 where there are fewer. Whole vectors of them are read. `to` may be one of them.
    `divisor` is the address of what `finished` reads, or for integers `_quotients`; or 0.
    """
    kind = code.literal_value
    n, size, is_float = lanes_of(kind), BYTES[kind], kind < 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, *rows, count, divisor = args[:7]
        plus = builder.fadd if is_float else builder.add
        total = builder.sdiv(count, constant(n))
        tail = builder.srem(count, constant(n))
        divides = builder.icmp_signed("!=", divisor, constant(0))

        def sums(number: int, divided: bool, first: Any, width: int) -> list[tuple[Any, Any]]:
            """Return vectors of sums from vector `first` on, and where they belong."""
            begin = builder.mul(first, constant(n * size))
            places = [builder.add(begin, constant(v * n * size)) for v in range(width)]
            values = []
            for place in places:
                parts = [load_vector(builder, builder.add(row, place), kind, n) for row in rows[:number]]
                while len(parts) > 1:
                    pairs = [parts[:2]] if len(parts) < 4 else [parts[:2], parts[2:]]
                    parts = [*(plus(*pair) for pair in pairs), *parts[2 * len(pairs) :]]
                values.append(parts[0])
            if divided:
                values = finished(builder, values, divisor, kind, n) if is_float else _quotients(
                    builder, values, divisor, kind, n
                )  # fmt: skip
            return [(value, builder.add(to, place)) for value, place in zip(values, places, strict=True)]

        def every(number: int, divided: bool) -> None:
            wide = builder.sdiv(total, constant(_VECTORS))
            with counted(builder, wide) as index:
                for value, place in sums(number, divided, builder.mul(index, constant(_VECTORS)), _VECTORS):
                    store_vector(builder, value, place, kind)
            done = builder.mul(wide, constant(_VECTORS))
            with counted(builder, builder.sub(total, done)) as index:
                for value, place in sums(number, divided, builder.add(done, index), 1):
                    store_vector(builder, value, place, kind)
            with builder.if_then(builder.icmp_signed(">", tail, constant(0))):
                for value, place in sums(number, divided, total, 1):
                    store_part(builder, value, place, kind, tail)

        end = builder.append_basic_block("rows.end")
        for number in range(1, MOST_ROWS + 1):
            missing = rows[number] if number < MOST_ROWS else constant(0)
            with builder.if_then(builder.icmp_signed("==", missing, constant(0))):
                with builder.if_else(divides) as (divided, plain):
                    with divided:
                        every(number, True)
                    with plain:
                        every(number, False)
                builder.branch(end)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 7, code), codegen


def _quotients(builder: Any, values: list[Any], divisor: Any, kind: int, n: int) -> list[Any]:
    """Return vectors of sums divided, without their fraction: the upper half of a product, shifted, or one less.

    At `divisor` lies what `whole_divisor` returns.
    """
    narrow, wide = values[0].type, ir.VectorType(ir.IntType(16 * BYTES[kind]), n)
    factor, shift, by = (
        broadcast(builder, load_vector(builder, builder.add(divisor, constant(i * BYTES[kind])), kind, 1), n)
        for i in range(3)
    )
    results = []
    for value in values:
        product = builder.mul(builder.zext(value, wide), builder.zext(factor, wide))
        upper = builder.trunc(builder.lshr(product, splat(wide, 8 * BYTES[kind])), narrow)
        quotient = builder.lshr(upper, shift)
        is_more = builder.icmp_unsigned(">", builder.mul(quotient, by), value)
        results.append(builder.add(quotient, builder.sext(is_more, narrow)))
    return results


def whole_divisor(divisor: int) -> Any:
    """Return the array by which sums of `divisor` bytes, at most 257 of them, are divided.

    With 2**(16 + t) = m * divisor - e and e < divisor the quotient is m * sum >> (16 + t), or one less, as sum * e is
    less than divisor * 2**(16 + t) (T. Granlund and P. Montgomery, "Division by invariant integers using
    multiplication", 1994).
    """
    shift = max((divisor - 1).bit_length() - 1, 0)
    return np.array([-(-(1 << 16 + shift) // divisor), shift, divisor], np.uint16)
