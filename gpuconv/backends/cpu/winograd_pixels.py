"""Pixels, vectors of neighbouring channels: transposes between them and rows of one channel, copies and fills.

All numbers are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.simd import (
    CODES,
    broadcast,
    constant,
    element_type,
    lanes_of,
    load_vector,
    prefetch,
    store_vector,
)

__all__ = [
    "LANES",
    "VECTOR",
    "copy_pixels",
    "fill_pixels",
    "gather_pixel",
    "load_pixel",
    "pixel_type",
    "plus",
    "store_pixel",
    "transpose",
    "transpose_evens",
    "transpose_part",
    "transpose_part_rows",
    "transpose_rows",
]

_F32 = CODES["float32"]
LANES = lanes_of(_F32)
VECTOR = 4 * LANES
_I32 = ir.IntType(32)
_I64 = types.int64


def pixel_type() -> Any:
    """Return the LLVM type of a pixel."""
    return ir.VectorType(element_type(_F32), LANES)


def load_pixel(builder: Any, address: Any) -> Any:
    """Load the pixel at an address."""
    return load_vector(builder, address, _F32, LANES)


def store_pixel(builder: Any, value: Any, address: Any) -> None:
    """Store a pixel."""
    store_vector(builder, value, address, _F32)


def plus(builder: Any, address: Any, step: Any, times: int) -> Any:
    """Return address + step * times."""
    return builder.add(address, builder.mul(step, constant(times))) if times else address


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a square of vectors by interleaves within and moves of 128-bit lanes."""

    def shuffle(a: Any, b: Any, mask: Sequence[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, LANES), list(mask)))

    lanes = range(0, LANES, 4)
    low = [k for i in lanes for k in (i, i + LANES, i + 1, i + 1 + LANES)]
    high = [k for i in lanes for k in (i + 2, i + 2 + LANES, i + 3, i + 3 + LANES)]
    low2 = [k for i in lanes for k in (i, i + 1, i + LANES, i + 1 + LANES)]
    high2 = [k + 2 for k in low2]
    groups: list[list[Any]] = []
    for g in range(0, LANES, 4):
        a, b, c, d = rows[g : g + 4]
        ab, cd = (shuffle(a, b, low), shuffle(a, b, high)), (shuffle(c, d, low), shuffle(c, d, high))
        groups.append([shuffle(ab[j // 2], cd[j // 2], high2 if j % 2 else low2) for j in range(4)])
    result: list[Any] = [None] * LANES
    for j in range(4):
        parts = [group[j] for group in groups]
        if len(parts) == 1:
            columns = parts
        elif len(parts) == 2:
            columns = [shuffle(parts[0], parts[1], [*range(k, k + 4), *range(k + 8, k + 12)]) for k in (0, 4)]
        else:
            near, far = [*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]
            first = [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)]
            second = [k + 4 for k in first]
            columns = []
            for half in (near, far):
                left, right = shuffle(parts[0], parts[1], half), shuffle(parts[2], parts[3], half)
                columns += [shuffle(left, right, first), shuffle(left, right, second)]
        for lane, column in enumerate(columns):
            result[4 * lane + j] = column
    return result


def _mask(builder: Any, count: Any) -> Any:
    """Return the vector of i < count."""
    vector = ir.VectorType(_I32, LANES)
    wanted = broadcast(builder, builder.trunc(count, _I32), LANES)
    return builder.icmp_signed("<", ir.Constant(vector, list(range(LANES))), wanted)


def _masked(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.v{LANES}f32.p0")
    return builder.call(function, arguments)


def _load_part(builder: Any, address: Any, mask: Any) -> Any:
    """Load the lanes of a mask; the others are 0, and their memory is not touched."""
    pointer = builder.inttoptr(address, pixel_type().as_pointer())
    return _masked(
        builder, "load", pixel_type(), [pointer, ir.Constant(_I32, 4), mask, ir.Constant(pixel_type(), None)]
    )


def _store_part(builder: Any, value: Any, address: Any, mask: Any) -> None:
    pointer = builder.inttoptr(address, pixel_type().as_pointer())
    _masked(builder, "store", ir.VoidType(), [value, pointer, ir.Constant(_I32, 4), mask])


@intrinsic
def transpose(typingctx: Any, to: Any, source: Any, step: Any, count: Any, ahead: Any) -> Any:
    """Transpose `count` squares side by side in rows `step` bytes apart into neighbouring pixels.

    What lies `ahead` bytes further in each row is prefetched.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, step, count, ahead = args
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(source, builder.mul(loop.index, constant(VECTOR)))
            goal = builder.add(to, builder.mul(loop.index, constant(LANES * VECTOR)))
            places = [plus(builder, start, step, r) for r in range(LANES)]
            rows = [load_pixel(builder, at) for at in places]
            with builder.if_then(builder.icmp_signed("!=", ahead, constant(0))):
                for at in places:
                    prefetch(builder, builder.add(at, ahead))
            for r, row in enumerate(_transposed(builder, rows)):
                store_pixel(builder, row, builder.add(goal, constant(r * VECTOR)))
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def transpose_rows(typingctx: Any, to: Any, to_step: Any, source: Any, count: Any) -> Any:
    """Transpose `count` squares of neighbouring pixels into rows `to_step` bytes apart."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, count = args
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(source, builder.mul(loop.index, constant(LANES * VECTOR)))
            goal = builder.add(to, builder.mul(loop.index, constant(VECTOR)))
            rows = [load_pixel(builder, builder.add(start, constant(r * VECTOR))) for r in range(LANES)]
            for r, row in enumerate(_transposed(builder, rows)):
                store_pixel(builder, row, plus(builder, goal, to_step, r))
        return context.get_dummy_value()

    return types.void(*[_I64] * 4), codegen


@intrinsic
def transpose_part(typingctx: Any, to: Any, source: Any, step: Any, rows: Any, count: Any) -> Any:
    """Transpose `count` elements of each of `rows` rows into pixels; all LANES pixels are written.

    The channels beyond `rows` repeat the last row; the pixels beyond `count` are 0.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, step, rows, count = args
        mask, last = _mask(builder, count), builder.sub(rows, constant(1))
        vectors = []
        for r in range(LANES):
            row = builder.select(builder.icmp_signed("<", constant(r), rows), constant(r), last)
            vectors.append(_load_part(builder, builder.add(source, builder.mul(row, step)), mask))
        for r, vector in enumerate(_transposed(builder, vectors)):
            store_pixel(builder, vector, builder.add(to, constant(r * VECTOR)))
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def transpose_part_rows(typingctx: Any, to: Any, to_step: Any, rows: Any, count: Any, source: Any) -> Any:
    """Transpose `count` neighbouring pixels into `rows` rows of `count` elements; LANES pixels are read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, rows, count, source = args
        vectors = [load_pixel(builder, builder.add(source, constant(r * VECTOR))) for r in range(LANES)]
        mask = _mask(builder, count)
        for r, vector in enumerate(_transposed(builder, vectors)):
            with builder.if_then(builder.icmp_signed("<", constant(r), rows)):
                _store_part(builder, vector, plus(builder, to, to_step, r), mask)
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def transpose_evens(typingctx: Any, to: Any, source: Any, step: Any, rows: Any, count: Any) -> Any:
    """Transpose every second element, `count` of them, of each of `rows` rows into pixels, as `transpose_part` does.

    Nothing beyond the last element is read.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, step, rows, count = args
        wanted, last = builder.sub(builder.mul(count, constant(2)), constant(1)), builder.sub(rows, constant(1))
        # Elements 0 to n - 1 and n - 1 to 2n - 2: the even ones of the first, and the odd places of the second.
        masks = _mask(builder, wanted), _mask(builder, builder.sub(wanted, constant(LANES - 1)))
        order = list(range(0, LANES, 2)) + list(range(LANES + 1, 2 * LANES, 2))
        evens = ir.Constant(ir.VectorType(_I32, LANES), order)
        vectors = []
        for r in range(LANES):
            row = builder.select(builder.icmp_signed("<", constant(r), rows), constant(r), last)
            at = builder.add(source, builder.mul(row, step))
            low = _load_part(builder, at, masks[0])
            high = _load_part(builder, builder.add(at, constant(4 * (LANES - 1))), masks[1])
            vectors.append(builder.shuffle_vector(low, high, evens))
        for r, vector in enumerate(_transposed(builder, vectors)):
            store_pixel(builder, vector, builder.add(to, constant(r * VECTOR)))
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def copy_pixels(typingctx: Any, to: Any, to_step: Any, source: Any, step: Any, count: Any, channels: Any) -> Any:
    """Copy `count` pixels of `channels` neighbouring channels; where all are there, whole vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, step, count, channels = args
        with builder.if_else(builder.icmp_signed("==", channels, constant(LANES))) as (whole, part):
            with whole, cgutils.for_range(builder, count) as loop:
                value = load_pixel(builder, builder.add(source, builder.mul(loop.index, step)))
                store_pixel(builder, value, builder.add(to, builder.mul(loop.index, to_step)))
            with part:
                mask = _mask(builder, channels)
                with cgutils.for_range(builder, count) as loop:
                    value = _load_part(builder, builder.add(source, builder.mul(loop.index, step)), mask)
                    _store_part(builder, value, builder.add(to, builder.mul(loop.index, to_step)), mask)
        return context.get_dummy_value()

    return types.void(*[_I64] * 6), codegen


@intrinsic
def fill_pixels(typingctx: Any, to: Any, count: Any, value: Any) -> Any:
    """Write a number to every channel of `count` neighbouring pixels."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, count, value = args
        vector = broadcast(builder, value, LANES)
        with cgutils.for_range(builder, count) as loop:
            store_pixel(builder, vector, builder.add(to, builder.mul(loop.index, constant(VECTOR))))
        return context.get_dummy_value()

    return types.void(_I64, _I64, types.float32), codegen


@intrinsic
def gather_pixel(typingctx: Any, to: Any, source: Any, step: Any, channels: Any) -> Any:
    """Copy `channels` numbers, `step` bytes apart, to neighbouring places."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, step, channels = args
        with cgutils.for_range(builder, channels) as loop:
            value = load_vector(builder, builder.add(source, builder.mul(loop.index, step)), _F32, 1)
            store_vector(builder, value, builder.add(to, builder.mul(loop.index, constant(4))), _F32)
        return context.get_dummy_value()

    return types.void(_I64, _I64, _I64, _I64), codegen
