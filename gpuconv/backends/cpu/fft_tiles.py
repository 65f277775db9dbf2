"""Transforms of tiles that stay in cache, as Numba intrinsics over LLVM vectors.

A tile is two planes of numbers, real and imaginary parts. Passes work on whole vectors of neighbouring elements along
the last axis, so one transform of a pass is `lanes` transforms at once. The last axis, of n = lanes * m elements, is a
transform of length m across its vectors, then one of length `lanes` inside each (`lane_transform`). Decimation in
frequency forward and in time backward: the spectrum's order is whatever falls out, the same for inputs and weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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
    registers,
    store_vector,
)

__all__ = [
    "call_kernel",
    "group_of",
    "lane_transform",
    "largest_radix",
    "transform_pass",
]


def largest_radix() -> int:
    """Return the radix of most passes: what the registers hold."""
    return 8 if registers() == 32 else 4


def _split(n: int) -> tuple[int, int]:
    """Return (a, b): a vector of n = a * b lanes is transformed over blocks of b lanes, then inside the blocks."""
    b = min(n, 4)
    return n // b, b


def group_of(code: int) -> int:
    """Return the vectors that `lane_transform` takes together: a row has a multiple of them."""
    return max(_split(lanes_of(code)))


class _Complex:
    """Arithmetic on pairs (real, imaginary) of LLVM vectors; the direction is the sign of the exponent."""

    def __init__(self, builder: Any, code: int, n: int, *, inverse: bool) -> None:
        self.b, self.code, self.n, self.inverse = builder, code, n, inverse
        self.type = ir.VectorType(element_type(code), n)

    def splat(self, value: float) -> Any:
        return ir.Constant(self.type, [ir.Constant(self.type.element, value)] * self.n)

    def add(self, x: Any, y: Any) -> Any:
        return tuple(self.b.fadd(p, q) for p, q in zip(x, y, strict=True))

    def sub(self, x: Any, y: Any) -> Any:
        return tuple(self.b.fsub(p, q) for p, q in zip(x, y, strict=True))

    def multiply(self, x: Any, w: Any, *, conjugate: bool = False) -> Any:
        """Return x * w, or x * conj(w)."""
        (a, b), (c, d) = x, w
        minus_b = self.b.fneg(b)
        re = multiply_add(self.b, b if conjugate else minus_b, d, self.b.fmul(a, c), self.code)
        im = multiply_add(self.b, b, c, self.b.fmul(self.b.fneg(a) if conjugate else a, d), self.code)
        return re, im

    def turn(self, x: Any) -> Any:
        """Return x times exp(-i pi/2), exp(i pi/2) backward."""
        a, b = x
        return (self.b.fneg(b), a) if self.inverse else (b, self.b.fneg(a))

    def add_turned(self, x: Any, y: Any, *, minus: bool) -> Any:
        """Return x plus or minus the turned y."""
        (a, b), (c, d) = x, y
        if minus != self.inverse:
            return self.b.fsub(a, d), self.b.fadd(b, c)
        return self.b.fadd(a, d), self.b.fsub(b, c)

    def scale(self, x: Any, value: float) -> Any:
        return tuple(self.b.fmul(p, self.splat(value)) for p in x)

    def dft(self, x: list[Any]) -> list[Any]:
        """Return the transform of 1, 2, 3, 4 or 8 numbers."""
        if len(x) == 1:
            return x
        if len(x) == 2:
            return [self.add(x[0], x[1]), self.sub(x[0], x[1])]
        if len(x) == 3:
            total = self.add(x[1], x[2])
            middle = tuple(
                multiply_add(self.b, self.splat(-0.5), t, p, self.code) for t, p in zip(total, x[0], strict=True)
            )
            side = self.scale(self.sub(x[1], x[2]), math.sqrt(0.75))
            return [
                self.add(x[0], total),
                self.add_turned(middle, side, minus=False),
                self.add_turned(middle, side, minus=True),
            ]
        if len(x) == 4:
            p, q = self.add(x[0], x[2]), self.sub(x[0], x[2])
            r, s = self.add(x[1], x[3]), self.sub(x[1], x[3])
            return [
                self.add(p, r),
                self.add_turned(q, s, minus=False),
                self.sub(p, r),
                self.add_turned(q, s, minus=True),
            ]
        even, odd = self.dft(x[0::2]), self.dft(x[1::2])
        half = math.sqrt(0.5)
        first = self.scale(self.add_turned(odd[1], odd[1], minus=False), half)
        # third is odd[3] * exp(-3i pi/4): the turned number minus the number, over the root of 2.
        third = self.scale(self.sub(self.turn(odd[3]), odd[3]), half)
        low = [
            self.add(even[0], odd[0]),
            self.add(even[1], first),
            self.add_turned(even[2], odd[2], minus=False),
            self.add(even[3], third),
        ]
        high = [
            self.sub(even[0], odd[0]),
            self.sub(even[1], first),
            self.add_turned(even[2], odd[2], minus=True),
            self.sub(even[3], third),
        ]
        return low + high


@intrinsic(prefer_literal=True)
def transform_pass(
    typingctx: Any,
    re: Any,
    im: Any,
    blocks: Any,
    block_bytes: Any,
    leg_bytes: Any,
    count: Any,
    step_bytes: Any,
    inner: Any,
    inner_bytes: Any,
    twiddles: Any,
    radix: Any,
    has_twiddles: Any,
    inverse: Any,
    code: Any,
) -> Any:
    """Run one pass: transforms of length `radix` over places `leg_bytes` apart, times their twiddles.

    For each of `blocks` blocks and each j below `count` (`step_bytes` apart) the same radix - 1 twiddles serve `inner`
    places `inner_bytes` apart. Forward multiplies after the transform, backward before it by the conjugates.
    """
    r, twiddled, backward, a = (v.literal_value for v in (radix, has_twiddles, inverse, code))
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        re, im, blocks, block_bytes, leg_bytes, count, step_bytes, inner, inner_bytes, twiddles = args[:10]
        c = _Complex(builder, a, n, inverse=bool(backward))
        legs = [builder.mul(leg_bytes, constant(q)) for q in range(r)]
        with cgutils.for_range(builder, blocks) as block:
            block_start = builder.mul(block.index, block_bytes)
            with cgutils.for_range(builder, count) as j:
                start = builder.add(block_start, builder.mul(j.index, step_bytes))
                factors = []
                if twiddled:
                    at = builder.add(twiddles, builder.mul(j.index, constant(2 * (r - 1) * size)))
                    scalars = [
                        load_vector(builder, builder.add(at, constant(i * size)), a, 1) for i in range(2 * (r - 1))
                    ]
                    vectors = [broadcast(builder, s, n) for s in scalars]
                    factors = [(vectors[2 * i], vectors[2 * i + 1]) for i in range(r - 1)]
                with cgutils.for_range(builder, inner) as place:
                    here = builder.add(start, builder.mul(place.index, inner_bytes))
                    places = [tuple(builder.add(plane, builder.add(here, leg)) for plane in (re, im)) for leg in legs]
                    values: list[Any] = [
                        tuple(load_vector(builder, address, a, n) for address in pair) for pair in places
                    ]
                    if twiddled and backward:
                        values[1:] = [
                            c.multiply(v, w, conjugate=True) for v, w in zip(values[1:], factors, strict=True)
                        ]
                    values = c.dft(values)
                    if twiddled and not backward:
                        values[1:] = [c.multiply(v, w) for v, w in zip(values[1:], factors, strict=True)]
                    for pair, value in zip(places, values, strict=True):
                        for address, part in zip(pair, value, strict=True):
                            store_vector(builder, part, address, a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 10, radix, has_twiddles, inverse, code), codegen


def _exchange(builder: Any, x: Any, y: Any, n: int, bit: int) -> Any:
    """Exchange the bit that tells x from y with one bit of the lane number."""
    m = 1 << bit
    first = [lane if not lane & m else n + (lane ^ m) for lane in range(n)]
    second = [lane | m if not lane & m else n + lane for lane in range(n)]
    i32 = ir.IntType(32)
    return tuple(builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(i32, n), mask)) for mask in (first, second))


def _transpose(builder: Any, values: list[Any], n: int, low: int, bits: int) -> list[Any]:
    """Exchange the lowest `bits` bits of the vectors' numbers with bits low, low + 1, ... of the lane number."""
    values = list(values)
    for bit in range(bits):
        for i in range(len(values)):
            j = i | 1 << bit
            if j != i:
                pairs = [_exchange(builder, p, q, n, low + bit) for p, q in zip(values[i], values[j], strict=True)]
                values[i], values[j] = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    return values


@intrinsic(prefer_literal=True)
def lane_transform(
    typingctx: Any, re: Any, im: Any, groups: Any, table: Any, w: Any, w_im: Any, mode: Any, code: Any
) -> Any:
    """Transform inside the vectors, `groups` groups of consecutive ones, in place.

    Parameters
    ----------
    re, im, table, w, w_im : int64
        Addresses: the planes, the twiddles (a real and an imaginary vector for each vector), a spectrum's planes.
    mode : literal int
        0: forward; 1: forward, times the spectrum, backward; 2: backward.
    """
    kind, a = mode.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]
    blocks, width = _split(n)
    number = max(blocks, width)
    block_bits, width_bits = blocks.bit_length() - 1, width.bit_length() - 1
    lane = np.arange(n) % width
    vector_bytes = n * size

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        re, im, groups, table, w, w_im = args[:6]
        forward, backward = (_Complex(builder, a, n, inverse=i) for i in (False, True))

        def factor(q: int) -> Any:
            angle = -2 * np.pi * lane * q / n
            kind = forward.type
            return tuple(
                ir.Constant(kind, [ir.Constant(kind.element, float(v)) for v in part])
                for part in (np.cos(angle), np.sin(angle))
            )

        def each(c: Any, values: list[Any], radix: int) -> list[Any]:
            return [v for i in range(0, number, radix) for v in c.dft(values[i : i + radix])]

        with cgutils.for_range(builder, groups) as loop:
            start = builder.mul(loop.index, constant(number * vector_bytes))
            places = [
                tuple(builder.add(plane, builder.add(start, constant(i * vector_bytes))) for plane in (re, im))
                for i in range(number)
            ]
            at = builder.add(table, builder.mul(loop.index, constant(2 * number * vector_bytes)))
            twiddles = [
                tuple(
                    load_vector(builder, builder.add(at, constant((2 * i + part) * vector_bytes)), a, n)
                    for part in (0, 1)
                )
                for i in range(number)
            ]
            values: list[Any] = [tuple(load_vector(builder, p, a, n) for p in pair) for pair in places]
            if kind in (0, 1):
                values = [forward.multiply(v, t) for v, t in zip(values, twiddles, strict=True)]
                values = _transpose(builder, values, n, width_bits, block_bits)
                values = each(forward, values, blocks)
                values = [forward.multiply(v, factor(i % blocks)) if i % blocks else v for i, v in enumerate(values)]
                values = _transpose(builder, values, n, 0, width_bits)
                values = each(forward, values, width)
            if kind == 1:
                spectrum = [
                    tuple(
                        load_vector(builder, builder.add(plane, builder.add(start, constant(i * vector_bytes))), a, n)
                        for plane in (w, w_im)
                    )
                    for i in range(number)
                ]
                values = [forward.multiply(v, s) for v, s in zip(values, spectrum, strict=True)]
            if kind in (1, 2):
                values = each(backward, values, width)
                values = _transpose(builder, values, n, 0, width_bits)
                values = [
                    backward.multiply(v, factor(i % blocks), conjugate=True) if i % blocks else v
                    for i, v in enumerate(values)
                ]
                values = each(backward, values, blocks)
                values = _transpose(builder, values, n, width_bits, block_bits)
                values = [backward.multiply(v, t, conjugate=True) for v, t in zip(values, twiddles, strict=True)]
            for pair, value in zip(places, values, strict=True):
                for address, part in zip(pair, value, strict=True):
                    store_vector(builder, part, address, a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, mode, code), codegen


@intrinsic
def call_kernel(typingctx: Any, kernel: Any, first: Any, second: Any, third: Any) -> Any:
    """Call the kernel at an address, which takes three int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        function = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), [i64] * 3).as_pointer())
        builder.call(function, args[1:])
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64), codegen
