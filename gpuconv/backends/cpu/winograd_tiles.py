"""The vector code of the Winograd kernels, as Numba intrinsics: transposes, transforms and products.

All numbers are float32. A *form* is the integer 1000*my + 100*ry + 10*mx + rx: tiles of my x mx outputs of a kernel of
ry x rx taps. The transforms are generated from the matrices of `gpuconv.transforms`, without their zeros and ones.
A *pixel* is a vector of neighbouring channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
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
    multiply_add,
    registers,
    store_vector,
)
from gpuconv.transforms import Matrix, Winograd, winograd

__all__ = [
    "INPUT_MATRIX",
    "LANES",
    "VECTOR",
    "WEIGHTS_MATRIX",
    "call_products",
    "copy_pixels",
    "fill_pixels",
    "forms",
    "gather_pixel",
    "most_tiles",
    "multiply",
    "output_tile",
    "tile_columns",
    "tile_rows",
    "transform_weights",
    "transpose",
    "transpose_evens",
    "transpose_part",
    "transpose_part_rows",
    "transpose_rows",
    "transpose_rows_apart",
]

_F32 = CODES["float32"]
LANES = lanes_of(_F32)
VECTOR = 4 * LANES
INPUT_MATRIX, WEIGHTS_MATRIX = range(2)
_I32 = ir.IntType(32)
_I64 = types.int64


def most_tiles() -> int:
    """Return the most tiles whose products with two vectors of output channels the registers hold."""
    return 14 if registers() == 32 else 6


def forms(form: int) -> tuple[Winograd, Winograd]:
    """Return the matrices of a form, of its rows and of its columns."""
    my, ry, mx, rx = (form // power % 10 for power in (1000, 100, 10, 1))
    return winograd(my, ry), winograd(mx, rx)


def _type() -> Any:
    return ir.VectorType(element_type(_F32), LANES)


def _load(builder: Any, address: Any) -> Any:
    return load_vector(builder, address, _F32, LANES)


def _store(builder: Any, value: Any, address: Any) -> None:
    store_vector(builder, value, address, _F32)


def _plus(builder: Any, address: Any, step: Any, times: int) -> Any:
    """Return address + step * times."""
    return builder.add(address, builder.mul(step, constant(times))) if times else address


def _splat(value: Fraction) -> Any:
    return ir.Constant(_type(), [ir.Constant(element_type(_F32), float(np.float32(float(value))))] * LANES)


def _prefetch(builder: Any, address: Any) -> None:
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])


# Linear combinations


def _combine(builder: Any, terms: Sequence[tuple[Fraction, Any]]) -> Any:
    """Return the sum of coefficient * vector; a term of coefficient 1 comes first, where it costs nothing."""
    (first, total), *rest = sorted(terms, key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    if first != 1:
        total = builder.fmul(total, _splat(first))
    for coefficient, vector in rest:
        if coefficient == 1:
            total = builder.fadd(total, vector)
        elif coefficient == -1:
            total = builder.fsub(total, vector)
        else:
            total = multiply_add(builder, vector, _splat(coefficient), total, _F32)
    return total


def _mirrored(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether b is a with its odd entries negated, and both have even and odd ones: the points p and -p."""
    return (
        all(v == (-u if i % 2 else u) for i, (u, v) in enumerate(zip(a, b, strict=True)))
        and any(a[::2])
        and any(a[1::2])
    )


def _mirrors(rows: Sequence[Sequence[Fraction]]) -> dict[int, int]:
    return {i: i + 1 for i in range(len(rows) - 1) if _mirrored(rows[i], rows[i + 1])}


def _by_rows(builder: Any, matrix: Matrix, vectors: Sequence[Any]) -> list[Any]:
    """Return matrix * vectors, sharing the even and odd parts of the rows of p and -p."""
    pairs = _mirrors(matrix)
    result: list[Any] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if result[i] is not None:
            continue
        terms = [(c, v) for c, v in zip(row, vectors, strict=True) if c]
        if i not in pairs:
            result[i] = _combine(builder, terms)
            continue
        even = _combine(builder, [(c, v) for c, v in zip(row[::2], vectors[::2], strict=True) if c])
        lead = next(c for c in reversed(row[1::2]) if c)
        odd = _combine(builder, [(c / lead, v) for c, v in zip(row[1::2], vectors[1::2], strict=True) if c])
        result[i] = _combine(builder, [(Fraction(1), even), (lead, odd)])
        result[i + 1] = _combine(builder, [(Fraction(1), even), (-lead, odd)])
    return result


def _by_columns(builder: Any, matrix: Matrix, vectors: Sequence[Any]) -> list[Any]:
    """Return matrix * vectors, from sums and differences of the vectors of p and -p."""
    pairs = _mirrors(list(zip(*matrix, strict=True))) if len(matrix) > 1 else {}
    paired = {j for i in pairs for j in (i, i + 1)}
    sums = {j: builder.fadd(vectors[j], vectors[j + 1]) for j in pairs}
    differences = {j: builder.fsub(vectors[j], vectors[j + 1]) for j in pairs}
    result = []
    for i, row in enumerate(matrix):
        terms = [(c, vectors[j]) for j, c in enumerate(row) if c and j not in paired]
        terms += [(row[j], (differences if i % 2 else sums)[j]) for j in pairs if row[j]]
        result.append(_combine(builder, terms))
    return result


# Transposes


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
    pointer = builder.inttoptr(address, _type().as_pointer())
    return _masked(builder, "load", _type(), [pointer, ir.Constant(_I32, 4), mask, ir.Constant(_type(), None)])


def _store_part(builder: Any, value: Any, address: Any, mask: Any) -> None:
    pointer = builder.inttoptr(address, _type().as_pointer())
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
            places = [_plus(builder, start, step, r) for r in range(LANES)]
            rows = [_load(builder, at) for at in places]
            with builder.if_then(builder.icmp_signed("!=", ahead, constant(0))):
                for at in places:
                    _prefetch(builder, builder.add(at, ahead))
            for r, row in enumerate(_transposed(builder, rows)):
                _store(builder, row, builder.add(goal, constant(r * VECTOR)))
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
            rows = [_load(builder, builder.add(start, constant(r * VECTOR))) for r in range(LANES)]
            for r, row in enumerate(_transposed(builder, rows)):
                _store(builder, row, _plus(builder, goal, to_step, r))
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
            _store(builder, vector, builder.add(to, constant(r * VECTOR)))
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def transpose_part_rows(typingctx: Any, to: Any, to_step: Any, rows: Any, count: Any, source: Any) -> Any:
    """Transpose `count` neighbouring pixels into `rows` rows of `count` elements; LANES pixels are read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, rows, count, source = args
        vectors = [_load(builder, builder.add(source, constant(r * VECTOR))) for r in range(LANES)]
        mask = _mask(builder, count)
        for r, vector in enumerate(_transposed(builder, vectors)):
            with builder.if_then(builder.icmp_signed("<", constant(r), rows)):
                _store_part(builder, vector, _plus(builder, to, to_step, r), mask)
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
            _store(builder, vector, builder.add(to, constant(r * VECTOR)))
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def transpose_rows_apart(typingctx: Any, to: Any, to_step: Any, rows: Any, count: Any, source: Any) -> Any:
    """Transpose `count` pixels into every second place of `rows` rows; LANES pixels are read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, rows, count, source = args
        vectors = [_load(builder, builder.add(source, constant(r * VECTOR))) for r in range(LANES)]
        index = ir.VectorType(_I32, LANES)
        masks, orders = [], []
        for half in range(2):
            places = ir.Constant(index, [(half * LANES + i) // 2 if i % 2 == 0 else 1 << 20 for i in range(LANES)])
            wanted = broadcast(builder, builder.trunc(count, _I32), LANES)
            masks.append(builder.icmp_signed("<", places, wanted))
            orders.append(ir.Constant(index, [(half * LANES + i) // 2 for i in range(LANES)]))
        for r, vector in enumerate(_transposed(builder, vectors)):
            with builder.if_then(builder.icmp_signed("<", constant(r), rows)):
                for half in range(2):
                    spread = builder.shuffle_vector(vector, vector, orders[half])
                    place = _plus(builder, builder.add(to, constant(half * VECTOR)), to_step, r)
                    _store_part(builder, spread, place, masks[half])
        return context.get_dummy_value()

    return types.void(*[_I64] * 5), codegen


@intrinsic
def copy_pixels(typingctx: Any, to: Any, to_step: Any, source: Any, step: Any, count: Any, channels: Any) -> Any:
    """Copy `count` pixels of `channels` neighbouring channels; where all are there, whole vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, step, count, channels = args
        with builder.if_else(builder.icmp_signed("==", channels, constant(LANES))) as (whole, part):
            with whole, cgutils.for_range(builder, count) as loop:
                value = _load(builder, builder.add(source, builder.mul(loop.index, step)))
                _store(builder, value, builder.add(to, builder.mul(loop.index, to_step)))
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
            _store(builder, vector, builder.add(to, builder.mul(loop.index, constant(VECTOR))))
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


# Transforms


def _apply_to_runs(matrix: Matrix, method: Callable[..., list[Any]]) -> Any:
    """Return code that applies a matrix to vectors at run-time distances, a number of times."""

    def emit(builder: Any, source: Any, step: Any, to: Any, to_step: Any) -> None:
        vectors = [_load(builder, _plus(builder, source, step, i)) for i in range(len(matrix[0]))]
        for i, value in enumerate(method(builder, matrix, vectors)):
            _store(builder, value, _plus(builder, to, to_step, i))

    return emit


def _matrix(form: Winograd, which: int) -> Matrix:
    return form.weights if which == WEIGHTS_MATRIX else form.input


@intrinsic(prefer_literal=True)
def tile_columns(
    typingctx: Any, to: Any, to_step: Any, source: Any, step: Any, count: Any, form: Any, which: Any
) -> Any:
    """Transform `count` neighbouring columns of pixels along y; rows are `step` and `to_step` bytes apart.

    `which` is `INPUT_MATRIX`, or `WEIGHTS_MATRIX` for tiles that take the part of weights.
    """
    matrix = _matrix(forms(form.literal_value)[0], which.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, step, count = args[:5]
        emit = _apply_to_runs(matrix, _by_rows)
        with cgutils.for_range(builder, count) as loop:
            shift = builder.mul(loop.index, constant(VECTOR))
            emit(builder, builder.add(source, shift), step, builder.add(to, shift), to_step)
        return context.get_dummy_value()

    return types.void(*[_I64] * 5, form, which), codegen


@intrinsic(prefer_literal=True)
def tile_rows(
    typingctx: Any,
    to: Any,
    to_step: Any,
    source: Any,
    row: Any,
    step: Any,
    advance: Any,
    count: Any,
    form: Any,
    which: Any,
) -> Any:
    """Transform `count` tiles along x, whose inputs are `advance` bytes apart and whose results are neighbours.

    One transformed row of all tiles comes after the other: few pages of memory are written to at a time.
    """
    down, across = (_matrix(matrices, which.literal_value) for matrices in forms(form.literal_value))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, row, step, advance, count = args[:7]
        emit = _apply_to_runs(across, _by_rows)
        stride = builder.mul(to_step, constant(len(across)))
        with cgutils.for_range(builder, constant(len(down))) as line:
            start = builder.add(source, builder.mul(row, line.index))
            goal = builder.add(to, builder.mul(stride, line.index))
            with cgutils.for_range(builder, count) as loop:
                shift, shift_to = builder.mul(loop.index, advance), builder.mul(loop.index, constant(VECTOR))
                emit(builder, builder.add(start, shift), step, builder.add(goal, shift_to), to_step)
        return context.get_dummy_value()

    return types.void(*[_I64] * 7, form, which), codegen


@intrinsic(prefer_literal=True)
def transform_weights(
    typingctx: Any, to: Any, to_step: Any, source: Any, step: Any, count: Any, to_next: Any, form: Any
) -> Any:
    """Transform the weights of `count` input channels; a channel's taps are neighbouring pixels.

    `source` is the first tap, and `step` the way to the next: VECTOR, or -VECTOR.
    """
    down, across = forms(form.literal_value)
    taps = len(down.weights[0]), len(across.weights[0])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, step, count, to_next = args[:6]
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(source, builder.mul(loop.index, constant(taps[0] * taps[1] * VECTOR)))
            goal = builder.add(to, builder.mul(loop.index, to_next))
            grid = [
                [_load(builder, _plus(builder, start, step, i * taps[1] + j)) for j in range(taps[1])]
                for i in range(taps[0])
            ]
            columns = [_by_rows(builder, down.weights, [row[j] for row in grid]) for j in range(taps[1])]
            for i in range(len(down.weights)):
                values = _by_rows(builder, across.weights, [column[i] for column in columns])
                for j, value in enumerate(values):
                    _store(builder, value, _plus(builder, goal, to_step, i * len(values) + j))
        return context.get_dummy_value()

    return types.void(*[_I64] * 6, form), codegen


@intrinsic(prefer_literal=True)
def output_tile(
    typingctx: Any, to: Any, row: Any, step: Any, source: Any, source_step: Any, bias: Any, total: Any, form: Any
) -> Any:
    """Transform a tile's products into its outputs, plus the bias, and add all of them to the vector at `total`.

    A sum that is not finite shows that an output is not.
    """
    down, across = forms(form.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, row, step, source, source_step, bias, total = args[:7]
        wide = len(across.input)
        columns = []
        for j in range(wide):
            places = [_plus(builder, source, source_step, i * wide + j) for i in range(len(down.input))]
            columns.append(_by_columns(builder, down.output, [_load(builder, at) for at in places]))
        shift = _load(builder, bias)
        check = _load(builder, total)
        for i in range(len(down.output)):
            values = _by_columns(builder, across.output, [column[i] for column in columns])
            for j, value in enumerate(values):
                result = builder.fadd(value, shift)
                check = builder.fadd(check, result)
                _store(builder, result, _plus(builder, _plus(builder, to, row, i), step, j))
        _store(builder, check, total)
        return context.get_dummy_value()

    return types.void(*[_I64] * 7, form), codegen


# Products

_UNROLLED = 4


@intrinsic
def multiply(
    typingctx: Any,
    tiles: Any,
    to: Any,
    v: Any,
    u: Any,
    groups: Any,
    is_first: Any,
    ahead: Any,
    lines: Any,
    ahead_v: Any,
) -> Any:
    """Multiply: to[t, k] (+)= sum over c of v[c // LANES, t, c % LANES] * u[c, k], k below 2 * LANES.

    The sums stay in registers over `groups` * LANES channels and are then added to what `to` holds, or, where
    `is_first`, replace it.

    Parameters
    ----------
    tiles : int64
        From 1 to `most_tiles()`.
    to, v, u : int64
        Addresses.
    ahead, ahead_v : int64
        Addresses of the weights and inputs of later products, to be prefetched: of the weights `lines` cache lines
        for every four channels.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tiles, to, v, u, groups, is_first, ahead, lines, ahead_v = args
        zero = ir.Constant(_type(), None)
        end = builder.append_basic_block("products.end")
        switch = builder.switch(tiles, end)
        fresh = is_first

        def emit(height: int) -> None:
            slots = [cgutils.alloca_once(builder, _type()) for _ in range(2 * height)]
            for slot in slots:
                builder.store(zero, slot)
            with cgutils.for_range(builder, groups) as group:
                block = builder.add(v, builder.mul(group.index, constant(height * VECTOR)))
                weights = builder.add(u, builder.mul(group.index, constant(LANES * 2 * VECTOR)))
                with cgutils.for_range(builder, constant(LANES // _UNROLLED)) as loop:
                    inputs = builder.add(block, builder.mul(loop.index, constant(4 * _UNROLLED)))
                    rows = builder.add(weights, builder.mul(loop.index, constant(_UNROLLED * 2 * VECTOR)))
                    done = builder.add(builder.mul(group.index, constant(LANES // _UNROLLED)), loop.index)
                    lead = builder.add(ahead, builder.mul(builder.mul(done, lines), constant(64)))
                    with cgutils.for_range(builder, lines) as line:
                        _prefetch(builder, builder.add(lead, builder.mul(line.index, constant(64))))
                    for line in range(-(-height * 4 * _UNROLLED // 64)):
                        at = builder.mul(done, constant(height * 4 * _UNROLLED))
                        _prefetch(builder, builder.add(builder.add(ahead_v, at), constant(64 * line)))
                    for c in range(_UNROLLED):
                        row = builder.add(rows, constant(c * 2 * VECTOR))
                        b = _load(builder, row), _load(builder, builder.add(row, constant(VECTOR)))
                        for t in range(height):
                            at = builder.add(inputs, constant(t * VECTOR + 4 * c))
                            a = broadcast(builder, load_vector(builder, at, _F32, 1), LANES)
                            for half in (0, 1):
                                slot = slots[2 * t + half]
                                builder.store(multiply_add(builder, a, b[half], builder.load(slot), _F32), slot)
            with builder.if_else(builder.icmp_signed("!=", fresh, constant(0))) as (first, later):
                with first:
                    for k, slot in enumerate(slots):
                        _store(builder, builder.load(slot), builder.add(to, constant(k * VECTOR)))
                with later:
                    for k, slot in enumerate(slots):
                        at = builder.add(to, constant(k * VECTOR))
                        _store(builder, builder.fadd(_load(builder, at), builder.load(slot)), at)

        for height in range(1, most_tiles() + 1):
            block = builder.append_basic_block(f"products.{height}")
            switch.add_case(constant(height), block)
            builder.position_at_end(block)
            emit(height)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[_I64] * 9), codegen


@intrinsic
def call_products(
    typingctx: Any,
    function: Any,
    tiles: Any,
    to: Any,
    v: Any,
    u: Any,
    groups: Any,
    is_first: Any,
    ahead: Any,
    lines: Any,
    ahead_v: Any,
) -> Any:
    """Call `multiply` at an address: it is the same for every form, and takes longest to compile."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 9)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[_I64] * 10), codegen
