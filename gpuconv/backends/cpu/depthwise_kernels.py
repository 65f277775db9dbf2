"""The compiled kernel of small depthwise maps: a whole plane of inputs packed with its border, then every output.

A kernel takes the address of a `PLANES` record, which `depthwise` fills. Sizes and taps are run-time values: a new
shape compiles nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import fill_run, load, store, zero
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.rows import copy_rows, split_rows
from gpuconv.backends.cpu.simd import (
    BYTES,
    broadcast,
    constant,
    counted,
    lanes_of,
    load_vector,
    multiply_add,
    store_part,
)

__all__ = ["PLANES", "convolution"]

PLANES = record(
    # the arrays, and the bytes between neighbouring images, channels and rows
    "x xn xc xy y yn yc yy w bias bias_step "
    # channels, outputs of each, channels of a task, tasks of an image, and the bytes of an output channel's weights
    "channels outputs chunk chunks w_bytes "
    # rows of inputs, and neighbours in each
    "rows columns "
    # whether every second column goes to one place of a row and every second to another; where in the packed plane the
    # first input of each stands, bytes of a packed row, and elements of the whole
    "split evens odds row_bytes size "
    # rows and columns of outputs, bytes between the inputs of neighbouring rows, and where each tap's inputs begin
    "height width step offsets taps "
    # rows of a tile
    "tile"
)
"""One call; what belongs to the caller's arrays comes first."""

_POINTER = types.CPointer(from_dtype(PLANES))


@intrinsic(prefer_literal=True)
def _outputs(
    typingctx: Any, y: Any, y_step: Any, x: Any, x_step: Any, offsets: Any, taps: Any, w: Any, bias: Any, height: Any,
    width: Any, high: Any, down: Any, rows: Any, code: Any,
) -> Any:  # fmt: skip
    """Compute a plane of outputs, `rows` rows at a time: y[r, j] = bias + sum over taps t of w[t] * x[t, r, j].

    x[t, r, j] is element j from address x + offsets[t] + r * down * x_step on; whole vectors are read. The last rows
    are computed together with some above them, so there are at least `rows`.

    Parameters
    ----------
    high, down : literal int
        Rows of the kernel, if they are neighbours in x, and the stride along them: a row of x is then read once for all
        rows of outputs that it meets. With `high` 0 each tap reads its own.
    """
    k, stride, tile, a = high.literal_value, down.literal_value, rows.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, y_step, x, x_step, offsets, taps, w, bias, height, width = args[:10]
        start = broadcast(builder, load_vector(builder, bias, a, 1), n)
        slots = [cgutils.alloca_once(builder, start.type) for _ in range(tile)]

        def weight(index: Any) -> Any:
            at = builder.add(w, builder.mul(index, constant(size)))
            return broadcast(builder, load_vector(builder, at, a, 1), n)

        def add(slot: Any, weight: Any, value: Any) -> None:
            builder.store(multiply_add(builder, weight, value, builder.load(slot), a), slot)

        def every_column(lines: list[Any]) -> None:
            columns = builder.sdiv(taps, constant(k))
            with counted(builder, columns) as column:
                offset = load_vector(builder, builder.add(offsets, builder.mul(column, constant(8))), 3, 1)
                weights = [weight(builder.add(builder.mul(columns, constant(i)), column)) for i in range(k)]
                for i, line in enumerate(lines):
                    value = load_vector(builder, builder.add(line, offset), a, n)
                    for r, slot in enumerate(slots):
                        if 0 <= i - r * stride < k:
                            add(slot, weights[i - r * stride], value)

        def every_tap(lines: list[Any]) -> None:
            with counted(builder, taps) as tap:
                offset = load_vector(builder, builder.add(offsets, builder.mul(tap, constant(8))), 3, 1)
                factor = weight(tap)
                for line, slot in zip(lines[::stride], slots, strict=True):
                    add(slot, factor, load_vector(builder, builder.add(line, offset), a, n))

        tiles = builder.sdiv(builder.add(height, constant(tile - 1)), constant(tile))
        vectors = builder.sdiv(builder.add(width, constant(n - 1)), constant(n))
        last = builder.sub(height, constant(tile))
        with counted(builder, tiles) as index:
            first = builder.mul(index, constant(tile))
            first = builder.select(builder.icmp_signed(">", first, last), last, first)
            corner = builder.add(x, builder.mul(first, builder.mul(x_step, constant(stride))))
            corner_y = builder.add(y, builder.mul(first, y_step))
            with counted(builder, vectors) as vector:
                along = builder.mul(vector, constant(n * size))
                at = builder.add(corner, along)
                count = (tile - 1) * stride + max(k, 1)
                lines = [builder.add(at, builder.mul(x_step, constant(i))) for i in range(count)]
                for slot in slots:
                    builder.store(start, slot)
                (every_column if k else every_tap)(lines)
                left = builder.sub(width, builder.mul(vector, constant(n)))
                place = builder.add(corner_y, along)
                for slot in slots:
                    store_part(builder, builder.load(slot), place, a, left)
                    place = builder.add(place, y_step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, high, down, rows, code), codegen


@functools.cache
def convolution(code: int, high: int, down: int) -> int:
    """Return the address of the kernel: `_outputs` without the literals. A task is a chunk of one image's channels."""
    return int(_convolution(code, high, down, BYTES[code], simd.source_version()).address)


def _convolution(code: int, high: int, down: int, size: int, version: int) -> Any:
    @cfunc(types.void(_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def convolve(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        first, image = task % p.chunks * p.chunk, task // p.chunks
        # The border is the same for all channels: only what it surrounds is written again.
        fill_run(scratch, p.size, zero(code), code)
        evens, odds = scratch + p.evens, scratch + p.odds
        for channel in range(first, min(first + p.chunk, p.channels)):
            x = p.x + image * p.xn + channel * p.xc
            if p.split:
                split_rows(evens, odds, p.row_bytes, x, p.xy, p.rows, p.columns // 2, code, code)
                if p.columns % 2:
                    last = p.columns // 2 * size
                    for row in range(p.rows):
                        value = load(x + row * p.xy + 2 * last, code, code)
                        store(evens + row * p.row_bytes + last, value, code, code)
            else:
                copy_rows(evens, p.row_bytes, x, p.xy, p.rows, p.columns, code, code)
            for output in range(channel * p.outputs, (channel + 1) * p.outputs):
                y, w = p.y + image * p.yn + output * p.yc, p.w + output * p.w_bytes
                bias = p.bias + output * p.bias_step
                rows, step, offsets, taps, wide = p.height, p.step, p.offsets, p.taps, p.width
                if p.tile == 8:
                    _outputs(y, p.yy, scratch, step, offsets, taps, w, bias, rows, wide, high, down, 8, code)
                elif p.tile == 7:
                    _outputs(y, p.yy, scratch, step, offsets, taps, w, bias, rows, wide, high, down, 7, code)
                elif p.tile == 4:
                    _outputs(y, p.yy, scratch, step, offsets, taps, w, bias, rows, wide, high, down, 4, code)
                else:
                    _outputs(y, p.yy, scratch, step, offsets, taps, w, bias, rows, wide, high, down, 1, code)

    return convolve
