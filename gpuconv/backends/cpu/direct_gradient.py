"""The weight gradient of layers with enough output channels for vectors of them.

dw[o, c, t] is a product of two matrices whose inner index runs over all outputs' places: y as (places, o) and x as
(places, (c, t)). A block of y is packed with its channels innermost, x as for a forward convolution, and sums of
outer products are kept in registers (`tiles.outer`). Partial sums over parts of the places depend on the shapes
alone, so the result has the same bits at any number of threads; a second kernel adds them in order.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import direct_geometry as geometry
from gpuconv.backends.cpu import direct_kernels as kernels
from gpuconv.backends.cpu import memory, simd, threads
from gpuconv.backends.cpu.direct_kernels import pack_input, phase_pointer
from gpuconv.backends.cpu.elements import load, store, zero
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.squares import add_run, transpose_square
from gpuconv.backends.cpu.tiles import outer

if TYPE_CHECKING:
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["serves", "weight_gradient"]

_L1_BYTES = 24 << 10
"""Packed y that all pairs of a block run over before the next rows."""

_FINISHING = record(
    "w wo wc tap_bytes tap_count is_dense "
    "partials partial_bytes partial_count groups row_chunk row_chunks outputs channel_chunk channel_chunks channels"
)
"""The adding of partial sums; `tap_bytes` is the address of the taps' offsets in w."""
_SHARED = _FINISHING.names[6:] if _FINISHING.names else ()
_PLACES = {name: i for i, name in enumerate(kernels.CALL.names or ())}


def serves(call: Call) -> bool:
    """Return whether a weight gradient has real numbers, one phase with all taps, and outputs for half a vector."""
    problem = call.problem
    return (
        not call.is_complex
        and all(b == 1 for b in problem.input_dilation)
        and problem.out_channels // problem.groups >= 8
    )


class _Geometry(NamedTuple):
    words: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    finish_tasks: int
    partial_elements: int
    keep: tuple[Array, ...]


@functools.lru_cache(maxsize=1024)
def _geometry(problem: ConvProblem, accumulator: str) -> _Geometry:
    size = np.dtype(accumulator).itemsize
    lanes = simd.vector_bits() // 8 // size
    call, phases, (axes,) = geometry.common(problem, 1)
    keep: list[Array] = [call, phases]
    channels, outputs, groups = int(call["channels"]), int(call["outputs"]), problem.groups
    vectors = 4 if outputs >= 4 * lanes else 2 if outputs > lanes else 1
    row_chunk = vectors * lanes
    row_chunks = -(-outputs // row_chunk)
    taps = math.prod(problem.kernel)
    least = [1, min(axes[1].outputs, 4), min(axes[2].outputs, 256)]
    chunk = min(channels, max(4, geometry.INPUT_BYTES // (geometry.plane_elements(axes, least, lanes) * size)))
    work = 2.0 * min(channels, 64) * taps * row_chunk
    blocks = geometry.choose_blocks(axes, chunk, row_chunk, 1, size, lanes, 1, work)
    geometry.fill_phase(phases[0], axes, blocks, chunk, size, lanes, keep)
    channel_chunks = -(-channels // chunk)
    all_blocks = int(phases[0]["blocks"]) * problem.batch
    tasks = groups * row_chunks * channel_chunks
    # A partial sum is written and read once more; the work of enough places for each element pays for that.
    places = problem.batch * math.prod(problem.output)
    parts = max(1, min(all_blocks, -(-geometry.PARTIALS // tasks), places // 64))
    in_partial = -(-all_blocks // parts)
    parts = -(-all_blocks // in_partial)
    elements = groups * row_chunks * channels * taps * row_chunk
    y_offset = geometry.round_up(chunk * int(phases[0]["plane"]) + 64 * lanes * size, 64)
    for name, value in (
        ("row_chunk", row_chunk), ("row_chunks", row_chunks), ("channel_chunk", chunk), ("y_offset", y_offset),
        ("channel_chunks", channel_chunks), ("partial_count", parts), ("blocks_in_partial", in_partial),
        ("partial_bytes", elements * size),
    ):  # fmt: skip
        call[name] = value
    scratch = geometry.round_up(y_offset + math.prod(blocks) * row_chunk * size, 64)
    slice_tasks = max(1, int(geometry.TASK_FLOPS / max(problem.flops / (tasks * parts), 1)))
    words = call.reshape(1).view(np.int64)
    return _Geometry(words, tasks * parts, scratch, slice_tasks, tasks, elements, tuple(keep))


@njit(error_model="numpy")
def _channels_innermost(to, width, start, rows, row_step, count, step, lanes, source, accumulator, size, element):  # type: ignore[no-untyped-def]
    """Copy `rows` channels of a row of `count` places to (count, width), with zeros beside the channels."""
    place = width * size
    squares = count // lanes if step == element else 0
    for first in range(0, width, lanes):
        done = 0
        if first + lanes <= rows:
            for square in range(squares):
                at = start + first * row_step + square * lanes * step
                turned = to + square * lanes * place + first * size
                transpose_square(turned, place, at, row_step, source, accumulator, accumulator)
            done = squares * lanes
        for row in range(first, first + lanes):
            for i in range(done, count):
                value = zero(accumulator)
                if row < rows:
                    value = load(start + row * row_step + i * step, source, accumulator)
                store(to + i * place + row * size, value, accumulator, accumulator)


@functools.cache
def _outer_products(source: int, accumulator: int) -> int:
    size, element, lanes = simd.BYTES[accumulator], simd.BYTES[source], simd.lanes_of(accumulator)
    version = simd.source_version()
    return int(_make_outer_products(source, accumulator, size, element, lanes, version).address)


def _make_outer_products(source: int, accumulator: int, size: int, element: int, lanes: int, version: int) -> Any:
    """Return the kernel; a task is one partial sum, group, chunk of outputs and chunk of channels."""

    @cfunc(kernels.KERNEL, cache=True, error_model="numpy")
    def outer_products(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        f = carray(phase_pointer(p.phases), p.phase_count)[0]
        channel, task = task % p.channel_chunks * p.channel_chunk, task // p.channel_chunks
        chunk, task = task % p.row_chunks, task // p.row_chunks
        group, part = task % p.groups, task // p.groups
        channels, first_row = min(p.channel_chunk, p.channels - channel), chunk * p.row_chunk
        rows_here = min(p.row_chunk, p.outputs - first_row)
        place, pitch = p.row_chunk * size, f.pitch_x * size
        pairs = channels * f.tap_count
        sums = p.partials + part * p.partial_bytes
        sums += ((group * p.row_chunks + chunk) * p.channels + channel) * f.tap_count * place
        packed_y = scratch + p.y_offset
        first = part * p.blocks_in_partial
        for number in range(first, min(first + p.blocks_in_partial, f.blocks * p.batch)):
            image, block = number // f.blocks, number % f.blocks
            qx, block = block % f.blocks_x * f.block_x, block // f.blocks_x
            qy, qz = block % f.blocks_y * f.block_y, block // f.blocks_y * f.block_z
            nx, ny = min(f.block_x, f.count_x - qx), min(f.block_y, f.count_y - qy)
            nz = min(f.block_z, f.count_z - qz)
            pack_input(
                p, f, p.x + image * p.xn, group * p.channels + channel, channels, qz, qy, qx, nz, ny, nx, scratch,
                source, accumulator, size,
            )  # fmt: skip
            corner = p.y + image * p.yn + (group * p.outputs + first_row) * p.yc + qz * p.yz + qy * p.yy + qx * p.yx
            for k in range(nz):
                for j in range(ny):
                    _channels_innermost(
                        packed_y + (k * ny + j) * nx * place, p.row_chunk, corner + k * p.yz + j * p.yy, rows_here,
                        p.yc, nx, p.yx, lanes, source, accumulator, size, element,
                    )  # fmt: skip
            rows = max(1, min(ny, _L1_BYTES // (nx * place)))
            for k in range(nz):
                for j in range(0, ny, rows):
                    fresh = number == first and k == 0 and j == 0
                    y, x = packed_y + (k * ny + j) * nx * place, scratch + (k * f.pitch_y + j) * pitch
                    high = min(rows, ny - j)
                    if p.row_chunk == 4 * lanes:
                        outer(sums, y, x, pitch, f.pairs, pairs, high, nx, fresh, 4, accumulator)
                    elif p.row_chunk == 2 * lanes:
                        outer(sums, y, x, pitch, f.pairs, pairs, high, nx, fresh, 2, accumulator)
                    else:
                        outer(sums, y, x, pitch, f.pairs, pairs, high, nx, fresh, 1, accumulator)

    return outer_products


@functools.cache
def _finish(accumulator: int, target: int) -> int:
    size, element, lanes = simd.BYTES[accumulator], simd.BYTES[target], simd.lanes_of(accumulator)
    return int(_make_finish(accumulator, target, size, element, lanes, simd.source_version()).address)


def _make_finish(accumulator: int, target: int, size: int, element: int, lanes: int, version: int) -> Any:
    """Return the kernel that adds the partial sums and writes w; a task is one group and a chunk of both channels."""

    @cfunc(
        types.void(types.CPointer(from_dtype(_FINISHING)), types.int64, types.int64), cache=True, error_model="numpy"
    )
    def finish(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        channel, task = task % p.channel_chunks * p.channel_chunk, task // p.channel_chunks
        chunk, group = task % p.row_chunks, task // p.row_chunks
        rows = min(p.row_chunk, p.outputs - chunk * p.row_chunk)
        place, pairs = p.row_chunk * size, min(p.channel_chunk, p.channels - channel) * p.tap_count
        offsets = carray(kernels.int_pointer(p.tap_bytes), p.tap_count)
        at = p.partials + ((group * p.row_chunks + chunk) * p.channels + channel) * p.tap_count * place
        to = p.w + (group * p.outputs + chunk * p.row_chunk) * p.wo + channel * p.wc
        for part in range(1, p.partial_count):
            add_run(at, at + part * p.partial_bytes, pairs * p.row_chunk, accumulator)
        # Where w is dense its pairs are consecutive, and squares of pairs and rows are turned in registers.
        turned_pairs = pairs - pairs % lanes if p.is_dense else 0
        turned_rows = rows - rows % lanes
        for pair in range(0, turned_pairs, lanes):
            for row in range(0, turned_rows, lanes):
                square = to + row * p.wo + pair * element
                transpose_square(square, p.wo, at + pair * place + row * size, place, accumulator, accumulator, target)
        for pair in range(pairs):
            column = to + pair // p.tap_count * p.wc + offsets[pair % p.tap_count]
            for row in range(turned_rows if pair < turned_pairs else 0, rows):
                total = load(at + pair * place + row * size, accumulator, accumulator)
                store(column + row * p.wo, total, accumulator, target)

    return finish


def weight_gradient(call: Call, w: Array, codes: tuple[int, int, int], operands: list[int]) -> None:
    """Write the weight gradient into w; `operands` are the call record's words for x and y."""
    problem = call.problem
    source, accumulator, target = codes
    dtype = np.dtype(geometry.accumulator_of(call.dtype, call.accumulator))
    g = _geometry(problem, dtype.name)
    elements = int(g.words[_PLACES["partial_count"]]) * g.partial_elements
    block = memory.take(elements * dtype.itemsize)
    fill = np.array([problem.padding_value, 0], dtype)
    words = g.words.copy()
    words[: len(operands) + 4] = (*operands, 0, 0, fill.ctypes.data, block[1])
    threads.run(_outer_products(source, accumulator), words, g.tasks, g.scratch_bytes, g.slice_tasks)
    taps = np.indices(problem.kernel).reshape(problem.rank, -1).T
    offsets = np.ascontiguousarray(taps @ np.array(w.strides[2:], np.int64))
    finishing = np.array(
        [
            w.ctypes.data, *w.strides[:2], offsets.ctypes.data, len(offsets), w[0].flags.c_contiguous,
            *(words[_PLACES[name]] for name in _SHARED),
        ],
        np.int64,
    )  # fmt: skip
    alone = elements < 20_000
    threads.run(_finish(accumulator, target), finishing, g.finish_tasks, 64, g.finish_tasks, alone=alone)
    memory.give_back(block)
