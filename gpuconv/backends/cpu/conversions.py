"""Conversions between the types of elements and those of sums, on vectors and single numbers.

Half precision is converted by integer arithmetic on the bits: exact, and the same on every host.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gpuconv.backends.cpu.simd import BYTES, CODES, I16, I32, I64, UNSIGNED, element_type, shaped, splat

__all__ = ["narrow", "widen"]


def widen(builder: Any, value: Any, source: int, accumulator: int, n: int) -> Any:
    """Convert what was loaded as `source` into the type of the sums."""
    if source == accumulator:
        return value
    i32, f32 = shaped(I32, n), shaped(ir.FloatType(), n)
    if source in (4, 5) and accumulator == 1:
        return builder.fpext(widen(builder, value, source, 0, n), shaped(ir.DoubleType(), n))
    if source == CODES["bfloat16"]:
        return builder.bitcast(builder.shl(builder.zext(value, i32), splat(i32, 16)), f32)
    if source == CODES["float16"]:
        bits = builder.zext(value, i32)
        sign = builder.shl(builder.and_(bits, splat(i32, 0x8000)), splat(i32, 16))
        magnitude = builder.shl(builder.and_(bits, splat(i32, 0x7FFF)), splat(i32, 13))
        # As a float the shifted bits have an exponent 112 too small, subnormals included; infinity and NaN are apart.
        finite = builder.bitcast(builder.fmul(builder.bitcast(magnitude, f32), splat(f32, 2.0**112)), i32)
        special = builder.icmp_unsigned(">=", magnitude, splat(i32, 0x7C00 << 13))
        chosen = builder.select(special, builder.or_(magnitude, splat(i32, 0x7F800000)), finite)
        return builder.bitcast(builder.or_(chosen, sign), f32)
    target = shaped(element_type(accumulator), n)
    if accumulator in (0, 1):
        if source in (0, 1):
            return builder.fpext(value, target) if accumulator == 1 else builder.fptrunc(value, target)
        return builder.uitofp(value, target) if source in UNSIGNED else builder.sitofp(value, target)
    if BYTES[source] == BYTES[accumulator]:
        return value
    if BYTES[source] > BYTES[accumulator]:
        return builder.trunc(value, target)
    return builder.zext(value, target) if source in UNSIGNED else builder.sext(value, target)


def narrow(builder: Any, value: Any, accumulator: int, target: int, n: int) -> Any:
    """Convert a sum into the type of the result.

    Floats round to nearest even, and lose their fraction on their way into integers; integers wrap around.
    """
    if target == accumulator:
        return value
    if accumulator in (0, 1) and target in (0, 1):
        type_ = shaped(element_type(target), n)
        return builder.fpext(value, type_) if target == 1 else builder.fptrunc(value, type_)
    if accumulator in (0, 1) and target not in (4, 5):
        # Vectors of floats become int32 in one step, where int64 are converted one by one; C converts to short integers
        # in the same way.
        whole = builder.fptosi(value, shaped(I32 if BYTES[target] < 4 else I64, n))
        return whole if BYTES[target] == 8 else builder.trunc(whole, shaped(element_type(target), n))
    if target not in (4, 5) and BYTES[target] == BYTES[accumulator]:
        return value
    if target not in (4, 5):
        type_ = shaped(element_type(target), n)
        if BYTES[target] < BYTES[accumulator]:
            return builder.trunc(value, type_)
        return builder.sext(value, type_)
    i16, i32, f32 = shaped(I16, n), shaped(I32, n), shaped(ir.FloatType(), n)
    bits = builder.bitcast(value, i32)
    sign = builder.lshr(builder.and_(bits, splat(i32, 0x80000000)), splat(i32, 16))
    magnitude = builder.and_(bits, splat(i32, 0x7FFFFFFF))
    is_nan = builder.icmp_unsigned(">", magnitude, splat(i32, 0x7F800000))
    drop = 16 if target == CODES["bfloat16"] else 13
    odd = builder.and_(builder.lshr(magnitude, splat(i32, drop)), splat(i32, 1))
    if target == CODES["bfloat16"]:
        rounded = builder.lshr(builder.add(magnitude, builder.add(odd, splat(i32, 0x7FFF))), splat(i32, 16))
        quiet = builder.or_(builder.lshr(magnitude, splat(i32, 16)), splat(i32, 0x40))
        chosen = builder.select(is_nan, quiet, rounded)
    else:
        rebased = builder.add(magnitude, splat(i32, (-112 << 23) & 0xFFFFFFFF))
        normal = builder.lshr(builder.add(rebased, builder.add(odd, splat(i32, 0xFFF))), splat(i32, 13))
        # Adding 0.5 lets the float unit round a subnormal result to its last place.
        half = splat(i32, 126 << 23)
        shifted = builder.fadd(builder.bitcast(magnitude, f32), builder.bitcast(half, f32))
        subnormal = builder.sub(builder.bitcast(shifted, i32), half)
        chosen = builder.select(builder.icmp_unsigned("<", magnitude, splat(i32, 113 << 23)), subnormal, normal)
        overflow = builder.icmp_unsigned(">=", magnitude, splat(i32, 143 << 23))
        chosen = builder.select(overflow, splat(i32, 0x7C00), chosen)
        chosen = builder.select(is_nan, splat(i32, 0x7E00), chosen)
    return builder.trunc(builder.or_(chosen, sign), i16)
