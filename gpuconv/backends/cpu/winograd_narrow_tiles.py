"""The vector code of `winograd_narrow`, as Numba intrinsics: a vector holds one position of neighbouring tiles.

All numbers are float32; a *form* is that of `winograd_tiles`. Transformed inputs lie as [column of positions][channel]
[row of positions][vector], weights as [column][output channel][channel][row], so a sum of products reads both in order.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.simd import CODES, broadcast, constant, load_vector, multiply_add, registers
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR, load_pixel, pixel_type, plus, store_pixel
from gpuconv.backends.cpu.winograd_tiles import by_columns, by_rows, forms

__all__ = ["MOST_VECTORS", "narrow_inputs", "narrow_outputs", "narrow_products", "narrow_weights"]

_F32 = CODES["float32"]
_I32 = ir.IntType(32)
_I64 = types.int64


MOST_VECTORS = 2
"""Vectors of tiles that are multiplied at a time: with two output channels and three rows of positions (six of 32
registers) the sums, the inputs and a weight fill the registers, and there are as many loads as products."""
_UNROLLED = 3
"""Channels in a row: images have three, and a loop over so few would take as long as its products."""


def _accumulators() -> int:
    return 24 if registers() == 32 else 12


def _at(builder: Any, address: Any, index: int, size: int = VECTOR) -> Any:
    return builder.add(address, constant(index * size)) if index else address


@intrinsic(prefer_literal=True)
def narrow_inputs(
    typingctx: Any,
    to: Any,
    column: Any,
    last: Any,
    step: Any,
    source: Any,
    offsets: Any,
    has_last_row: Any,
    form: Any,
) -> Any:
    """Transform a vector of tiles of one channel.

    Parameters
    ----------
    to, column, last : int64
        Addresses of the first column of positions and of the last, and the bytes between the columns before it.
    step : int64
        Bytes between neighbouring rows of positions.
    source, offsets : int64
        Input (i, j) of the tiles is the vector at ``source + offsets[i * nx + j]``.
    has_last_row : bool
        Whether the last row of positions is wanted.
    """
    down, across = forms(form.literal_value)
    ny, nx = len(down.input), len(across.input)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, column, last, step, source, offsets, has_last_row = args[:7]

        def load(i: int, j: int) -> Any:
            offset = load_vector(builder, _at(builder, offsets, i * nx + j, 8), 3, 1)
            return load_pixel(builder, builder.add(source, offset))

        columns = [by_rows(builder, down.input, [load(i, j) for i in range(ny)]) for j in range(nx)]
        rows = [by_rows(builder, across.input, [line[i] for line in columns]) for i in range(ny)]

        def store(i: int) -> None:
            for j, value in enumerate(rows[i]):
                first = last if j == nx - 1 else plus(builder, to, column, j)
                store_pixel(builder, value, plus(builder, first, step, i))

        for i in range(ny - 1):
            store(i)
        with builder.if_then(builder.icmp_signed("!=", has_last_row, constant(0))):
            store(ny - 1)
        return context.get_dummy_value()

    return types.void(*[_I64] * 7, form), codegen


@intrinsic(prefer_literal=True)
def narrow_weights(typingctx: Any, to: Any, column: Any, last: Any, next_output: Any, next_output_last: Any,
                   source: Any, step_y: Any, step_x: Any, taps_y: Any, taps_x: Any, step: Any, count: Any,
                   has_last_row: Any, form: Any) -> Any:  # fmt: skip
    """Transform the taps of `count` output channels, `step` bytes apart, at most a vector of them, and one channel.

    A kernel of `taps_y` by `taps_x` is filled up with zeros. `to`, `column`, `last` and `has_last_row` are as in
    `narrow_inputs`; numbers of output channels are `next_output` bytes apart, in the last column `next_output_last`.
    """
    down, across = forms(form.literal_value)
    ny, nx = len(down.weights), len(across.weights)
    ty, tx = len(down.weights[0]), len(across.weights[0])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, column, last, next_output, next_output_last, source, step_y, step_x, taps_y, taps_x, step, count = args[:12]
        has_last_row = args[12]
        taps = [cgutils.alloca_once(builder, pixel_type()) for _ in range(ty * tx)]
        for slot in taps:
            builder.store(ir.Constant(pixel_type(), None), slot)
        for i in range(ty):
            for j in range(tx):
                is_here = builder.and_(
                    builder.icmp_signed("<", constant(i), taps_y), builder.icmp_signed("<", constant(j), taps_x)
                )
                with builder.if_then(is_here):
                    at = plus(builder, plus(builder, source, step_y, i), step_x, j)
                    with cgutils.for_range(builder, count) as loop:
                        value = load_vector(builder, builder.add(at, builder.mul(step, loop.index)), _F32, 1)
                        slot, lane = taps[i * tx + j], builder.trunc(loop.index, _I32)
                        builder.store(builder.insert_element(builder.load(slot), value, lane), slot)
        grid = [[builder.load(taps[i * tx + j]) for j in range(tx)] for i in range(ty)]
        columns = [by_rows(builder, down.weights, [row[j] for row in grid]) for j in range(tx)]
        rows = [by_rows(builder, across.weights, [line[i] for line in columns]) for i in range(ny)]
        results = [[cgutils.alloca_once(builder, pixel_type()) for _ in range(nx)] for _ in range(ny)]
        for i in range(ny):
            for j in range(nx):
                builder.store(rows[i][j], results[i][j])

        def store(i: int) -> None:
            for j in range(nx):
                first, between = plus(builder, to, column, j), next_output
                if j == nx - 1:
                    first, between = last, next_output_last
                with cgutils.for_range(builder, count) as loop:
                    lane = builder.trunc(loop.index, _I32)
                    value = builder.extract_element(builder.load(results[i][j]), lane)
                    place = builder.add(_at(builder, first, i, 4), builder.mul(between, loop.index))
                    pointer = builder.inttoptr(place, value.type.as_pointer())
                    builder.store(value, pointer)

        for i in range(ny - 1):
            store(i)
        with builder.if_then(builder.icmp_signed("!=", has_last_row, constant(0))):
            store(ny - 1)
        return context.get_dummy_value()

    return types.void(*[_I64] * 13, form), codegen


@intrinsic(prefer_literal=True)
def narrow_products(
    typingctx: Any,
    to: Any,
    to_row: Any,
    to_output: Any,
    v: Any,
    u: Any,
    full: Any,
    short: Any,
    outputs: Any,
    width: Any,
    form: Any,
) -> Any:
    """Sum the products of one column of positions over the channels and transform the sums along y.

    Parameters
    ----------
    to, to_row, to_output : int64
        Address of the results, and the bytes between rows of outputs and between output channels.
    v, u : int64
        Addresses of the column's transformed inputs and weights.
    full, short : int64
        Channels with all rows of positions, and those after them that lack the last row.
    outputs : int64
        Output channels.
    width : int64
        Vectors of tiles, from 1 to `MOST_VECTORS`.
    """
    down, _ = forms(form.literal_value)
    ny = len(down.input)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_row, to_output, v, u, full, short, outputs, width = args[:9]
        zero = ir.Constant(pixel_type(), None)
        weights = builder.add(builder.mul(full, constant(4 * ny)), builder.mul(short, constant(4 * (ny - 1))))
        after = builder.mul(full, constant(4 * ny))

        def emit(first: Any, together: int, count: int) -> None:
            """Sum for `together` output channels and `count` vectors, a few rows of positions at a time."""
            taps = builder.add(u, builder.mul(first, weights))
            behind = builder.mul(full, constant(ny * count * VECTOR))
            sums = [[[cgutils.alloca_once(builder, pixel_type()) for _ in range(count)] for _ in range(together)]
                    for _ in range(ny)]  # fmt: skip

            def add(rows: range, inputs: Any, taps: Any, channels: Any, height: int) -> None:
                def one(channel: Any) -> None:
                    source = builder.add(inputs, builder.mul(channel, constant(height * count * VECTOR)))
                    tap = builder.add(taps, builder.mul(channel, constant(4 * height)))
                    for i in rows:
                        values = [load_pixel(builder, _at(builder, source, i * count + k)) for k in range(count)]
                        for output in range(together):
                            place = _at(builder, plus(builder, tap, weights, output), i, 4)
                            weight = broadcast(builder, load_vector(builder, place, _F32, 1), LANES)
                            for value, slot in zip(values, sums[i][output], strict=True):
                                builder.store(multiply_add(builder, weight, value, builder.load(slot), _F32), slot)

                done = constant(0)
                if together > 1:
                    whole = builder.udiv(channels, constant(_UNROLLED))
                    with cgutils.for_range(builder, whole) as loop:
                        channel = builder.mul(loop.index, constant(_UNROLLED))
                        for k in range(_UNROLLED):
                            one(_at(builder, channel, k, 1))
                    done = builder.mul(whole, constant(_UNROLLED))
                with cgutils.for_range(builder, builder.sub(channels, done)) as loop:
                    one(builder.add(done, loop.index))

            most = max(_accumulators() // (together * count), 1)
            parts = -(-ny // most)
            for part in range(parts):
                rows = range(ny * part // parts, ny * (part + 1) // parts)
                for i in rows:
                    for line in sums[i]:
                        for slot in line:
                            builder.store(zero, slot)
                add(rows, v, taps, full, ny)
                present = range(rows.start, min(rows.stop, ny - 1))
                if present:
                    add(present, builder.add(v, behind), builder.add(taps, after), short, ny - 1)
            for output in range(together):
                place = plus(builder, builder.add(to, builder.mul(first, to_output)), to_output, output)
                for k in range(count):
                    column = [builder.load(line[output][k]) for line in sums]
                    for i, value in enumerate(by_columns(builder, down.output, column)):
                        store_pixel(builder, value, _at(builder, plus(builder, place, to_row, i), k))

        pairs = builder.sdiv(outputs, constant(2))
        end = builder.append_basic_block("products.end")
        switch = builder.switch(width, end)
        for count in range(1, MOST_VECTORS + 1):
            block = builder.append_basic_block(f"products.{count}")
            switch.add_case(constant(count), block)
            with builder.goto_block(block):
                with cgutils.for_range(builder, pairs) as loop:
                    emit(builder.mul(loop.index, constant(2)), 2, count)
                done = builder.mul(pairs, constant(2))
                with builder.if_then(builder.icmp_signed("<", done, outputs)):
                    emit(done, 1, count)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[_I64] * 9, form), codegen


def _interleaved(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return the elements of up to four vectors in turn: the first of each, the second of each and so on."""
    m = len(vectors)

    def shuffle(a: Any, b: Any, mask: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(mask)), mask))

    if m == 2:
        halves = range(LANES // 2), range(LANES // 2, LANES)
        first, second = vectors
        return [shuffle(first, second, [k for i in half for k in (i, LANES + i)]) for half in halves]
    if m == 3:
        pair = shuffle(vectors[0], vectors[1], list(range(2 * LANES)))
        result = []
        for part in range(3):
            elements = range(part * LANES, (part + 1) * LANES)
            first = shuffle(pair, pair, [e // 3 + LANES * (e % 3 == 1) for e in elements])
            last = shuffle(vectors[2], vectors[2], [e // 3 for e in elements])
            result.append(shuffle(first, last, [i + LANES * (e % 3 == 2) for i, e in enumerate(elements)]))
        return result
    # Elements of 0 and 2 in turn, and of 1 and 3, are each every second one of the result.
    even, odd = _interleaved(builder, vectors[::2]), _interleaved(builder, vectors[1::2])
    return [value for pair in zip(even, odd, strict=True) for value in _interleaved(builder, list(pair))]


@intrinsic(prefer_literal=True)
def narrow_outputs(
    typingctx: Any,
    to: Any,
    to_row: Any,
    to_output: Any,
    source: Any,
    column: Any,
    outputs: Any,
    bias: Any,
    total: Any,
    lanes: Any,
    form: Any,
) -> Any:
    """Transform a vector of tiles' results of `narrow_products` along x, add the bias, and write rows of outputs.

    Parameters
    ----------
    to, to_row, to_output : int64
        Address of the first output, and the bytes between rows and between output channels.
    source, column : int64
        Address of [output channel][row of outputs][column of positions][vector], and the bytes between columns.
    bias, total : int64
        Addresses of a number for each output channel, and of a vector to which all outputs are added: it is not finite
        where one of them is not.
    lanes : int64
        Address of an int32 for each tile: 0 where there is none.
    """
    down, across = forms(form.literal_value)
    my, nx = len(down.output), len(across.input)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_row, to_output, source, column, outputs, bias, total, lanes = args[:9]
        check = cgutils.alloca_once_value(builder, load_pixel(builder, total))
        flags = load_vector(builder, lanes, CODES["int32"], LANES)
        is_tile = builder.icmp_signed("!=", flags, ir.Constant(flags.type, None))
        zero = ir.Constant(pixel_type(), None)
        with cgutils.for_range(builder, outputs) as output:
            start = builder.add(source, builder.mul(output.index, plus(builder, constant(0), column, my * nx)))
            place = builder.add(to, builder.mul(output.index, to_output))
            number = load_vector(builder, builder.add(bias, builder.mul(output.index, constant(4))), _F32, 1)
            shift = broadcast(builder, number, LANES)
            for i in range(my):
                vectors = [load_pixel(builder, plus(builder, start, column, i * nx + j)) for j in range(nx)]
                values = [builder.fadd(v, shift) for v in by_columns(builder, across.output, vectors)]
                for value in values:
                    sound = builder.select(is_tile, value, zero)
                    builder.store(builder.fadd(builder.load(check), sound), check)
                for j, value in enumerate(_interleaved(builder, values)):
                    store_pixel(builder, value, _at(builder, plus(builder, place, to_row, i), j))
        store_pixel(builder, builder.load(check), total)
        return context.get_dummy_value()

    return types.void(*[_I64] * 9, form), codegen
