"""Rows of numbers on their way to and from tiles, and spectra multiplied, as Numba intrinsics over LLVM vectors."""

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
    lanes_of,
    load_vector,
    multiply_add,
    store_vector,
)

__all__ = ["accumulate_product", "are_finite", "copy_alternate", "interleave"]


@intrinsic(prefer_literal=True)
def accumulate_product(
    typingctx: Any, to: Any, x: Any, w: Any, plane: Any, vectors: Any, is_first: Any, code: Any
) -> Any:
    """Add the product of the spectra x and w to a third, or write it there; imaginary parts lie `plane` bytes on."""
    a = code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, x, w, plane, vectors, is_first = args[:6]
        zero = ir.Constant(ir.VectorType(element_type(a), n), None)
        fresh = builder.icmp_signed("!=", is_first, constant(0))
        with cgutils.for_range(builder, vectors) as loop:
            i = builder.mul(loop.index, constant(n * size))
            (p, q), (c, d), (s, t) = (
                [load_vector(builder, builder.add(builder.add(start, i), part), a, n) for part in (constant(0), plane)]
                for start in (x, w, to)
            )
            s, t = (builder.select(fresh, zero, v) for v in (s, t))
            s = multiply_add(builder, p, c, s, a)
            t = multiply_add(builder, p, d, t, a)
            s = multiply_add(builder, builder.fneg(q), d, s, a)
            t = multiply_add(builder, q, c, t, a)
            for value, part in ((s, constant(0)), (t, plane)):
                store_vector(builder, value, builder.add(builder.add(to, i), part), a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, code), codegen


@intrinsic(prefer_literal=True)
def are_finite(typingctx: Any, address: Any, vectors: Any, code: Any) -> Any:
    """Return 1 if every number of some consecutive vectors is finite, else 0."""
    a = code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, vectors = args[:2]
        type_ = ir.VectorType(element_type(a), n)
        zero = ir.Constant(type_, None)
        slot = cgutils.alloca_once(builder, type_)
        builder.store(zero, slot)
        with cgutils.for_range(builder, vectors) as loop:
            value = load_vector(builder, builder.add(address, builder.mul(loop.index, constant(n * size))), a, n)
            # 0 times an infinity or NaN is NaN, and stays.
            builder.store(multiply_add(builder, value, zero, builder.load(slot), a), slot)
        good = builder.fcmp_ordered("==", builder.load(slot), zero)
        bits = builder.bitcast(good, ir.IntType(n))
        full = builder.icmp_unsigned("==", bits, ir.Constant(ir.IntType(n), (1 << n) - 1))
        return builder.zext(full, ir.IntType(64))

    return types.int64(types.int64, types.int64, code), codegen


@intrinsic(prefer_literal=True)
def copy_alternate(typingctx: Any, to: Any, address: Any, count: Any, code: Any) -> Any:
    """Copy every other of some numbers to consecutive places: one part of complex numbers."""
    a = code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, address, count = args[:3]
        even = ir.Constant(ir.VectorType(ir.IntType(32), n), list(range(0, 2 * n, 2)))
        # The last number is copied apart: nothing beyond it may be read.
        whole = builder.sdiv(builder.sub(count, constant(1)), constant(n))
        whole = builder.select(builder.icmp_signed(">", count, constant(0)), whole, constant(0))
        with cgutils.for_range(builder, whole) as loop:
            at = builder.add(address, builder.mul(loop.index, constant(2 * n * size)))
            low, high = (load_vector(builder, builder.add(at, constant(i * n * size)), a, n) for i in (0, 1))
            place = builder.add(to, builder.mul(loop.index, constant(n * size)))
            store_vector(builder, builder.shuffle_vector(low, high, even), place, a)
        done = builder.mul(whole, constant(n))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            i = builder.add(done, loop.index)
            value = load_vector(builder, builder.add(address, builder.mul(i, constant(2 * size))), a, 1)
            store_vector(builder, value, builder.add(to, builder.mul(i, constant(size))), a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, code), codegen


@intrinsic(prefer_literal=True)
def interleave(typingctx: Any, to: Any, re: Any, im: Any, count: Any, bias_re: Any, bias_im: Any, code: Any) -> Any:
    """Write complex numbers, plus a bias, from their parts."""
    a = code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, re, im, count, bias_re, bias_im = args[:6]

        def parts(i: Any, width: int) -> list[Any]:
            at = builder.mul(i, constant(size))
            return [
                builder.fadd(load_vector(builder, builder.add(plane, at), a, width), broadcast(builder, bias, width))
                for plane, bias in ((re, bias_re), (im, bias_im))
            ]

        masks = [
            ir.Constant(ir.VectorType(ir.IntType(32), n), [first + i // 2 + n * (i % 2) for i in range(n)])
            for first in (0, n // 2)
        ]
        whole = builder.sdiv(count, constant(n))
        with cgutils.for_range(builder, whole) as loop:
            i = builder.mul(loop.index, constant(n))
            values = parts(i, n)
            place = builder.add(to, builder.mul(i, constant(2 * size)))
            for half, mask in enumerate(masks):
                value = builder.shuffle_vector(*values, mask)
                store_vector(builder, value, builder.add(place, constant(half * n * size)), a)
        done = builder.mul(whole, constant(n))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            i = builder.add(done, loop.index)
            place = builder.add(to, builder.mul(i, constant(2 * size)))
            for half, value in enumerate(parts(i, 1)):
                store_vector(builder, value, builder.add(place, constant(half * size)), a)
        return context.get_dummy_value()

    i64 = types.int64
    number = (types.float32, types.float64)[a]
    return types.void(i64, i64, i64, i64, number, number, code), codegen
