"""Weighted means of bytes in fixed point, two passes along the axes of an image: what `separable` calls for them.

Weights are whole multiples of 2**-29, in two halves of 15 bits: products of 16 bits are added in pairs into sums of 32,
twice as many at a time as floats, and four times as many as float64. A mean loses its fraction, so it is what SciPy's
sums in float64 give unless it lies within the weights' rounding of a whole number; there it is summed in float64.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import read
from gpuconv.backends.cpu.simd import CODES, I16, I32, broadcast, constant, counted, load_vector, splat, store_vector

__all__ = ["MOST_TAPS", "across", "down", "fixed_weights", "rows_down"]

MOST_TAPS = 255
"""Weights along an axis whose rounding moves a sum by less than the upper bits tell of what is near a whole number."""
_FRACTION, _LOW = 29, 15
"""Bits of a weight, and of its lower half, which has a sign."""
_HIGH = _FRACTION - _LOW
_HEADER, _PAIR_BYTES = 40, 16
_U16, _F64, _WHOLE = CODES["uint16"], CODES["float64"], CODES["int32"]
_WIDTH = 2
"""Vectors of 16 bits of a tile along rows."""


def rows_down() -> int:
    """Return how many rows of outputs a tile down columns has, as many as leave registers for what they share."""
    return 4 if simd.registers() == 32 else 2


def fixed_weights(vector: Any) -> Any:
    """Return what tiles read of the weights along an axis: float64, at least 0, in all about 1 at most.

    A header of int64: the number of taps, how far a sum may be from the true one, in units of 2**-32, whether a whole
    sum is exact, and the offsets of what follows: of each second tap the pair of it and the next, and of the one before
    and it, in upper and lower halves; and the weights as they are.
    """
    taps, scale = vector.size, 2.0**_FRACTION
    whole = np.rint(vector * scale).astype(np.int64)
    is_symmetric = bool((vector == vector[::-1]).all())
    if is_symmetric:
        # The middle takes up what rounding changed in the sum, so that equal bytes, and ramps of them, stay whole.
        change = round(math.fsum(vector) * scale) - int(whole.sum())
        middle = whole[(taps - 1) // 2 : taps // 2 + 1]
        middle += change // middle.size
    is_exact = is_symmetric and int(whole.sum()) == 1 << _FRACTION and math.fsum(vector) >= 1
    # A sum without weights that became 0 may be whole where the true one is not.
    is_exact = is_exact and not ((whole == 0) & (vector != 0)).any()
    bound = math.ceil(255 * float(np.abs(vector * scale - whole).sum())) + 1
    high = (whole + (1 << _LOW - 1)) >> _LOW
    halves = np.zeros((2, 2 * (taps // 2) + 4), np.int64)
    halves[:, 1 : taps + 1] = high, whole - (high << _LOW)
    count = taps // 2 + 1
    pairs = np.zeros((count, 4, 2), np.int16)
    for parity in range(2):
        for half in range(2):
            begin = 1 - parity
            pairs[:, 2 * parity + half] = halves[half, begin : begin + 2 * count].reshape(count, 2)
    header = [taps, bound << 32 - _FRACTION, int(is_exact), _HEADER, _HEADER + count * _PAIR_BYTES]
    words = np.zeros(_HEADER // 8 + count * _PAIR_BYTES // 8 + taps, np.int64)
    words[:5] = header
    words[5 : 5 + count * 2] = pairs.reshape(-1).view(np.int64)
    words[5 + count * 2 :] = np.ascontiguousarray(vector, np.float64).view(np.int64)
    return words


@functools.cache
def down(rows: int) -> int:
    """Return the address of the function that sums columns for some rows of outputs."""
    return int(_function(rows, simd.source_version()).address)


@functools.cache
def across() -> int:
    """Return the address of the function that sums along a row."""
    return int(_function(0, simd.source_version()).address)


def _function(rows: int, version: int) -> Any:
    @cfunc(types.void(types.int64), cache=True, error_model="numpy")
    def compute(a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        _sums(read(a), read(a + 8), read(a + 16), read(a + 24), read(a + 56), read(a + 64), rows)

    return compute


@intrinsic(prefer_literal=True)
def _sums(typingctx: Any, y: Any, y_step: Any, x: Any, row_step: Any, w: Any, count: Any, rows: Any) -> Any:
    """Write means of bytes, which lie in 16 bits each, without their fraction.

    The arguments are those of `stencil_tiles`. Whole vectors of x are read and of y written, along rows up to an even
    number of them.

    Parameters
    ----------
    y, x : int64
        Addresses, of the first row where there are several.
    y_step, row_step : int64
        Bytes from row to row.
    w : int64
        Address of what `fixed_weights` returns.
    count : int64
        Outputs of a row.
    rows : literal int
        Rows of outputs summed down columns; 0 for one that is summed along itself.
    """
    height, n = rows.literal_value, simd.lanes_of(_WHOLE)
    wide, pair_type = ir.VectorType(I16, 2 * n), ir.VectorType(I32, n)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, y_step, x, row_step, w, count = args[:6]
        taps, bound, is_exact, pairs_at, weights_at = (
            load_vector(builder, builder.add(w, constant(8 * i)), 3, 1) for i in range(5)
        )
        pairs, weights, half = builder.add(w, pairs_at), builder.add(w, weights_at), builder.lshr(taps, constant(1))
        zero = splat(pair_type, 0)

        def elements(address: Any) -> Any:
            return load_vector(builder, address, _U16, 2 * n)

        def weight(index: Any, parity: int, part: int) -> Any:
            place = builder.add(pairs, builder.mul(index, constant(_PAIR_BYTES)))
            place = builder.add(place, constant(8 * parity + 4 * part))
            return broadcast(builder, load_vector(builder, place, _WHOLE, 1), n)

        def new_sums(number: int) -> list[list[Any]]:
            slots = [[cgutils.alloca_once(builder, pair_type) for _ in range(number)] for _ in range(2)]
            for slot in slots[0] + slots[1]:
                builder.store(zero, slot)
            return slots

        def add(slots: list[list[Any]], place: int, inputs: Any, index: Any, parity: int) -> None:
            for part, row in enumerate(slots):
                product = _pair_products(builder, inputs, weight(index, parity, part))
                builder.store(builder.add(builder.load(row[place]), product), row[place])

        def finish(slots: list[list[Any]], places: list[Any], source: Any, step: Any) -> None:
            """Write sums, of which each place takes two vectors: those at even places and those at odd ones.

            Where the sums are columns', their first inputs lie below those of the first place; else after them.
            """
            number = 2 * len(places)
            sums, lows = ([builder.load(slot) for slot in row] for row in slots)
            sums = [
                builder.add(high, builder.ashr(low, splat(pair_type, _LOW)))
                for high, low in zip(sums, lows, strict=True)
            ]
            for i, place in enumerate(places):
                even, odd = (builder.lshr(value, splat(pair_type, _HIGH)) for value in sums[2 * i : 2 * i + 2])
                both = builder.or_(even, builder.shl(odd, splat(pair_type, 16)))
                store_vector(builder, builder.bitcast(both, wide), place, _U16)
            # Whether all upper bits of a fraction are alike but the last, in any lane of any vector.
            mask = splat(pair_type, (1 << _HIGH) - 2)
            ends = [
                builder.icmp_signed("==", builder.and_(builder.add(value, splat(pair_type, 1)), mask), zero)
                for value in sums
            ]
            kept = cgutils.alloca_once(builder, ir.ArrayType(pair_type, 2 * number))
            starts = cgutils.alloca_once(builder, ir.ArrayType(simd.I64, len(places)))
            with builder.if_then(_any(builder, functools.reduce(builder.or_, ends)), likely=False):
                kept_at, starts_at = (builder.ptrtoint(array, simd.I64) for array in (kept, starts))
                for i, value in enumerate([*sums, *lows]):
                    store_vector(builder, value, builder.add(kept_at, constant(4 * n * i)), _WHOLE)
                for i, place in enumerate(places):
                    store_vector(builder, place, builder.add(starts_at, constant(8 * i)), 3)
                with counted(builder, constant(number)) as index:
                    at = builder.add(kept_at, builder.mul(index, constant(4 * n)))
                    value, low = (
                        load_vector(builder, builder.add(at, constant(4 * n * i)), _WHOLE, n) for i in (0, number)
                    )
                    which, parity = builder.lshr(index, constant(1)), builder.and_(index, constant(1))
                    begin = load_vector(builder, builder.add(starts_at, builder.shl(which, constant(3))), 3, 1)
                    input_step = row_step if height else constant(4 * n)
                    first = builder.add(source, builder.mul(which, input_step))
                    is_near = near(value, low)
                    with builder.if_then(_any(builder, is_near), likely=False), counted(builder, constant(n)) as lane:
                        is_one = builder.extract_element(is_near, builder.trunc(lane, I32))
                        offset = builder.add(builder.shl(lane, constant(2)), builder.shl(parity, constant(1)))
                        with builder.if_then(is_one):
                            again(builder.add(first, offset), builder.add(begin, offset), step)

        def near(value: Any, low: Any) -> Any:
            """Return in which lanes the sum is so near to a whole number that the true one may be beyond it."""
            rest = builder.and_(low, splat(pair_type, (1 << _LOW) - 1))
            fraction = builder.or_(
                builder.shl(value, splat(pair_type, 32 - _HIGH)), builder.shl(rest, splat(pair_type, 32 - _FRACTION))
            )
            least = broadcast(builder, builder.trunc(bound, I32), n)
            is_near = builder.icmp_unsigned("<=", builder.add(fraction, least), builder.add(least, least))
            is_sure = broadcast(builder, builder.trunc(is_exact, ir.IntType(1)), n)
            is_sure = builder.and_(is_sure, builder.icmp_signed("==", fraction, zero))
            return builder.and_(is_near, builder.not_(is_sure))

        def again(source: Any, target: Any, step: Any) -> None:
            """Sum up one output in float64."""
            total = cgutils.alloca_once(builder, ir.DoubleType())
            builder.store(ir.Constant(ir.DoubleType(), 0.0), total)
            with counted(builder, taps) as k:
                value = load_vector(builder, builder.add(source, builder.mul(k, step)), _U16, 1)
                by = load_vector(builder, builder.add(weights, builder.mul(k, constant(8))), _F64, 1)
                product = builder.fmul(by, builder.uitofp(value, ir.DoubleType()))
                builder.store(builder.fadd(builder.load(total), product), total)
            whole = builder.fptoui(builder.load(total), I32)
            store_vector(builder, builder.trunc(whole, I16), target, _U16)

        def columns(first: Any) -> None:
            """Compute a vector of each row."""
            at = builder.mul(first, constant(4 * n))
            corner, to = builder.add(x, at), builder.add(y, at)
            slots = new_sums(2 * height)

            def meet(pair: Any, active: list[int]) -> None:
                row = builder.add(corner, builder.mul(pair, builder.mul(row_step, constant(2))))
                upper, lower = (builder.bitcast(elements(at), pair_type) for at in (row, builder.add(row, row_step)))
                inputs = [
                    builder.or_(
                        builder.and_(upper, splat(pair_type, 0xFFFF)), builder.shl(lower, splat(pair_type, 16))
                    ),
                    builder.or_(
                        builder.lshr(upper, splat(pair_type, 16)), builder.and_(lower, splat(pair_type, 0xFFFF0000))
                    ),
                ]
                for r in active:
                    index = builder.sub(pair, constant(r // 2))
                    for side in range(2):
                        add(slots, 2 * r + side, inputs[side], index, r % 2)

            if height == 4:
                meet(constant(0), [0, 1])
                with counted(builder, half) as index:
                    meet(builder.add(index, constant(1)), [0, 1, 2, 3])
                meet(builder.add(half, constant(1)), [2, 3])
            else:
                with counted(builder, builder.add(half, constant(1))) as index:
                    meet(index, list(range(height)))

            finish(slots, [builder.add(to, builder.mul(y_step, constant(r))) for r in range(height)], corner, row_step)

        def along(first: Any) -> None:
            """Compute `_WIDTH` vectors of a row."""
            at = builder.mul(first, constant(4 * n * _WIDTH))
            corner, to = builder.add(x, at), builder.add(y, at)
            slots = new_sums(2 * _WIDTH)
            with counted(builder, builder.add(half, constant(1))) as index:
                source = builder.add(corner, builder.mul(index, constant(4)))
                for v in range(_WIDTH):
                    inputs = builder.bitcast(elements(builder.add(source, constant(4 * n * v))), pair_type)
                    for parity in range(2):
                        add(slots, 2 * v + parity, inputs, index, parity)

            finish(slots, [builder.add(to, constant(4 * n * v)) for v in range(_WIDTH)], corner, constant(2))

        width = 2 * n if height else 2 * n * _WIDTH
        tiles = builder.sdiv(builder.add(count, constant(width - 1)), constant(width))
        with counted(builder, tiles) as index:
            (columns if height else along)(index)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, rows), codegen


def _any(builder: Any, lanes: Any) -> Any:
    """Return whether any lane of a mask is set."""
    bits = builder.bitcast(lanes, ir.IntType(lanes.type.count))
    return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))


def _pair_products(builder: Any, first: Any, second: Any) -> Any:
    """Return of each lane the sum of the products of its upper and of its lower 16 bits."""
    kind, n = first.type, first.type.count
    name = simd.pair_products(n)
    if name:
        halves = ir.VectorType(I16, 2 * n)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [halves, halves]), name)
        return builder.call(function, [builder.bitcast(first, halves), builder.bitcast(second, halves)])
    shift = splat(kind, 16)
    upper = builder.mul(builder.ashr(first, shift), builder.ashr(second, shift))
    lower = builder.mul(*(builder.ashr(builder.shl(value, shift), shift) for value in (first, second)))
    return builder.add(upper, lower)
