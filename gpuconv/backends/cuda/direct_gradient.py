"""The gradient by the weights on CUDA, for `direct`: tiles, slices of the sum and the numbers that its kernel reads."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends.cuda.geometry import AxisStrides, axis_strides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda.memory import Array
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem
    from gpuconv.tuning_cuda import GradientTile

__all__ = ["run", "tile_of", "work"]

_SLICE_DEPTHS = 8
"""Staged parts of the sum that a slice has at least: a shorter one costs more to add than it computes."""


def run(call: Call, x: Array, w: Array, y: Array) -> None:
    """Write the gradient by w, every element of it."""
    from gpuconv.backends.cuda import device, direct_gradient_kernels, launch, memory, scalars

    if w.size == 0:
        return
    p, kinds = call.problem, scalars.of(call.dtype)
    tiles = tuning_cuda.CUDA_GRADIENT_TILES[kinds.sums.itemsize]
    tile = tile_of(p, kinds.parts, tuning_cuda.CUDA_SIMULATOR_GRADIENT_TILES if device().simulated else tiles)
    with memory.Job(x, y, w) as job:
        target = job.write(w, call.dtype, flat=True)
        inputs, outputs = job.read(x, call.dtype), job.read(y, call.dtype)
        key = p, tile, kinds.parts, inputs.strides, outputs.strides
        meta, slices, blocks = job.resident(_numbers, *key), *_cut(p, tile, kinds.parts)
        partial = job.empty(slices * w.size * kinds.parts, kinds.sums)
        kernel = direct_gradient_kernels.contraction(kinds.kind, tile, kinds.parts)
        fill = kinds.sums.type(p.padding_value)
        for first in range(0, p.groups, launch.GRID_Y):
            grid = blocks * slices, min(launch.GRID_Y, p.groups - first)
            job.launch(kernel, grid, tile.threads, inputs.data, outputs.data, partial, fill, meta, first)
        add, count = direct_gradient_kernels.add_slices(kinds.kind), launch.blocks_of(w.size * kinds.parts)
        job.launch(add, (count,), launch.THREADS, partial, target.data, slices)


def tile_of(p: ConvProblem, parts: int, tiles: tuple[GradientTile, ...]) -> GradientTile:
    """Return the tile with the least arithmetic, idle threads included."""
    rows, columns, _ = _sizes(p, parts)

    def work(tile: GradientTile) -> tuple[int, int]:
        padded = -(-rows // tile.rows) * tile.rows * (-(-columns // tile.columns) * tile.columns)
        return padded, -tile.rows_per_thread * tile.columns_per_thread

    return min(tiles, key=work)


def work(p: ConvProblem, parts: int, tiles: tuple[GradientTile, ...]) -> float:
    """Return the instructions of a lane, in products, that the gradient takes."""
    rows, columns, length = _sizes(p, parts)
    tile = tile_of(p, parts, tiles)
    padded = -(-rows // tile.rows) * tile.rows * (-(-columns // tile.columns) * tile.columns)
    sums = tile.rows_per_thread * tile.columns_per_thread
    return p.groups * length * padded * (sums + tile.rows_per_thread + tile.columns_per_thread + 8) / sums


def _sizes(p: ConvProblem, parts: int) -> tuple[int, int, int]:
    """Return the rows and columns of a group's gradient, and the length of its sums."""
    columns = p.in_channels // p.groups * math.prod(p.kernel)
    return p.out_channels // p.groups * parts, columns, p.batch * math.prod(p.output) * parts


@functools.lru_cache(maxsize=256)
def _cut(p: ConvProblem, tile: GradientTile, parts: int) -> tuple[int, int]:
    """Return the number of slices and that of tiles of a group."""
    rows, columns, length = _sizes(p, parts)
    blocks = -(-rows // tile.rows) * -(-columns // tile.columns)
    wanted = -(-tuning_cuda.CUDA_GRADIENT_BLOCKS // (blocks * p.groups))
    return max(min(wanted, length // (_SLICE_DEPTHS * tile.depth)), 1), blocks


def _numbers(
    p: ConvProblem, tile: GradientTile, parts: int, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return what the kernel reads, in the order that `direct_gradient_kernels` names."""
    from gpuconv.backends.cuda import direct_gradient_kernels as kernels

    rows, columns, length = _sizes(p, parts)
    slices, _ = _cut(p, tile, parts)
    each = -(-length // slices)
    x: AxisStrides = axis_strides(p, x_strides)
    y: AxisStrides = axis_strides(p, y_strides)
    head = {
        "rows": rows,
        "columns": columns,
        "row_tiles": -(-rows // tile.rows),
        "column_tiles": -(-columns // tile.columns),
        "slices": slices,
        "length": length,
        "slice_length": each,
        "taps": math.prod(p.kernel),
        "mode": p.mode_code,
        "along_rows": y.channel < y.axes[2],
        "x_batch": x.batch,
        "x_channel": x.channel,
        "x_group": p.in_channels // p.groups * x.channel,
        "y_batch": y.batch,
        "y_channel": y.channel,
        "y_group": p.out_channels // p.groups * y.channel,
        "groups": p.groups,
    }
    numbers = [head[name] for name in kernels.FIELDS]
    missing = 3 - p.rank
    for axis in range(-missing, p.rank):
        there = axis >= 0
        low, high = p.cropped[axis] if there else (0, 1)
        fields = {
            "output": p.output[axis] if there else 1,
            "kernel": p.kernel[axis] if there else 1,
            "stride": p.stride[axis] if there else 1,
            "dilation": p.dilation[axis] if there else 1,
            "first": -p.padding[axis][0] if there else 0,
            "low": low,
            "size": high - low,
            "inner": p.input_dilation[axis] if there else 1,
            "x_stride": x.axes[axis + missing],
            "y_stride": y.axes[axis + missing],
        }
        numbers += [fields[name] for name in kernels.AXIS_FIELDS]
    return np.array(numbers, np.int64)
