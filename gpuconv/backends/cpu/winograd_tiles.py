"""The vector code of the Winograd kernels, as Numba intrinsics: transforms and products.

All numbers are float32. A *form* is the integer 1000*my + 100*ry + 10*mx + rx: tiles of my x mx outputs of a kernel of
ry x rx taps. The transforms are generated from the matrices of `gpuconv.transforms`, without their zeros and ones.
A *pixel* is a vector of neighbouring channels.
"""

from __future__ import annotations

import hashlib
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
    load_vector,
    multiply_add,
    prefetch,
    registers,
    source_version,
)
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR, load_pixel, pixel_type, plus, store_pixel
from gpuconv.transforms import Matrix, Winograd, winograd

__all__ = [
    "INPUT_MATRIX",
    "SINGLE_MATRIX",
    "WEIGHTS_MATRIX",
    "by_columns",
    "by_rows",
    "forms",
    "most_tiles",
    "multiply",
    "output_tile",
    "tile_columns",
    "tile_rows",
    "transform_weights",
    "version_of",
]

_F32 = CODES["float32"]
INPUT_MATRIX, WEIGHTS_MATRIX, SINGLE_MATRIX = range(3)
_I32 = ir.IntType(32)
_I64 = types.int64


def most_tiles() -> int:
    """Return the most tiles whose products with two vectors of output channels the registers hold."""
    return 14 if registers() == 32 else 6


def forms(form: int) -> tuple[Winograd, Winograd]:
    """Return the matrices of a form, of its rows and of its columns."""
    my, ry, mx, rx = (form // power % 10 for power in (1000, 100, 10, 1))
    return winograd(my, ry), winograd(mx, rx)


def version_of(form: int) -> int:
    """Return a number that changes whenever the transforms of a form do: its matrices, or a source file."""
    digest = hashlib.blake2b(f"{forms(form)}{source_version()}".encode(), digest_size=7)
    return int.from_bytes(digest.digest(), "big")


def _splat(value: Fraction) -> Any:
    return ir.Constant(pixel_type(), [ir.Constant(element_type(_F32), float(np.float32(float(value))))] * LANES)


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


def by_rows(builder: Any, matrix: Matrix, vectors: Sequence[Any]) -> list[Any]:
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


def by_columns(builder: Any, matrix: Matrix, vectors: Sequence[Any]) -> list[Any]:
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


# Transforms


def _apply_to_runs(matrix: Matrix, method: Callable[..., list[Any]]) -> Any:
    """Return code that applies a matrix to vectors at run-time distances, a number of times."""

    def emit(builder: Any, source: Any, step: Any, to: Any, to_step: Any) -> None:
        vectors = [load_pixel(builder, plus(builder, source, step, i)) for i in range(len(matrix[0]))]
        for i, value in enumerate(method(builder, matrix, vectors)):
            store_pixel(builder, value, plus(builder, to, to_step, i))

    return emit


def _matrix(form: Winograd, which: int) -> Matrix:
    return (form.input, form.weights, form.single)[which]


@intrinsic(prefer_literal=True)
def tile_columns(
    typingctx: Any, to: Any, to_step: Any, source: Any, step: Any, count: Any, form: Any, which: Any
) -> Any:
    """Transform `count` neighbouring columns of pixels along y; rows are `step` and `to_step` bytes apart.

    `which` is `INPUT_MATRIX`, `SINGLE_MATRIX` where the kernel has one tap of those of the form, or `WEIGHTS_MATRIX`
    for tiles that take the part of weights.
    """
    matrix = _matrix(forms(form.literal_value)[0], which.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, step, count = args[:5]
        emit = _apply_to_runs(matrix, by_rows)
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
    rows: Any,
    form: Any,
    which: Any,
) -> Any:
    """Transform `rows` rows of `count` tiles along x, whose inputs are `advance` bytes apart, to neighbouring results.

    One transformed row of all tiles comes after the other: few pages of memory are written to at a time. A row of
    results has room for all products of the form.
    """
    across = forms(form.literal_value)[1]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, row, step, advance, count, rows = args[:8]
        emit = _apply_to_runs(_matrix(across, which.literal_value), by_rows)
        stride = builder.mul(to_step, constant(len(across.input)))
        with cgutils.for_range(builder, rows) as line:
            start = builder.add(source, builder.mul(row, line.index))
            goal = builder.add(to, builder.mul(stride, line.index))
            with cgutils.for_range(builder, count) as loop:
                shift, shift_to = builder.mul(loop.index, advance), builder.mul(loop.index, constant(VECTOR))
                emit(builder, builder.add(start, shift), step, builder.add(goal, shift_to), to_step)
        return context.get_dummy_value()

    return types.void(*[_I64] * 8, form, which), codegen


@intrinsic(prefer_literal=True)
def transform_weights(
    typingctx: Any, to: Any, to_step: Any, source: Any, step: Any, count: Any, to_next: Any, form: Any, single: Any
) -> Any:
    """Transform the weights of `count` input channels; a channel's taps are neighbouring pixels.

    `source` is the first tap, and `step` the way to the next: VECTOR, or -VECTOR. Along the axes that `single` names, 1
    for x and 2 for y, the first tap is taken as it is.
    """
    down, across = forms(form.literal_value)
    taps = len(down.weights[0]), len(across.weights[0])

    def matrix(form: Winograd, is_single: bool) -> Matrix:
        rest = len(form.weights[0]) - 1
        return ((Fraction(1), *(Fraction(0),) * rest),) if is_single else form.weights

    matrices = matrix(down, bool(single.literal_value & 2)), matrix(across, bool(single.literal_value & 1))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_step, source, step, count, to_next = args[:6]
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(source, builder.mul(loop.index, constant(taps[0] * taps[1] * VECTOR)))
            goal = builder.add(to, builder.mul(loop.index, to_next))
            grid = [
                [load_pixel(builder, plus(builder, start, step, i * taps[1] + j)) for j in range(taps[1])]
                for i in range(taps[0])
            ]
            columns = [by_rows(builder, matrices[0], [row[j] for row in grid]) for j in range(taps[1])]
            for i in range(len(matrices[0])):
                values = by_rows(builder, matrices[1], [column[i] for column in columns])
                for j, value in enumerate(values):
                    store_pixel(builder, value, plus(builder, goal, to_step, i * len(values) + j))
        return context.get_dummy_value()

    return types.void(*[_I64] * 6, form, single), codegen


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
            places = [plus(builder, source, source_step, i * wide + j) for i in range(len(down.input))]
            columns.append(by_columns(builder, down.output, [load_pixel(builder, at) for at in places]))
        shift = load_pixel(builder, bias)
        check = load_pixel(builder, total)
        for i in range(len(down.output)):
            values = by_columns(builder, across.output, [column[i] for column in columns])
            for j, value in enumerate(values):
                result = builder.fadd(value, shift)
                check = builder.fadd(check, result)
                store_pixel(builder, result, plus(builder, plus(builder, to, row, i), step, j))
        store_pixel(builder, check, total)
        return context.get_dummy_value()

    return types.void(*[_I64] * 7, form), codegen


# Products

_UNROLLED = 4
_FETCHES_WEIGHTS = LANES == 16
"""Whether weights are prefetched too, and not inputs only. A processor finds their stream by itself: to ask for it cost
a twentieth on Zen 3. With vectors of 512 bits, where they are used twice as fast, it saved as much."""


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
        zero = ir.Constant(pixel_type(), None)
        end = builder.append_basic_block("products.end")
        switch = builder.switch(tiles, end)
        fresh = is_first

        def emit(height: int) -> None:
            slots = [cgutils.alloca_once(builder, pixel_type()) for _ in range(2 * height)]
            for slot in slots:
                builder.store(zero, slot)
            # One loop over all channels: its inputs are those of a group's vectors, a few channels on.
            steps = LANES // _UNROLLED
            with cgutils.for_range(builder, builder.mul(groups, constant(steps))) as loop:
                group = builder.udiv(loop.index, constant(steps))
                within = builder.urem(loop.index, constant(steps))
                inputs = builder.add(v, builder.mul(group, constant(height * VECTOR)))
                inputs = builder.add(inputs, builder.mul(within, constant(4 * _UNROLLED)))
                rows = builder.add(u, builder.mul(loop.index, constant(_UNROLLED * 2 * VECTOR)))
                if _FETCHES_WEIGHTS:
                    lead = builder.add(ahead, builder.mul(builder.mul(loop.index, lines), constant(64)))
                    with cgutils.for_range(builder, lines) as line:
                        prefetch(builder, builder.add(lead, builder.mul(line.index, constant(64))))
                at = builder.add(ahead_v, builder.mul(loop.index, constant(height * 4 * _UNROLLED)))
                for line in range(-(-height * 4 * _UNROLLED // 64)):
                    prefetch(builder, builder.add(at, constant(64 * line)))
                for c in range(_UNROLLED):
                    row = builder.add(rows, constant(c * 2 * VECTOR))
                    b = load_pixel(builder, row), load_pixel(builder, builder.add(row, constant(VECTOR)))
                    for t in range(height):
                        at = builder.add(inputs, constant(t * VECTOR + 4 * c))
                        a = broadcast(builder, load_vector(builder, at, _F32, 1), LANES)
                        for half in (0, 1):
                            slot = slots[2 * t + half]
                            builder.store(multiply_add(builder, a, b[half], builder.load(slot), _F32), slot)
            with builder.if_else(builder.icmp_signed("!=", fresh, constant(0))) as (first, later):
                with first:
                    for k, slot in enumerate(slots):
                        store_pixel(builder, builder.load(slot), builder.add(to, constant(k * VECTOR)))
                with later:
                    for k, slot in enumerate(slots):
                        at = builder.add(to, constant(k * VECTOR))
                        store_pixel(builder, builder.fadd(load_pixel(builder, at), builder.load(slot)), at)

        for height in range(1, most_tiles() + 1):
            block = builder.append_basic_block(f"products.{height}")
            switch.add_case(constant(height), block)
            builder.position_at_end(block)
            emit(height)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[_I64] * 9), codegen
