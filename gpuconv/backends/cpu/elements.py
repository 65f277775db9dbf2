"""Elements of any type where they lie, read and written one by one or in runs, as numbers of the type of sums."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.conversions import narrow, widen
from gpuconv.backends.cpu.simd import (
    BYTES,
    I32,
    broadcast,
    constant,
    element_type,
    first_lanes,
    lanes_of,
    load_masked,
    load_vector,
    number,
    store_masked,
    store_vector,
)

__all__ = ["copy_run", "fill_run", "load", "read", "store", "write_run", "zero"]


@intrinsic(prefer_literal=True)
def read(typingctx: Any, address: Any) -> Any:
    """Return the int64 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return load_vector(builder, args[0], 3, 1)

    return types.int64(types.int64), codegen


@intrinsic(prefer_literal=True)
def load(typingctx: Any, address: Any, source: Any, accumulator: Any) -> Any:
    """Return the element of type `source` at an address, converted to the accumulator's type."""
    s, a = source.literal_value, accumulator.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return widen(builder, load_vector(builder, args[0], s, 1), s, a, 1)

    return number(a)(types.int64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def store(typingctx: Any, address: Any, value: Any, accumulator: Any, target: Any) -> Any:
    """Store a value of the accumulator's type at an address as type `target`."""
    a, t = accumulator.literal_value, target.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store_vector(builder, narrow(builder, args[1], a, t, 1), args[0], t)
        return context.get_dummy_value()

    return types.void(types.int64, number(a), accumulator, target), codegen


@intrinsic(prefer_literal=True)
def zero(typingctx: Any, accumulator: Any) -> Any:
    """Return 0 of the accumulator's type."""
    a = accumulator.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(element_type(a), 0)

    return number(a)(accumulator), codegen


@intrinsic(prefer_literal=True)
def copy_run(typingctx: Any, to: Any, address: Any, count: Any, step: Any, source: Any, accumulator: Any) -> Any:
    """Copy `count` elements, `step` bytes apart, to consecutive places of the accumulator's type."""
    s, a = source.literal_value, accumulator.literal_value
    size, n = BYTES[a], lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, address, count, step = args[:4]

        def elements(first: Any, number: Any) -> None:
            with cgutils.for_range(builder, number) as loop:
                i = builder.add(first, loop.index)
                value = load_vector(builder, builder.add(address, builder.mul(i, step)), s, 1)
                store_vector(
                    builder, widen(builder, value, s, a, 1), builder.add(to, builder.mul(i, constant(size))), a
                )

        def pairs(first: Any, left: Any) -> None:
            """Keep every second element; `left` is how many to keep, all of a vector for None."""
            place = builder.add(address, builder.mul(first, step))
            halves = []
            for half in range(2):
                at = builder.add(place, constant(half * n * size))
                if left is None:
                    halves.append(load_vector(builder, at, a, n))
                else:
                    read = builder.sub(builder.shl(left, constant(1)), constant(1 + half * n))
                    halves.append(load_masked(builder, at, first_lanes(builder, read, n), a, n))
            even = ir.Constant(ir.VectorType(I32, n), [2 * lane for lane in range(n)])
            value = builder.shuffle_vector(*halves, even)
            target = builder.add(to, builder.mul(first, constant(size)))
            if left is None:
                store_vector(builder, value, target, a)
            else:
                store_masked(builder, value, target, first_lanes(builder, left, n), a)

        is_dense = builder.icmp_signed("==", step, constant(BYTES[s]))
        with builder.if_else(is_dense) as (dense, strided):
            with dense:
                full = builder.sdiv(count, constant(n))
                with cgutils.for_range(builder, full) as loop:
                    i = builder.mul(loop.index, constant(n))
                    value = load_vector(builder, builder.add(address, builder.mul(i, constant(BYTES[s]))), s, n)
                    store_vector(
                        builder, widen(builder, value, s, a, n), builder.add(to, builder.mul(i, constant(size))), a
                    )
                done = builder.mul(full, constant(n))
                if s == a:
                    left = builder.sub(count, done)
                    with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                        here, mask = builder.mul(done, constant(size)), first_lanes(builder, left, n)
                        value = load_masked(builder, builder.add(address, here), mask, a, n)
                        store_masked(builder, value, builder.add(to, here), mask, a)
                else:
                    elements(done, builder.sub(count, done))
            with strided:
                if s != a:
                    elements(constant(0), count)
                else:
                    with builder.if_else(builder.icmp_signed("==", step, constant(2 * size))) as (by_two, other):
                        with by_two:
                            # The last vector's second half may lie beyond the array.
                            full = builder.sdiv(builder.sub(count, constant(1)), constant(n))
                            with cgutils.for_range(builder, full) as loop:
                                pairs(builder.mul(loop.index, constant(n)), None)
                            done = builder.mul(full, constant(n))
                            left = builder.sub(count, done)
                            with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                                pairs(done, left)
                        with other:
                            # A gather took three times as long (Zen 3).
                            elements(constant(0), count)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def fill_run(typingctx: Any, to: Any, count: Any, value: Any, accumulator: Any) -> Any:
    """Write `value` to `count` consecutive places of the accumulator's type."""
    a = accumulator.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, count, value = args[:3]
        with cgutils.for_range(builder, count) as loop:
            store_vector(builder, value, builder.add(to, builder.mul(loop.index, constant(BYTES[a]))), a)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, number(a), accumulator), codegen


@intrinsic(prefer_literal=True)
def write_run(
    typingctx: Any, to: Any, step: Any, address: Any, count: Any, bias: Any, accumulator: Any, target: Any
) -> Any:
    """Write `count` consecutive sums, plus the bias, to places `step` bytes apart of type `target`."""
    a, t = accumulator.literal_value, target.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, step, address, count, bias = args[:5]
        plus = builder.fadd if a < 2 else builder.add

        def write(i: Any, width: int) -> None:
            value = load_vector(builder, builder.add(address, builder.mul(i, constant(BYTES[a]))), a, width)
            value = narrow(builder, plus(value, broadcast(builder, bias, width)), a, t, width)
            store_vector(builder, value, builder.add(to, builder.mul(i, step)), t)

        def elements(first: Any, number: Any) -> None:
            with cgutils.for_range(builder, number) as loop:
                write(builder.add(first, loop.index), 1)

        with builder.if_else(builder.icmp_signed("==", step, constant(BYTES[t]))) as (dense, strided):
            with dense:
                full = builder.sdiv(count, constant(n))
                with cgutils.for_range(builder, full) as loop:
                    write(builder.mul(loop.index, constant(n)), n)
                done = builder.mul(full, constant(n))
                elements(done, builder.sub(count, done))
            with strided:
                elements(constant(0), count)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, number(a), accumulator, target), codegen
