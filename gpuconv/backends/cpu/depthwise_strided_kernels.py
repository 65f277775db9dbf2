"""The compiled kernel of depthwise layers with a stride of 2 along rows, which reads rows where they lie.

A kernel takes the address of a `PLANES` record, which `depthwise_strided` fills. It is compiled for each number of taps
and stride along columns; all other sizes are run-time values.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import carray, cfunc, from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    counted,
    lanes_of,
    load_masked,
    load_vector,
    multiply_add,
    prefetch,
    store_part,
)

__all__ = ["PLANES", "TILE", "convolution"]

TILE = 4
"""Rows of outputs that are summed in registers at once."""
_AHEAD = 4096
"""Bytes from what is read to what is asked for: x is read in order, faster than the processor looks ahead by itself."""
_I32 = ir.IntType(32)

PLANES = record(
    # the arrays, and the bytes between neighbouring images, channels and rows
    "x xn xc xy y yn yc yy w bias bias_step "
    # output channels, those of an input channel, bytes of an output channel's weights
    "outputs each w_bytes "
    # rows of outputs of a band, bands of a plane, of all planes and of a task
    "band plane_bands bands chunk "
    # rows and columns of inputs and of outputs; rows and columns of the border before the inputs
    "rows columns height width top before"
)
"""One call; what belongs to the caller's arrays comes first."""

_POINTER = types.CPointer(from_dtype(PLANES))


def _halves(builder: Any, first: Any, second: Any) -> list[Any]:
    """Return the elements of two neighbouring vectors with even numbers and with odd ones."""
    n = first.type.count
    orders = [ir.Constant(ir.VectorType(_I32, n), list(range(half, 2 * n, 2))) for half in range(2)]
    return [builder.shuffle_vector(first, second, order) for order in orders]


@intrinsic(prefer_literal=True)
def _rows(
    typingctx: Any, y: Any, y_step: Any, x: Any, x_step: Any, w: Any, bias: Any, rows: Any, columns: Any, height: Any,
    width: Any, top: Any, before: Any, high: Any, wide: Any, down: Any, tile: Any, code: Any,
) -> Any:  # fmt: skip
    """Compute rows of outputs: y[i, j] = bias + sum of w[k, l] * x[i * down + k - top, 2 * j + l - before].

    Inputs outside are 0 and are not read; rows of them are left out, so weights have to be finite. `tile` rows of
    outputs, of which there are at least so many, are computed at a time; the last ones together with some above them.
    """
    k, taps, stride, count, a = (literal.literal_value for literal in (high, wide, down, tile, code))
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, y_step, x, x_step, w, bias, rows, columns, height, width, top, before = args[:12]
        start = broadcast(builder, load_vector(builder, bias, a, 1), n)
        slots = [cgutils.alloca_once(builder, start.type) for _ in range(count)]
        pairs = -(-taps // 2)
        lanes = ir.VectorType(_I32, n)

        def weight(i: int, j: int) -> Any:
            at = builder.add(w, constant((i * taps + j) * size))
            return broadcast(builder, load_vector(builder, at, a, 1), n)

        def load(line: Any, begin: Any, masks: list[Any] | None, is_new: bool) -> list[Any]:
            """Return two neighbouring vectors of a row of inputs."""
            at = builder.add(x, builder.add(builder.mul(line, x_step), builder.mul(begin, constant(size))))
            if is_new:
                for ahead in range(0, 2 * n * size, 64):
                    prefetch(builder, builder.add(at, constant(_AHEAD + ahead)))
            places = [builder.add(at, constant(half * n * size)) for half in range(2)]
            if masks is None:
                return [load_vector(builder, place, a, n) for place in places]
            return [load_masked(builder, place, mask, a, n) for place, mask in zip(places, masks, strict=True)]

        def add(value: Any, factors: list[Any], i: int) -> None:
            """Add the products of a vector of row i of inputs to the rows of outputs that it meets."""
            for r, slot in enumerate(slots):
                if 0 <= i - r * stride < k:
                    builder.store(multiply_add(builder, factors[i - r * stride], value, builder.load(slot), a), slot)

        def tile_of(first: Any, column: Any, is_inside: bool) -> None:
            for slot in slots:
                builder.store(start, slot)
            # Two columns of weights at a time: more would not stay in registers.
            for left in range(0, taps, 2):
                begin, masks = builder.add(column, constant(left)), None
                weights = [[weight(i, j) for i in range(k)] for j in range(left, min(left + 2, taps))]
                if not is_inside:
                    masks = [inside_row(builder.add(begin, constant(half * n))) for half in range(2)]
                for i in range((count - 1) * stride + k):
                    line = builder.add(first, constant(i))
                    with builder.if_then(builder.icmp_unsigned("<", line, rows)):
                        halves = _halves(builder, *load(line, begin, masks, left == 0 and i >= k - stride))
                        for value, factors in zip(halves, weights, strict=False):
                            add(value, factors, i)

        def inside_row(begin: Any) -> Any:
            """Return the mask of the columns from `begin` on that there are."""
            places = builder.add(broadcast(builder, builder.trunc(begin, _I32), n), ir.Constant(lanes, list(range(n))))
            return builder.icmp_unsigned("<", places, broadcast(builder, builder.trunc(columns, _I32), n))

        tiles = builder.sdiv(builder.add(height, constant(count - 1)), constant(count))
        vectors = builder.sdiv(builder.add(width, constant(n - 1)), constant(n))
        last = builder.sub(height, constant(count))
        with counted(builder, tiles) as index:
            top_row = builder.mul(index, constant(count))
            top_row = builder.select(builder.icmp_signed(">", top_row, last), last, top_row)
            first = builder.sub(builder.mul(top_row, constant(stride)), top)
            corner = builder.add(y, builder.mul(top_row, y_step))
            with counted(builder, vectors) as vector:
                column = builder.sub(builder.mul(vector, constant(2 * n)), before)
                end = builder.add(column, constant(2 * (pairs - 1) + 2 * n))
                is_inside = builder.and_(
                    builder.icmp_signed(">=", column, constant(0)), builder.icmp_signed("<=", end, columns)
                )
                with builder.if_else(is_inside) as (inside, outside):
                    with inside:
                        tile_of(first, column, True)
                    with outside:
                        tile_of(first, column, False)
                left = builder.sub(width, builder.mul(vector, constant(n)))
                place = builder.add(corner, builder.mul(vector, constant(n * size)))
                for slot in slots:
                    store_part(builder, builder.load(slot), place, a, left)
                    place = builder.add(place, y_step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12, high, wide, down, tile, code), codegen


@functools.cache
def convolution(code: int, high: int, wide: int, down: int) -> int:
    """Return the address of the kernel of `high` by `wide` taps and a stride of `down` along columns."""
    return int(_convolution(code, high, wide, down, simd.source_version()).address)


def _convolution(code: int, high: int, wide: int, down: int, version: int) -> Any:
    @cfunc(types.void(_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def convolve(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        for index in range(task * p.chunk, min((task + 1) * p.chunk, p.bands)):
            plane, first = index // p.plane_bands, index % p.plane_bands * p.band
            image, output = plane // p.outputs, plane % p.outputs
            x, y = p.x + image * p.xn + output // p.each * p.xc, p.y + image * p.yn + output * p.yc + first * p.yy
            w, bias = p.w + output * p.w_bytes, p.bias + output * p.bias_step
            height, top = min(p.band, p.height - first), p.top - first * down
            if height >= TILE:
                _rows(
                    y, p.yy, x, p.xy, w, bias, p.rows, p.columns, height, p.width, top, p.before,
                    high, wide, down, TILE, code,
                )  # fmt: skip
            else:
                _rows(
                    y, p.yy, x, p.xy, w, bias, p.rows, p.columns, height, p.width, top, p.before,
                    high, wide, down, 1, code,
                )  # fmt: skip

    return convolve
