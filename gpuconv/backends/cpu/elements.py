"""Elements of any type where they lie, read and written one by one or in runs, as numbers of the type of sums."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.conversions import narrow, widen
from gpuconv.backends.cpu.simd import (
    BYTES,
    I32,
    broadcast,
    constant,
    element_type,
    lanes_of,
    load_vector,
    number,
    store_vector,
)

__all__ = ["copy_halves", "copy_run", "fill_run", "load", "read", "store", "write_run", "zero"]


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


def _load_some(builder: Any, address: Any, code: int, n: int, some: Any) -> Any:
    """Load n elements, or as many of them as `some` says: the others' memory is not touched."""
    if some is None:
        return load_vector(builder, address, code, n)
    return simd.load_part(builder, address, code, n, some)


def _store_some(builder: Any, value: Any, address: Any, code: int, some: Any) -> None:
    if some is None:
        store_vector(builder, value, address, code)
    else:
        simd.store_masked(builder, value, address, simd.first_lanes(builder, some, value.type.count), code)


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

        def dense(first: Any, some: Any = None) -> None:
            place = builder.add(address, builder.mul(first, constant(BYTES[s])))
            value = _load_some(builder, place, s, n, some)
            _store_some(
                builder, widen(builder, value, s, a, n), builder.add(to, builder.mul(first, constant(size))), a, some
            )

        def pairs(first: Any, some: Any = None) -> None:
            # Two vectors that overlap in one element, so that nothing beyond the last element kept is read.
            place = builder.add(address, builder.mul(first, step))
            counts = [None, None]
            if some is not None:
                counts = [builder.sub(builder.mul(some, constant(2)), constant(k)) for k in (1, n)]
            halves = [
                _load_some(builder, builder.add(place, constant(k * (n - 1) * size)), a, n, counts[k]) for k in range(2)
            ]
            order = [2 * lane + (2 * lane >= n) for lane in range(n)]
            value = builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(I32, n), order))
            _store_some(builder, value, builder.add(to, builder.mul(first, constant(size))), a, some)

        def vectors(copy: Any) -> None:
            """Copy by vectors, the last of which overlaps the one before; too few elements for one, by a mask."""
            with builder.if_else(builder.icmp_signed("<", count, constant(n))) as (few, many):
                with few:
                    if simd.has_masks():
                        copy(constant(0), count)
                    else:
                        elements(constant(0), count)
                with many:
                    full = builder.sdiv(count, constant(n))
                    with cgutils.for_range(builder, full) as loop:
                        copy(builder.mul(loop.index, constant(n)))
                    with builder.if_then(builder.icmp_signed("<", builder.mul(full, constant(n)), count)):
                        copy(builder.sub(count, constant(n)))

        is_dense = builder.icmp_signed("==", step, constant(BYTES[s]))
        with builder.if_else(is_dense) as (one_by_one, strided):
            with one_by_one:
                vectors(dense)
            with strided:
                if s != a:
                    elements(constant(0), count)
                else:
                    with builder.if_else(builder.icmp_signed("==", step, constant(2 * size))) as (by_two, other):
                        with by_two:
                            vectors(pairs)
                        with other:
                            # A gather took three times as long (Zen 3).
                            elements(constant(0), count)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def copy_halves(typingctx: Any, evens: Any, odds: Any, address: Any, count: Any, code: Any) -> Any:
    """Copy 2 * count neighbours, every second to `evens`, the others to `odds`."""
    a = code.literal_value
    size, n = BYTES[a], lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        evens, odds, address, count = args[:4]

        def copy(first: Any, width: int, some: Any = None) -> None:
            place = builder.add(address, builder.mul(first, constant(2 * size)))
            shift = builder.mul(first, constant(size))
            counts = [None, None]
            if some is not None:
                counts = [builder.sub(builder.mul(some, constant(2)), constant(k * n)) for k in range(2)]
            halves = [
                _load_some(builder, builder.add(place, constant(k * width * size)), a, width, counts[k])
                for k in range(2)
            ]
            for parity, to in enumerate((evens, odds)):
                order = ir.Constant(ir.VectorType(I32, width), list(range(parity, 2 * width, 2)))
                value = halves[parity] if width == 1 else builder.shuffle_vector(*halves, order)
                _store_some(builder, value, builder.add(to, shift), a, some)

        full = builder.sdiv(count, constant(n))
        with cgutils.for_range(builder, full) as loop:
            copy(builder.mul(loop.index, constant(n)), n)
        done = builder.mul(full, constant(n))
        # The last vectors overlap those before; too few elements for one, by a mask or one by one.
        is_few = builder.icmp_signed("<", count, constant(n))
        with builder.if_then(is_few):
            if simd.has_masks():
                copy(constant(0), n, count)
            else:
                with cgutils.for_range(builder, count) as loop:
                    copy(loop.index, 1)
        is_left = builder.and_(builder.icmp_signed("<", done, count), builder.not_(is_few))
        with builder.if_then(is_left):
            copy(builder.sub(count, constant(n)), n)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, code), codegen


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
                # What is left by a vector that overlaps the one before.
                is_left = builder.icmp_signed("<", builder.mul(full, constant(n)), count)
                with builder.if_then(is_left):
                    is_short = builder.icmp_signed("<", count, constant(n))
                    with builder.if_else(is_short) as (few, many):
                        with few:
                            elements(constant(0), count)
                        with many:
                            write(builder.sub(count, constant(n)), n)
            with strided:
                elements(constant(0), count)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, number(a), accumulator, target), codegen
