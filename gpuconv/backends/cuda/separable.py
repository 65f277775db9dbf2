"""Separable filters on CUDA: a pass along rows and a pass down columns, both in one launch.

Serves calls whose weights are given as one vector for each of two axes. The kernel (`separable_kernels.passes`) takes
every size at run time; this module chooses the tile. See docs/kernels_cuda_separable.md.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import batches
from gpuconv.backends.cuda.geometry import axis_strides, refused, summed
from gpuconv.dtypes import to_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.memory import Array
    from gpuconv.dispatch import Call
    from gpuconv.factors import Factors
    from gpuconv.problem import ConvProblem

__all__ = ["TAKES", "THREADS", "Space", "Tile", "cost", "pack", "run", "space_of", "supports", "tile_of", "workspace"]

TAKES = ("factors", "other dtypes")
THREADS = 128
_STAGING = 4
"""Cost of staging one input against one product. An estimate: not measured."""


class Space(NamedTuple):
    """Shared memory of a block, in elements."""

    staged: int
    """Inputs."""
    sums: int
    """Sums along rows."""
    weights: int
    places: int
    """Columns of a halo and rows staged at once, whose places in memory are kept."""


class Tile(NamedTuple):
    """What a block computes."""

    rows: int
    columns: int
    staged_rows: int
    """Rows of the input that are staged at a time."""


_SPACES = {4: Space(4608, 6336, 256, 288), 8: Space(2304, 3168, 256, 288)}
"""By bytes of a sum; less than 48 KiB in all."""


def space_of(sums: str) -> Space:
    """Return the shared memory of a block whose sums have a dtype."""
    return _SPACES[np.dtype(sums).itemsize]


@functools.lru_cache(maxsize=1024)
def tile_of(height: int, width: int, space: Space) -> Tile | None:
    """Return the tile that does least besides what is needed, for passes of so many weights; None where none fits."""
    if height + width > space.weights:
        return None
    best, least = None, float("inf")
    for columns, rows, staged in itertools.product((8, 16, 32, 64), (8, 16, 32, 64, 128), (8, 16, 32)):
        halo_rows, halo_columns = rows + height - 1, columns + width - 1
        if (
            staged * (halo_columns | 1) > space.staged
            or halo_rows * (columns | 1) > space.sums
            or halo_columns + staged > space.places
        ):
            continue
        work = (halo_rows * (_STAGING * halo_columns + columns * width) + rows * columns * height) / (rows * columns)
        # Threads without a share of a stage or of the tile's columns wait for the others.
        shares = min(staged * columns, rows * columns) / 8
        work *= max(THREADS / shares, 1.0)
        if work < least:
            best, least = Tile(rows, columns, staged), work
    return best


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p, factored = call.problem, call.factored
    if factored is None:
        return "the weights are not given as factors"
    if call.operation != "forward":
        return "only the forward operation runs in passes"
    if factored.terms > 1:
        return f"the weights are a sum of {factored.terms} products: it takes one"
    if factored.is_whole:
        return "values between its passes keep their fraction"
    if summed(call) not in ("float32", "float64"):
        return f"passes sum float32 and float64, not {summed(call)}"
    if p.rank != 2 or p.in_channels != 1 or p.out_channels != 1:
        return "passes take images of one channel"
    if any(s != 1 for s in (*p.stride, *p.dilation, *p.input_dilation)):
        return "passes take neither strides nor dilation"
    if tile_of(p.kernel[0], p.kernel[1], space_of(summed(call))) is None:
        return f"passes of {p.kernel} weights do not fit in a block's shared memory"
    return refused(call)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds, of all that the tiles compute: the halo's rows and what is staged, too."""
    p = call.problem
    tile = tile_of(p.kernel[0], p.kernel[1], space_of(summed(call)))
    if tile is None:
        return float("inf")
    blocks = p.batch * -(-p.output[0] // tile.rows) * -(-p.output[1] // tile.columns)
    halo_rows, halo_columns = tile.rows + p.kernel[0] - 1, tile.columns + p.kernel[1] - 1
    products = halo_rows * tile.columns * p.kernel[1] + tile.rows * tile.columns * p.kernel[0]
    flops = 2 * blocks * (products + _STAGING * halo_rows * halo_columns)
    return tuning_cuda.cuda_cost("separable", summed(call), flops, call.bytes, device.flops, device.bandwidth)


def workspace(call: Call) -> int:
    """Return the bytes of the weights on the GPU."""
    return sum(call.problem.kernel) * np.dtype(summed(call)).itemsize


def pack(call: Call, w: Factors) -> NDArray[Any]:
    """Return the weights of the two passes, one after the other, in the dtype of the sums."""
    (vectors,) = w.terms
    return np.concatenate([np.asarray(vector, summed(call)).reshape(-1) for vector in vectors])


@batches.split
def run(call: Call, x: Array, w: Factors, y: Array, bias: Array | None, packed: Any = None) -> None:
    """Write the filtered x into y; see `gpuconv.dispatch`."""
    from gpuconv.backends.cuda import device, launch, memory, separable_kernels

    p, sums, result = call.problem, summed(call), call.result or call.dtype
    tile, threads = tile_of(p.kernel[0], p.kernel[1], space_of(sums)), THREADS
    if device().simulated:
        tile, threads = Tile(8, 8, 8), 4
    if tile is None or y.size == 0:
        return
    kernel = separable_kernels.passes(call.dtype, sums, result, space_of(sums), threads)
    kind = to_numpy(sums).type
    with memory.Job(x, y) as job:
        weights = job.upload(pack(call, w) if packed is None else packed)
        source, target = job.read(x, call.dtype), job.write(y, result, exact=True)
        meta = job.resident(_numbers, p, tile, source.strides, target.strides)
        blocks = -(-p.output[0] // tile.rows) * -(-p.output[1] // tile.columns)
        divisor = kind(w.divisor)
        for first in range(0, p.batch, launch.GRID_Y):
            grid = blocks, min(launch.GRID_Y, p.batch - first)
            fill = kind(p.padding_value)
            job.launch(kernel, grid, threads, source.data, weights, target.data, fill, divisor, meta, first)


def _numbers(
    p: ConvProblem, tile: Tile, in_strides: tuple[int, ...], out_strides: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return what the kernel reads, in the order that `separable_kernels` names."""
    from gpuconv.backends.cuda import separable_kernels

    source, target = axis_strides(p, in_strides), axis_strides(p, out_strides)
    (low_row, high_row), (low_column, high_column) = p.cropped
    fields = {
        "tiles": -(-p.output[1] // tile.columns),
        "height": p.kernel[0],
        "width": p.kernel[1],
        "rows": tile.rows,
        "columns": tile.columns,
        "staged_rows": tile.staged_rows,
        "mode": p.mode_code,
        "first_row": -p.padding[0][0],
        "first_column": -p.padding[1][0],
        "low_row": low_row,
        "low_column": low_column,
        "high_row": high_row,
        "high_column": high_column,
        "out_rows": p.output[0],
        "out_columns": p.output[1],
        "in_batch": source.batch,
        "in_row": source.axes[1],
        "in_column": source.axes[2],
        "out_batch": target.batch,
        "out_row": target.axes[1],
        "out_column": target.axes[2],
    }
    return np.array([fields[name] for name in separable_kernels.FIELDS], np.int64)
