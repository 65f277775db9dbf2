"""Copies and fills of packed rows by whole vectors, as intrinsics."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    counted,
    lanes_of,
    load_vector,
    store_part,
    store_vector,
)

__all__ = ["copy_places", "copy_rows", "fill_places", "split_places", "write_places"]


@intrinsic(prefer_literal=True)
def fill_places(typingctx: Any, to: Any, count: Any, value: Any, accumulator: Any) -> Any:
    """Write `value` to `count` places, and to as many more as fill a vector."""
    a = accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, count, value = args[:3]
        vector = broadcast(builder, value, n)
        with counted(builder, builder.sdiv(builder.add(count, constant(n - 1)), constant(n))) as index:
            store_vector(builder, vector, builder.add(to, builder.mul(index, constant(n * BYTES[a]))), a)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, simd.number(a), accumulator), codegen


@intrinsic(prefer_literal=True)
def copy_places(typingctx: Any, to: Any, address: Any, count: Any, step: Any, source: Any, accumulator: Any) -> Any:
    """Copy `count` elements, `step` bytes apart, to consecutive places; no more is written."""
    s, a = source.literal_value, accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, address, count, step = args[:4]
        full = builder.sdiv(count, constant(n))
        done = builder.mul(full, constant(n))
        left = builder.sub(count, done)

        def put(first: Any, value: Any, number: Any = None) -> None:
            place, value = builder.add(to, builder.mul(first, constant(BYTES[a]))), simd.widen(builder, value, s, a, n)
            if number is None:
                store_vector(builder, value, place, a)
            else:
                store_part(builder, value, place, a, number)

        def some(at: Any, number: Any) -> Any:
            return simd.load_part(builder, at, s, n, number)

        def pairs(low: Any, high: Any) -> Any:
            evens = ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(0, 2 * n, 2)))
            return builder.shuffle_vector(low, high, evens)

        dense, second = constant(BYTES[s]), constant(2 * BYTES[s])
        end = builder.append_basic_block("copied")
        with builder.if_then(builder.icmp_signed("==", step, dense), likely=True):
            with counted(builder, full) as index:
                i = builder.mul(index, constant(n))
                at = builder.add(address, builder.mul(i, dense))
                put(i, load_vector(builder, at, s, n))
            with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                put(done, some(builder.add(address, builder.mul(done, dense)), left), left)
            builder.branch(end)
        with builder.if_then(builder.icmp_signed("==", step, second)):
            # Of 2 * count elements the last is nobody's.
            with counted(builder, full) as index:
                i = builder.mul(index, constant(n))
                at = builder.add(address, builder.mul(i, second))
                high = some(builder.add(at, constant(n * BYTES[s])), constant(n - 1))
                put(i, pairs(load_vector(builder, at, s, n), high))
            with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                at = builder.add(address, builder.mul(done, second))
                wanted = builder.sub(builder.mul(left, constant(2)), constant(1))
                high = some(builder.add(at, constant(n * BYTES[s])), builder.sub(wanted, constant(n)))
                put(done, pairs(some(at, wanted), high), left)
            builder.branch(end)
        with counted(builder, count) as index:
            value = load_vector(builder, builder.add(address, builder.mul(index, step)), s, 1)
            place = builder.add(to, builder.mul(index, constant(BYTES[a])))
            store_vector(builder, simd.widen(builder, value, s, a, 1), place, a)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def copy_rows(
    typingctx: Any, to: Any, to_step: Any, address: Any, step: Any, rows: Any, count: Any, source: Any, accumulator: Any
) -> Any:
    """Copy rows of `count` neighbouring elements; no more is written. Rows begin `step` and `to_step` bytes apart.

    Four rows at a time: most are short, and what a row costs besides its elements is shared by four.
    """
    s, a = source.literal_value, accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, address, step, rows, count = args[:6]
        full = builder.sdiv(count, constant(n))
        left = builder.sub(count, builder.mul(full, constant(n)))
        mask = simd.first_lanes(builder, left, n)

        def copy(first: Any, number: int) -> None:
            begin = builder.add(address, builder.mul(first, step))
            places = [builder.add(to, builder.mul(builder.add(first, constant(r)), to_step)) for r in range(number)]
            starts = [builder.add(begin, builder.mul(step, constant(r))) for r in range(number)]
            with counted(builder, full) as index:
                i = builder.mul(index, constant(n))
                for start, place in zip(starts, places, strict=True):
                    value = load_vector(builder, builder.add(start, builder.mul(i, constant(BYTES[s]))), s, n)
                    value = simd.widen(builder, value, s, a, n)
                    store_vector(builder, value, builder.add(place, builder.mul(i, constant(BYTES[a]))), a)
            i = builder.mul(full, constant(n))
            with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                for start, place in zip(starts, places, strict=True):
                    at = builder.add(start, builder.mul(i, constant(BYTES[s])))
                    value = simd.widen(builder, simd.load_masked(builder, at, mask, s, n), s, a, n)
                    simd.store_masked(builder, value, builder.add(place, builder.mul(i, constant(BYTES[a]))), mask, a)

        fours = builder.sdiv(rows, constant(4))
        with counted(builder, fours) as index:
            copy(builder.mul(index, constant(4)), 4)
        done = builder.mul(fours, constant(4))
        with counted(builder, builder.sub(rows, done)) as index:
            copy(builder.add(done, index), 1)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def split_places(typingctx: Any, evens: Any, odds: Any, address: Any, count: Any, source: Any, accumulator: Any) -> Any:
    """Copy 2 * count neighbouring elements, every second to `evens`, the others to `odds`; no more is written."""
    s, a = source.literal_value, accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        evens, odds, address, count = args[:4]
        full = builder.sdiv(count, constant(n))
        done = builder.mul(full, constant(n))

        def halves(low: Any, high: Any, first: Any) -> list[tuple[Any, Any]]:
            found = []
            for to, parity in ((evens, 0), (odds, 1)):
                lanes = ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(parity, 2 * n, 2)))
                value = simd.widen(builder, builder.shuffle_vector(low, high, lanes), s, a, n)
                found.append((value, builder.add(to, builder.mul(first, constant(BYTES[a])))))
            return found

        with counted(builder, full) as index:
            first = builder.mul(index, constant(n))
            at = builder.add(address, builder.mul(first, constant(2 * BYTES[s])))
            low, high = (load_vector(builder, builder.add(at, constant(k * n * BYTES[s])), s, n) for k in (0, 1))
            for value, place in halves(low, high, first):
                store_vector(builder, value, place, a)
        left = builder.sub(count, done)
        at = builder.add(address, builder.mul(done, constant(2 * BYTES[s])))
        wanted = builder.mul(left, constant(2))
        low = simd.load_part(builder, at, s, n, wanted)
        high = simd.load_part(builder, builder.add(at, constant(n * BYTES[s])), s, n, builder.sub(wanted, constant(n)))
        for value, place in halves(low, high, done):
            store_part(builder, value, place, a, left)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def write_places(typingctx: Any, to: Any, address: Any, count: Any, accumulator: Any, target: Any) -> Any:
    """Convert `count` consecutive sums into elements of another type; no more is written."""
    a, t = accumulator.literal_value, target.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, address, count = args[:3]
        full = builder.sdiv(count, constant(n))

        def value(first: Any) -> tuple[Any, Any]:
            loaded = load_vector(builder, builder.add(address, builder.mul(first, constant(BYTES[a]))), a, n)
            return simd.narrow(builder, loaded, a, t, n), builder.add(to, builder.mul(first, constant(BYTES[t])))

        with counted(builder, full) as index:
            store_vector(builder, *value(builder.mul(index, constant(n))), t)
        done = builder.mul(full, constant(n))
        store_part(builder, *value(done), t, builder.sub(count, done))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, accumulator, target), codegen
