"""The compiled kernel of an activation, one for each activation and dtype; sizes and strides are run-time values.

All of them but relu are x * F(x) with F between 0 and 1 and F(-x) = 1 - F(x). With u = |x|, F(-u) is computed to its
last places, however small: a share of exp(-u^2 / 2) for gelu, and exp(-u) / (1 + exp(-u)) for a sigmoid.
"""

from __future__ import annotations

import functools
import math
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, types
from numba.extending import intrinsic

from gpuconv.activation import NAMES
from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.conversions import narrow, widen
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.simd import constant, load_vector, multiply_add, store_vector

__all__ = ["PASS", "activating"]

PASS = record("address target count step block blocks lines of_task n0 n1 n2 n3 s0 s1 s2 s3")
"""One pass: runs of `count` elements `step` bytes apart, `lines` of them on four axes, `of_task` of them a task.

`target` is `address` again. If LLVM knew, it would store relu's zeros alone, by masks: slow on some processors.
"""

_KERNEL = types.void(types.CPointer(from_dtype(PASS)), types.int64, types.int64)
_BITS = {0: (23, 127), 1: (52, 1023)}
"""Of a float's code: bits of its fraction, and the bias of its exponent."""
_TERMS = {0: 7, 1: 13}
"""Powers of the exponential's series, whose argument is at most half of ln 2."""
_ZERO_FROM = {0: 120.0, 1: 800.0}
"""Arguments from here on have the exponential 0."""
_SERIES = {0: 12, 1: 24}
"""Terms of `_tail` that a float's precision asks for."""
_CENTRE = 4.0
_LN2 = Fraction(Decimal(2).ln(Context(prec=60)))


@functools.cache
def _tail(terms: int) -> list[float]:
    """Return (1 + u) * exp(u^2 / 2) * Phi(-u), for every u from 0 on, as a polynomial in (u - 4) / (u + 4).

    Its Chebyshev series, as far as there are terms; its coefficients have no sizes to cancel.
    """
    from scipy.special import erfcx

    count = max(_SERIES.values())
    angles = math.pi * (np.arange(count) + 0.5) / count
    place = np.cos(angles)
    u = _CENTRE * (1 + place) / (1 - place)
    values = (1 + u) * erfcx(u / math.sqrt(2)) / 2
    series = [float(2 / count * np.sum(values * np.cos(k * angles))) for k in range(count)]
    polynomial = np.polynomial.chebyshev.cheb2poly([series[0] / 2, *series[1:terms]])
    return [float(coefficient) for coefficient in polynomial]


class _Floats:
    """Emits arithmetic of n floats of a kind."""

    def __init__(self, builder: Any, code: int, n: int) -> None:
        self.builder, self.code, self.n = builder, code, n
        self.bits = ir.IntType(8 * simd.BYTES[code])

    def number(self, value: float) -> Any:
        """Return a constant, n times."""
        value = float(np.float32(value)) if self.code == 0 else value
        return simd.broadcast(self.builder, ir.Constant(simd.element_type(self.code), value), self.n)

    def whole(self, value: int) -> Any:
        """Return a constant of as many bits as a float has, n times."""
        return simd.broadcast(self.builder, ir.Constant(self.bits, value), self.n)

    def plus_product(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c."""
        return multiply_add(self.builder, a, b, c, self.code)

    def as_bits(self, value: Any) -> Any:
        """Return floats as integers of the same bits."""
        return self.builder.bitcast(value, self.bits if self.n == 1 else ir.VectorType(self.bits, self.n))

    def as_floats(self, value: Any) -> Any:
        """Return integers as floats of the same bits."""
        kind = simd.element_type(self.code)
        return self.builder.bitcast(value, kind if self.n == 1 else ir.VectorType(kind, self.n))

    def magnitude(self, value: Any) -> Any:
        """Return |value|."""
        every = (1 << 8 * simd.BYTES[self.code] - 1) - 1
        return self.as_floats(self.builder.and_(self.as_bits(value), self.whole(every)))

    def at_most(self, value: Any, limit: float) -> Any:
        """Return the value, or the limit where it is larger or NaN."""
        within = self.builder.fcmp_ordered("<", value, self.number(limit))
        return self.builder.select(within, value, self.number(limit))

    def exponential(self, t: Any) -> Any:
        """Return exp(-t) for t from 0 to a little over `_ZERO_FROM`: 2^k times a series in the rest, below ln 2 / 2."""
        builder, (fraction, bias) = self.builder, _BITS[self.code]
        # Adding it leaves a whole number in the lowest bits.
        shift = self.number(1.5 * 2.0**fraction)
        shifted = self.plus_product(t, self.number(-1 / math.log(2)), shift)
        k, power = builder.sub(self.as_bits(shifted), self.as_bits(shift)), builder.fsub(shifted, shift)
        # The product of the first part with any k is exact.
        places = 2 ** (14 if self.code == 0 else 40)
        first = Fraction(math.floor(_LN2 * places), places)
        rest = self.plus_product(power, self.number(-float(first)), builder.fneg(t))
        rest = self.plus_product(power, self.number(-float(_LN2 - first)), rest)
        value = self.number(1 / math.factorial(_TERMS[self.code]))
        for term in range(_TERMS[self.code] - 1, -1, -1):
            value = self.plus_product(value, rest, self.number(1 / math.factorial(term)))
        # In two steps, since 2^k may be less than any normal number.
        half = builder.ashr(k, self.whole(1))
        for part in (half, builder.sub(k, half)):
            bits = builder.shl(builder.add(part, self.whole(bias)), self.whole(fraction))
            value = builder.fmul(value, self.as_floats(bits))
        return value

    def sigmoid_times(self, x: Any, v: Any) -> Any:
        """Return x / (1 + exp(-v)), v of the sign of x."""
        builder = self.builder
        small = self.exponential(self.at_most(self.magnitude(v), _ZERO_FROM[self.code]))
        share = builder.fdiv(self.number(1.0), builder.fadd(self.number(1.0), small))
        below = builder.fcmp_ordered("<", x, self.number(0.0))
        return builder.fmul(x, builder.select(below, builder.fmul(small, share), share))

    def gelu(self, x: Any) -> Any:
        """Return x * Phi(x)."""
        builder = self.builder
        u = self.at_most(self.magnitude(x), math.sqrt(2 * _ZERO_FROM[self.code]))
        small = self.exponential(builder.fmul(builder.fmul(u, u), self.number(0.5)))
        place = builder.fdiv(builder.fsub(u, self.number(_CENTRE)), builder.fadd(u, self.number(_CENTRE)))
        *lower, highest = _tail(_SERIES[self.code])
        total = self.number(highest)
        for coefficient in reversed(lower):
            total = self.plus_product(total, place, self.number(coefficient))
        tail = builder.fdiv(builder.fmul(small, total), builder.fadd(self.number(1.0), u))
        below = builder.fcmp_ordered("<", x, self.number(0.0))
        return builder.select(below, builder.fmul(x, tail), builder.fsub(x, builder.fmul(u, tail)))

    def apply(self, name: str, x: Any) -> Any:
        """Return an activation of x."""
        builder = self.builder
        if name == "relu":
            return builder.select(builder.fcmp_ordered("<", x, self.number(0.0)), self.number(0.0), x)
        if name == "gelu":
            return self.gelu(x)
        if name == "silu":
            return self.sigmoid_times(x, x)
        scale = 2 * math.sqrt(2 / math.pi)
        square = builder.fmul(x, x)
        return self.sigmoid_times(
            x, builder.fmul(x, self.plus_product(square, self.number(0.044715 * scale), self.number(scale)))
        )


@intrinsic(prefer_literal=True)
def _activate_run(typingctx: Any, address: Any, to: Any, count: Any, step: Any, activation: Any, target: Any) -> Any:
    """Write the activation of `count` elements of type `target`, `step` bytes apart, to places as far apart."""
    name, t = NAMES[activation.literal_value], target.literal_value
    a = 1 if t == 1 else 0

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, to, count, step = args[:4]

        def elements(first: Any, number: Any, n: int) -> None:
            with simd.counted(builder, number) as index:
                at = builder.mul(builder.add(first, builder.mul(index, constant(n))), step)
                value = widen(builder, load_vector(builder, builder.add(address, at), t, n), t, a, n)
                value = _Floats(builder, a, n).apply(name, value)
                store_vector(builder, narrow(builder, value, a, t, n), builder.add(to, at), t)

        with builder.if_else(builder.icmp_signed("==", step, constant(simd.BYTES[t]))) as (dense, strided):
            with dense:
                n = simd.lanes_of(a)
                full = builder.sdiv(count, constant(n))
                elements(constant(0), full, n)
                done = builder.mul(full, constant(n))
                elements(done, builder.sub(count, done), 1)
            with strided:
                elements(constant(0), count, 1)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, activation, target), codegen


@functools.cache
def activating(activation: int, code: int) -> int:
    """Return the address of the kernel; a task is a block of one line, or some whole lines."""
    return int(_activating(activation, code, simd.BYTES[code], simd.source_version()).address)


def _activating(activation: int, code: int, size: int, version: int) -> Any:
    @cfunc(_KERNEL, cache=True, error_model="numpy")
    def activate(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        begin = task % p.blocks * p.block
        count = min(p.block, p.count - begin)
        line = task // p.blocks * p.of_task
        for i in range(line, min(line + p.of_task, p.lines)):
            rest = i
            at = begin * p.step + rest % p.n3 * p.s3
            rest = rest // p.n3
            at += rest % p.n2 * p.s2
            rest = rest // p.n2
            at += rest % p.n1 * p.s1 + rest // p.n1 * p.s0
            _activate_run(p.address + at, p.target + at, count, p.step, activation, code)

    return activate
