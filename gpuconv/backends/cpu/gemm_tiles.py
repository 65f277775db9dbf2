"""The inner kernels of the implicit matrix product: panels of the input, register tiles, interleaved writing."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    element_type,
    interleaved,
    lanes_of,
    load_part,
    load_vector,
    multiply_add,
    store_part,
    store_vector,
)

__all__ = ["WIDTH", "interleave", "pack_run", "product"]

WIDTH = 3
"""Vectors of a tile: with 8 rows (4 of 16 registers) sums, inputs and a weight fill the registers."""


@intrinsic(prefer_literal=True)
def product(
    typingctx: Any,
    to: Any,
    to_stride: Any,
    sums: Any,
    sums_stride: Any,
    w: Any,
    x: Any,
    offsets: Any,
    depth: Any,
    bias: Any,
    rows: Any,
    width: Any,
    code: Any,
) -> Any:
    """Multiply: to[r, i] = start + sum over k of w[k, r] * x[offsets[k] + i].

    A tile of `rows` by `width` vectors stays in registers over all k. It starts from the bias of each row, or from
    what `sums` holds where `bias` is 0.

    Parameters
    ----------
    to, sums, w, x, offsets, bias : int64
        Addresses; the strides and the entries of `offsets` are in bytes.
    depth : int64
        Number of k.
    rows, width, code : literal int
        The tile, and the type of all numbers.
    """
    height, columns, a = rows.literal_value, width.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_stride, sums, sums_stride, w, x, offsets, depth, bias = args[:9]
        vector = ir.VectorType(element_type(a), n)
        slots = [cgutils.alloca_once(builder, vector) for _ in range(height * columns)]
        step = constant(height * size)

        def place(first: Any, stride: Any, r: int, v: int) -> Any:
            return builder.add(builder.add(first, builder.mul(stride, constant(r))), constant(v * n * size))

        def terms(k: Any, number: int) -> None:
            places, weights = builder.add(offsets, builder.mul(k, constant(8))), builder.add(w, builder.mul(k, step))
            for i in range(number):
                at = builder.add(x, load_vector(builder, builder.add(places, constant(8 * i)), 3, 1))
                inputs = [load_vector(builder, builder.add(at, constant(v * n * size)), a, n) for v in range(columns)]
                for r in range(height):
                    scalar = load_vector(builder, builder.add(weights, constant(r * size)), a, 1)
                    weight = broadcast(builder, scalar, n)
                    for v in range(columns):
                        slot = slots[r * columns + v]
                        builder.store(multiply_add(builder, weight, inputs[v], builder.load(slot), a), slot)
                weights = builder.add(weights, step)

        with builder.if_else(builder.icmp_signed("!=", bias, constant(0))) as (fresh, going_on):
            with fresh:
                for r in range(height):
                    start = load_vector(builder, builder.add(bias, constant(r * size)), a, 1)
                    for slot in slots[r * columns : (r + 1) * columns]:
                        builder.store(broadcast(builder, start, n), slot)
            with going_on:
                for i, slot in enumerate(slots):
                    at = place(sums, sums_stride, *divmod(i, columns))
                    builder.store(load_vector(builder, at, a, n), slot)
        fours = builder.lshr(depth, constant(2))
        with cgutils.for_range(builder, fours) as loop:
            terms(builder.shl(loop.index, constant(2)), 4)
        done = builder.shl(fours, constant(2))
        for number in (2, 1):
            part = builder.and_(depth, constant(number))
            with builder.if_then(builder.icmp_signed("!=", part, constant(0))):
                terms(done, number)
            done = builder.add(done, part)
        for i, slot in enumerate(slots):
            store_vector(builder, builder.load(slot), place(to, to_stride, *divmod(i, columns)), a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 9, rows, width, code), codegen


@intrinsic(prefer_literal=True)
def pack_run(
    typingctx: Any, to: Any, stride: Any, address: Any, offsets: Any, depth: Any, count: Any, code: Any
) -> Any:
    """Copy runs into a panel: to[k, i] = address[offsets[k] + i] for i in range(count), for each k.

    `stride` is the bytes from one k to the next; nothing beyond a run is read or written.
    """
    a = code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, stride, address, offsets, depth, count = args[:6]

        def columns(first: Any, width: int, part: Any) -> None:
            shift = builder.mul(first, constant(n * size))
            target, origin = builder.add(to, shift), builder.add(address, shift)
            with cgutils.for_range(builder, depth) as loop:
                offset = load_vector(builder, builder.add(offsets, builder.mul(loop.index, constant(8))), 3, 1)
                place, source = builder.add(target, builder.mul(loop.index, stride)), builder.add(origin, offset)
                if part is not None:
                    store_part(builder, load_part(builder, source, a, n, part), place, a, part)
                    return
                values = [load_vector(builder, builder.add(source, constant(v * n * size)), a, n) for v in range(width)]
                for v, value in enumerate(values):
                    store_vector(builder, value, builder.add(place, constant(v * n * size)), a)

        full, left = builder.sdiv(count, constant(n)), builder.srem(count, constant(n))
        done = constant(0)
        for width in range(WIDTH, 0, -1):
            number = builder.sdiv(builder.sub(full, done), constant(width))
            with cgutils.for_range(builder, number) as loop:
                columns(builder.add(done, builder.mul(loop.index, constant(width))), width, None)
            done = builder.add(done, builder.mul(number, constant(width)))
        with builder.if_then(builder.icmp_signed(">", left, constant(0))):
            columns(full, 1, left)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, code), codegen


@intrinsic(prefer_literal=True)
def interleave(typingctx: Any, to: Any, even: Any, odd: Any, count: Any, code: Any) -> Any:
    """Write to[2 * i] = even[i] and to[2 * i + 1] = odd[i] for i in range(count)."""
    a = code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, even, odd, count = args[:4]
        full = builder.sdiv(count, constant(n))

        def at(address: Any, i: Any, scale: int) -> Any:
            return builder.add(address, builder.mul(i, constant(scale * size)))

        with cgutils.for_range(builder, full) as loop:
            i = builder.mul(loop.index, constant(n))
            first, second = (load_vector(builder, at(address, i, 1), a, n) for address in (even, odd))
            for half, mixed in enumerate(interleaved(builder, first, second)):
                store_vector(builder, mixed, builder.add(at(to, i, 2), constant(half * n * size)), a)
        done = builder.mul(full, constant(n))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            i = builder.add(done, loop.index)
            store_vector(builder, load_vector(builder, at(even, i, 1), a, 1), at(to, i, 2), a)
            store_vector(
                builder, load_vector(builder, at(odd, i, 1), a, 1), builder.add(at(to, i, 2), constant(size)), a
            )
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 4, code), codegen
