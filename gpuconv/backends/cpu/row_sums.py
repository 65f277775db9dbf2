"""Sums of rows and along rows: what means are made of, whose windows share most of their sum with their neighbours'.

The functions are compiled by themselves, and called by their addresses.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import read
from gpuconv.backends.cpu.simd import (
    BYTES,
    CODES,
    broadcast,
    constant,
    counted,
    element_type,
    lanes_of,
    load_vector,
    splat,
    store_part,
    store_vector,
)
from gpuconv.backends.cpu.stencil_tiles import finished

__all__ = ["MOST_BYTES", "MOST_ROWS", "add_rows", "slide", "sum_along", "whole_divisor"]

MOST_ROWS = 4
"""Rows that one call adds."""
MOST_BYTES = 257
"""Bytes whose sum 16 bits hold."""
_VECTORS = 4
_U16 = CODES["uint16"]
"""The type of sums of bytes."""


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


@functools.cache
def slide() -> int:
    """Return the address of the function by which sums of rows run on: `_slide`."""
    return int(_compiled_slide(simd.source_version()).address)


def _compiled_slide(version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def compute(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        _slide(read(a), read(a + 8), read(a + 16), read(a + 24), read(a + 32), read(a + 40))

    return compute


@functools.cache
def sum_along(code: int) -> int:
    """Return the address of the function that adds neighbours along a row: `_run_along`, or of floats `_scan_along`."""
    return int(_sum_along(code, simd.source_version()).address)


def _sum_along(code: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def compute(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        to, row, totals, step = read(a), read(a + 8), read(a + 16), read(a + 24)
        count, reach, divisor = read(a + 32), read(a + 40), read(a + 48)
        if code == _U16:
            _run_along(to, row, totals, count, reach, divisor)
        else:
            _scan_along(to, row, totals, totals + step, count, reach, divisor, code)

    return compute


@intrinsic
def _slide(typingctx: Any, to: Any, running: Any, newest: Any, oldest: Any, count: Any, divisor: Any) -> Any:
    """Add a row to sums that run on and take another away, and write them divided: all of 16 bits, by whole vectors.

    The arguments are addresses, but for `count`; at `divisor` lies what `whole_divisor` returns.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, running, newest, oldest, count, divisor = args
        n = lanes_of(_U16)
        with counted(builder, _vectors(builder, count, n)) as index:
            at = builder.mul(index, constant(2 * n))
            before, new, old = (
                load_vector(builder, builder.add(row, at), _U16, n) for row in (running, newest, oldest)
            )
            value = builder.sub(builder.add(before, new), old)
            store_vector(builder, value, builder.add(running, at), _U16)
            (mean,) = _quotients(builder, [value], divisor, _U16, n)
            store_vector(builder, mean, builder.add(to, at), _U16)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def _run_along(typingctx: Any, to: Any, row: Any, totals: Any, count: Any, reach: Any, divisor: Any) -> Any:
    """Write the sum of each of `count` elements of a row and of the `reach` after it, divided: all of 16 bits.

    It is the difference of the totals of all elements before its ends, modulo 2**16. `totals` has room for them; whole
    vectors are read and written.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, row, totals, count, reach, divisor = args
        n = lanes_of(_U16)
        kind = ir.VectorType(ir.IntType(16), n)
        before = cgutils.alloca_once_value(builder, splat(kind, 0))
        with counted(builder, _vectors(builder, builder.add(count, reach), n)) as index:
            at = builder.mul(index, constant(2 * n))
            value = _totals(builder, load_vector(builder, builder.add(row, at), _U16, n), _U16)
            last = builder.shuffle_vector(value, value, _places([n - 1] * n))
            base = builder.load(before)
            builder.store(builder.add(base, last), before)
            store_vector(builder, builder.add(value, base), builder.add(totals, at), _U16)
        ends = builder.add(totals, builder.mul(reach, constant(2)))
        with counted(builder, _vectors(builder, count, n)) as index:
            at = builder.mul(index, constant(2 * n))
            first, begin, end = (load_vector(builder, builder.add(base, at), _U16, n) for base in (row, totals, ends))
            (mean,) = _quotients(builder, [builder.add(builder.sub(end, begin), first)], divisor, _U16, n)
            store_vector(builder, mean, builder.add(to, at), _U16)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic(prefer_literal=True)
def _scan_along(
    typingctx: Any, to: Any, row: Any, before: Any, after: Any, count: Any, reach: Any, divisor: Any, code: Any
) -> Any:
    """Write the sum of each of `count` elements of a row and of the `reach` after it, divided.

    As rows are down columns (see `separable_kernels`), elements are taken in runs as long as a sum. `before` has room
    for the sums of what comes before each element in its run, `after`, from a vector on, for those of each and the rest
    of its run: a sum is of two of them. Nothing is subtracted. Whole vectors are read and written; of the result no
    more than its own.
    """
    kind = code.literal_value
    n, size = lanes_of(kind), BYTES[kind]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, row, before, after, count, reach, divisor = args[:7]
        vector, length = ir.VectorType(element_type(kind), n), builder.add(reach, constant(1))
        after = builder.add(after, constant(n * size))
        end = builder.add(count, reach)
        carried = cgutils.alloca_once(builder, vector)

        def at(base: Any, place: Any) -> Any:
            return builder.add(base, builder.mul(place, constant(size)))

        def scan(place: Any, target: Any, *, back: bool) -> None:
            value = _totals(builder, load_vector(builder, at(row, place), kind, n), kind, back=back)
            value = builder.fadd(value, builder.load(carried))
            builder.store(builder.shuffle_vector(value, value, _places([0 if back else n - 1] * n)), carried)
            store_vector(builder, value, target, kind)

        none = splat(vector, 0.0)
        with counted(builder, builder.add(builder.sdiv(end, length), constant(1))) as run:
            first = builder.mul(run, length)
            own = builder.sub(end, first)
            own = builder.select(builder.icmp_signed("<", own, length), own, length)
            builder.store(none, carried)
            store_vector(builder, ir.Constant(element_type(kind), 0.0), at(before, first), kind)
            with counted(builder, _vectors(builder, own, n)) as index:
                place = builder.add(first, builder.mul(index, constant(n)))
                scan(place, at(before, builder.add(place, constant(1))), back=False)
        runs = builder.sdiv(builder.add(count, reach), length)
        with counted(builder, runs) as index:
            # From the last run on, so that what a vector writes before its run is written again.
            last = builder.mul(builder.sub(runs, index), length)
            builder.store(none, carried)
            with counted(builder, _vectors(builder, length, n)) as step:
                place = builder.sub(last, builder.mul(builder.add(step, constant(1)), constant(n)))
                scan(place, at(after, place), back=True)
        vectors = _vectors(builder, count, n)
        with counted(builder, vectors) as index:
            place = builder.mul(index, constant(n))
            left, right = (
                load_vector(builder, at(base, start), kind, n)
                for base, start in ((after, place), (before, builder.add(place, length)))
            )
            total = cgutils.alloca_once(builder, vector)
            builder.store(builder.fadd(left, right), total)
            with builder.if_then(builder.icmp_signed("!=", divisor, constant(0))):
                (value,) = finished(builder, [builder.load(total)], divisor, kind, n)
                builder.store(value, total)
            store_part(builder, builder.load(total), at(to, place), kind, builder.sub(count, place))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7, code), codegen


def _vectors(builder: Any, count: Any, n: int) -> Any:
    return builder.sdiv(builder.add(count, constant(n - 1)), constant(n))


def _places(order: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)


def _totals(builder: Any, value: Any, code: int, *, back: bool = False) -> Any:
    """Return of each lane the sum of all up to it, or from it on."""
    n, none, plus = value.type.count, ir.Constant(value.type, None), builder.fadd if code < 2 else builder.add
    piece, step = 16 // BYTES[code], 1
    while step < n:
        if step < piece:
            # Within pieces of 128 bits lanes are shifted in one step.
            order = [lane - step if lane % piece >= step else n for lane in range(n)]
        else:
            # The last of a run of pieces is added to all of the next run.
            order = [lane // step * step - 1 if lane // step % 2 else n for lane in range(n)]
        if back:
            order = [n if lane == n else n - 1 - lane for lane in reversed(order)]
        value = plus(value, builder.shuffle_vector(value, none, _places(order)))
        step *= 2
    return value


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
