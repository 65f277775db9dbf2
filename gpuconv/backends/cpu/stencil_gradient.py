"""The weight gradient of stencils: each group's few inputs against its few outputs, in native memory order.

A block of the input is packed as for the forward stencil, its border and its stride with it, and every part of the
kernel is summed over the block's outputs in register blocks of taps (`stencil_taps`). A task takes a chunk of groups
and a partial sum over images and blocks; the partial sums depend on the shapes alone and are added in order, so the
result has the same bits at any number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import carray, cfunc, njit, types

from gpuconv.backends.cpu import elements, simd, threads
from gpuconv.backends.cpu import stencil_kernels as kernels
from gpuconv.backends.cpu.elements import fill_run, store, zero
from gpuconv.backends.cpu.records import record, record_at
from gpuconv.backends.cpu.simd import CODES, call
from gpuconv.backends.cpu.stencil_geometry import stencil_geometry
from gpuconv.backends.cpu.stencil_taps import most_taps, tap_sums, total

if TYPE_CHECKING:
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["scratch_bytes", "weight_gradient"]

_TASKS = 32
_TASK_FLOPS = 100e6

_GRADIENT = record(
    # the forward problem's record, and its `pack`
    "forward pack x y partials partial_bytes batch taps part_blocks group_chunk group_chunks sums_offset"
)


class _Geometry(NamedTuple):
    forward: Array
    words: Array
    tasks: int
    partials: int
    scratch_bytes: int
    slice_tasks: int
    slices: tuple[tuple[Any, ...], ...]
    keep: Array


@functools.lru_cache(maxsize=1024)
def _geometry(problem: ConvProblem, accumulator: str) -> _Geometry:
    # Partial sums depend on the blocks, which therefore may not depend on the number of threads.
    g = stencil_geometry(problem, accumulator, _TASKS)
    forward = dict(zip(kernels.CALL.names or (), g.words.tolist(), strict=True))
    vector = simd.vector_bits() // 8
    taps = math.prod(problem.w_shape[1:])
    outputs, groups = problem.out_channels // problem.groups, problem.groups
    blocks = problem.batch * math.prod(forward[f"blocks_{axis}"] for axis in "zyx")
    per_group = 2.0 * blocks * taps * outputs * math.prod(forward[f"block_{axis}"] for axis in "zyx")
    partials = max(1, min(blocks, -(-_TASKS // groups), int(per_group * groups / 200e3)))
    part_blocks = max(1, -(-blocks // partials))
    partials = max(1, -(-blocks // part_blocks))
    chunk = max(1, min(groups * partials // _TASKS, int(_TASK_FLOPS / max(per_group / partials, 1))))
    chunks = -(-groups // chunk)
    sums_offset = forward["sums_offset"]
    record = np.zeros((), _GRADIENT)
    for name, value in (
        ("partial_bytes", problem.out_channels * taps * np.dtype(accumulator).itemsize),
        ("batch", problem.batch), ("taps", taps), ("part_blocks", part_blocks), ("group_chunk", chunk),
        ("group_chunks", chunks), ("sums_offset", sums_offset),
    ):  # fmt: skip
        record[name] = value
    scratch = -(-(sums_offset + outputs * taps * vector) // 64) * 64
    slice_tasks = max(1, int(2 * _TASK_FLOPS / max(per_group / partials * chunk, 1)))
    words = record.reshape(1).view(np.int64)
    return _Geometry(g.words, words, chunks * partials, partials, scratch, slice_tasks, g.slices, g.parts)


def scratch_bytes(problem: ConvProblem, accumulator: str) -> int:
    """Return the bytes of scratch memory that a task takes."""
    return _geometry(problem, accumulator).scratch_bytes


_gradient_record = record_at(_GRADIENT)


@njit(error_model="numpy")
def _every_part(p, sums, vector, at, y, rows, y_step, count, most, accumulator, size):  # type: ignore[no-untyped-def]
    """Add what `rows` rows of outputs give to the sums of all taps, in blocks of taps of nearly the same size."""
    for part in range(p.part_count):
        record = p.parts + kernels.PART_BYTES * part
        offset, taps = elements.read(record), elements.read(record + 8)
        columns, own = elements.read(record + 16), sums + elements.read(record + 24) // size * vector
        tiles_m, tiles_n = (taps + most - 1) // most, (columns + most - 1) // most
        for i in range(tiles_m):
            m = taps * i // tiles_m
            for j in range(tiles_n):
                n = columns * j // tiles_n
                tap_sums(
                    own + (n * taps + m) * vector, taps * vector, taps * (i + 1) // tiles_m - m,
                    columns * (j + 1) // tiles_n - n, y, y_step, at + offset + m * p.row_step + n * p.column_step,
                    p.row_step, p.column_step, rows, count, accumulator,
                )  # fmt: skip


@functools.cache
def _gradient(code: int) -> int:
    version = simd.source_version()
    return int(_make_gradient(code, simd.BYTES[code], simd.lanes_of(code), most_taps(), version).address)


def _make_gradient(code: int, size: int, lanes: int, most: int, version: int) -> Any:
    """Return the kernel; a task is a chunk of groups in one partial sum."""

    @cfunc(types.void(types.int64, types.int64, types.int64), cache=True, error_model="numpy")
    def gradient(address, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        g = carray(_gradient_record(address), 1)[0]
        p = carray(kernels.call_record(g.forward), 1)[0]
        first_group, part = task % g.group_chunks * g.group_chunk, task // g.group_chunks
        blocks = p.blocks_z * p.blocks_y * p.blocks_x
        first, last = part * g.part_blocks, min((part + 1) * g.part_blocks, g.batch * blocks)
        vector, sums = lanes * size, scratch + g.sums_offset
        for group in range(first_group, min(first_group + g.group_chunk, p.groups)):
            fill_run(sums, p.outputs * g.taps * lanes, zero(code), code)
            for number in range(first, last):
                image, block = number // blocks, number % blocks
                qx, block = block % p.blocks_x * p.block_x, block // p.blocks_x
                qy, qz = block % p.blocks_y * p.block_y, block // p.blocks_y * p.block_z
                nx, ny = min(p.block_x, p.count_x - qx), min(p.block_y, p.count_y - qy)
                nz = min(p.block_z, p.count_z - qz)
                # The border of the same block of another image or channel is still there.
                again = blocks == 1 and (group > first_group or number > first)
                x = g.x + image * p.xn + group * p.channels * p.xc
                rows = (ny - 1) * p.advance_y + p.reach_y + 1
                for channel in range(p.channels):
                    for plane in range((nz - 1) * p.advance_z + p.reach_z + 1):
                        call(
                            g.pack,
                            (
                                g.forward, x + channel * p.xc, scratch + channel * p.channel_bytes, plane, 0, rows,
                                qz, qy, qx, nx, 1 if again else 0,
                            ),
                        )  # fmt: skip
                for k in range(nz):
                    for gap in range(min(p.row_gap, ny)):
                        at = scratch + k * p.advance_z * p.plane + gap * p.advance_y * p.row_bytes
                        y = g.y + image * p.yn + (qz + k) * p.yz + (qy + gap) * p.yy + qx * size
                        for output in range(p.outputs):
                            _every_part(
                                p, sums + output * g.taps * vector, vector, at, y + (group * p.outputs + output) * p.yc,
                                (ny - gap + p.row_gap - 1) // p.row_gap, p.yy * p.row_gap, nx, most, code, size,
                            )  # fmt: skip
            to = g.partials + part * g.partial_bytes + group * p.outputs * g.taps * size
            for tap in range(p.outputs * g.taps):
                store(to + tap * size, total(sums + tap * vector, code), code, code)

    return gradient


def weight_gradient(call: Call, w: Array, x: list[int], y: list[int], source: int) -> None:
    """Write the weight gradient into w; `x` and `y` are the words of the call record for the two arrays."""
    problem = call.problem
    dtype = np.dtype(call.accumulator)
    g = _geometry(problem, dtype.name)
    taps = math.prod(problem.w_shape[1:])
    partials = np.empty((g.partials, problem.out_channels, taps), dtype)
    fill = np.array([problem.padding_value, 0], dtype)
    forward, words = g.forward.copy(), g.words.copy()
    code = CODES[dtype.name]
    forward[: len(x) + len(y)] = *x, *y
    forward[_FILL] = fill.ctypes.data
    words[:5] = (
        forward.ctypes.data, kernels.block_packing(source, code), x[0], y[0], partials.ctypes.data,
    )  # fmt: skip
    threads.run(_gradient(code), words, g.tasks, g.scratch_bytes, g.slice_tasks, alone=call.flops < threads.SMALL_FLOPS)
    sums = partials[0] if g.partials == 1 else np.add.reduce(partials, axis=0)
    shape = (problem.out_channels, problem.in_channels // problem.groups, *(1,) * (3 - problem.rank), *problem.kernel)
    if not g.slices:
        dense = sums.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)
    else:
        dense, done = np.empty(shape, dtype), 0
        for place in g.slices:
            columns = dense[(slice(None), *place)].swapaxes(-1, -2)
            number = math.prod(columns.shape[1:])
            columns[...] = sums[:, done : done + number].reshape(columns.shape)
            done += number
    w[...] = dense.reshape(w.shape)


_FILL = (kernels.CALL.names or ()).index("fill")
