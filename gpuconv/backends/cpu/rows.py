"""Copies and fills of packed rows by whole vectors, as intrinsics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.conversions import narrow, widen
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

__all__ = ["copy_places", "copy_rows", "fill_places", "split_rows", "write_places"]


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
            place, value = (
                builder.add(to, builder.mul(first, constant(BYTES[a]))),
                widen(builder, value, s, a, n),
            )
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
            store_vector(builder, widen(builder, value, s, a, 1), place, a)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator), codegen


def _every_row(builder: Any, rows: Any, count: Any, n: int, move: Callable[[Any, int, Any, Any], None]) -> None:
    """Call `move(first row, rows, first element, mask)` for four rows at a time, whole vectors first.

    Most rows are short, and what a row costs besides its elements is shared by four. The mask of whole vectors is None.
    """
    full = builder.sdiv(count, constant(n))
    done = builder.mul(full, constant(n))
    left = builder.sub(count, done)
    mask = simd.first_lanes(builder, left, n)

    def some(first: Any, number: int) -> None:
        with counted(builder, full) as index:
            move(first, number, builder.mul(index, constant(n)), None)
        with builder.if_then(builder.icmp_signed(">", left, constant(0))):
            move(first, number, done, mask)

    fours = builder.sdiv(rows, constant(4))
    with counted(builder, fours) as index:
        some(builder.mul(index, constant(4)), 4)
    moved = builder.mul(fours, constant(4))
    with counted(builder, builder.sub(rows, moved)) as index:
        some(builder.add(moved, index), 1)


def _store_all(builder: Any, value: Any, place: Any, accumulator: int, mask: Any) -> None:
    if mask is None:
        store_vector(builder, value, place, accumulator)
    else:
        simd.store_masked(builder, value, place, mask, accumulator)


@intrinsic(prefer_literal=True)
def copy_rows(
    typingctx: Any, to: Any, to_step: Any, address: Any, step: Any, rows: Any, count: Any, source: Any, accumulator: Any
) -> Any:
    """Copy rows of `count` neighbouring elements; no more is written. Rows begin `step` and `to_step` bytes apart."""
    s, a = source.literal_value, accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, address, step, rows, count = args[:6]

        def move(first: Any, number: int, i: Any, mask: Any) -> None:
            begin = builder.add(address, builder.mul(i, constant(BYTES[s])))
            place = builder.add(to, builder.mul(i, constant(BYTES[a])))
            for r in range(number):
                row = builder.add(first, constant(r))
                at = builder.add(begin, builder.mul(row, step))
                value = load_vector(builder, at, s, n) if mask is None else simd.load_masked(builder, at, mask, s, n)
                value = widen(builder, value, s, a, n)
                _store_all(builder, value, builder.add(place, builder.mul(row, to_step)), a, mask)

        _every_row(builder, rows, count, n, move)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def split_rows(
    typingctx: Any, evens: Any, odds: Any, to_step: Any, address: Any, step: Any, rows: Any, count: Any, source: Any,
    accumulator: Any,
) -> Any:  # fmt: skip
    """Copy rows of 2 * count neighbours, every second to `evens`, the others to `odds`; no more is written."""
    s, a = source.literal_value, accumulator.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        evens, odds, to_step, address, step, rows, count = args[:7]
        wanted = builder.mul(builder.srem(count, constant(n)), constant(2))
        masks = [simd.first_lanes(builder, builder.sub(wanted, constant(k * n)), n) for k in (0, 1)]
        orders = [ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(parity, 2 * n, 2))) for parity in (0, 1)]

        def move(first: Any, number: int, i: Any, mask: Any) -> None:
            begin = builder.add(address, builder.mul(i, constant(2 * BYTES[s])))
            for r in range(number):
                row = builder.add(first, constant(r))
                at = builder.add(begin, builder.mul(row, step))
                places = [at, builder.add(at, constant(n * BYTES[s]))]
                if mask is None:
                    halves = [load_vector(builder, place, s, n) for place in places]
                else:
                    halves = [simd.load_masked(builder, p, m, s, n) for p, m in zip(places, masks, strict=True)]
                place = builder.add(builder.mul(row, to_step), builder.mul(i, constant(BYTES[a])))
                for to, order in zip((evens, odds), orders, strict=True):
                    value = widen(builder, builder.shuffle_vector(*halves, order), s, a, n)
                    _store_all(builder, value, builder.add(to, place), a, mask)

        _every_row(builder, rows, count, n, move)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 7, source, accumulator), codegen


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
            return narrow(builder, loaded, a, t, n), builder.add(to, builder.mul(first, constant(BYTES[t])))

        with counted(builder, full) as index:
            store_vector(builder, *value(builder.mul(index, constant(n))), t)
        done = builder.mul(full, constant(n))
        store_part(builder, *value(done), t, builder.sub(count, done))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, accumulator, target), codegen


def prefetch_lines(builder: Any, address: Any, count: Any) -> None:
    """Emit requests for `count` bytes to be brought near: harmless where they are not memory."""
    i32 = ir.IntType(32)
    pointer = ir.IntType(8).as_pointer()
    type_ = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
    function = cgutils.get_or_insert_function(builder.module, type_, "llvm.prefetch.p0")
    lines = builder.sdiv(builder.add(count, constant(63)), constant(64))
    with counted(builder, lines) as index:
        place = builder.inttoptr(builder.add(address, builder.mul(index, constant(64))), pointer)
        # To be read, kept in the second-level cache, as data.
        builder.call(function, [place, ir.Constant(i32, 0), ir.Constant(i32, 2), ir.Constant(i32, 1)])


@intrinsic
def prefetch(typingctx: Any, address: Any, count: Any) -> Any:
    """Ask for `count` bytes to be brought near: see `prefetch_lines`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch_lines(builder, *args)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
