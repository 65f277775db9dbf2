"""The inner kernel of the blocked algorithm: a tile of places by vectors of output channels, in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.simd import (
    BYTES,
    after,
    broadcast,
    constant,
    counted,
    element_type,
    lanes_of,
    load_vector,
    multiply_add,
    store_vector,
)

__all__ = ["VECTORS", "outer_products", "tile_places"]

VECTORS = 2
"""Vectors of output channels of a tile: an input, broadcast once, meets both."""


def tile_places() -> int:
    """Return the places of a tile at most: with two vectors of weights and an input they fill the registers."""
    return 14 if simd.registers() == 32 else 6


def _tile(builder: Any, arguments: list[Any], height: int, width: int, a: int) -> None:
    """Emit the products of `height` places by `width` vectors."""
    to, to_step, w, w_stride, x, x_step, offsets, terms, bias = arguments
    n, size = lanes_of(a), BYTES[a]
    vector = ir.VectorType(element_type(a), n)
    slots = [cgutils.alloca_once(builder, vector) for _ in range(height * width)]

    for v in range(width):
        start = load_vector(builder, builder.add(bias, constant(v * n * size)), a, n)
        for p in range(height):
            builder.store(start, slots[p * width + v])
    # One term and place at a time: LLVM would load the next ones too early, and spill sums.
    with counted(builder, terms) as k:
        at = builder.add(x, load_vector(builder, builder.add(offsets, builder.mul(k, constant(8))), 3, 1))
        weights = builder.add(w, builder.mul(k, constant(n * size)))
        places = [builder.add(weights, builder.mul(w_stride, constant(v))) for v in range(width)]
        factors = [load_vector(builder, place, a, n) for place in places]
        for p in range(height):
            scalar = load_vector(builder, builder.add(at, builder.mul(x_step, constant(p))), a, 1)
            value, own = broadcast(builder, scalar, n), slots[p * width : (p + 1) * width]
            totals = [multiply_add(builder, value, f, builder.load(s), a) for f, s in zip(factors, own, strict=True)]
            at, totals = after(builder, at, totals)
            for total, slot in zip(totals, own, strict=True):
                builder.store(total, slot)
    for i, slot in enumerate(slots):
        p, v = divmod(i, width)
        place = builder.add(to, builder.mul(to_step, constant(p)))
        store_vector(builder, builder.load(slot), builder.add(place, constant(v * n * size)), a)


@intrinsic(prefer_literal=True)
def outer_products(
    typingctx: Any,
    to: Any,
    to_step: Any,
    w: Any,
    w_stride: Any,
    x: Any,
    x_step: Any,
    offsets: Any,
    terms: Any,
    bias: Any,
    places: Any,
    vectors: Any,
    code: Any,
) -> Any:
    """Multiply: to[p, v] = bias[v] + sum over k of w[v, k] * x[offsets[k] + p * x_step], vectors of output channels.

    Parameters
    ----------
    to, w, x, offsets, bias : int64
        Addresses. Steps, strides and the entries of `offsets` are in bytes: `to_step` and `x_step` from one place to
        the next, `w_stride` from one vector's weights to the next one's; k's weights follow each other.
    terms : int64
        Number of k.
    places, vectors : int64
        The tile: from one to `tile_places()` by from one to `VECTORS`, each a loop of its own.
    code : literal int
        The type of all numbers.
    """
    a = code.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        end = builder.append_basic_block("tiled")
        none = builder.append_basic_block("no_tile")
        case = builder.add(builder.mul(args[9], constant(VECTORS)), args[10])
        choice = builder.switch(case, none)
        for height in range(1, tile_places() + 1):
            for width in range(1, VECTORS + 1):
                block = builder.append_basic_block(f"tile_{height}_{width}")
                choice.add_case(constant(height * VECTORS + width), block)
                builder.position_at_end(block)
                _tile(builder, args[:9], height, width, a)
                builder.branch(end)
        builder.position_at_end(none)
        builder.unreachable()
        builder.position_at_end(end)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 11, code), codegen
