"""Implicit matrix product on CUDA: a convolution as one product a group, whose second matrix is never written down.

Serves forward, transposed and input-gradient calls of several channels, one launch for each combination of phases
(`ConvProblem.phases`).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import batches
from gpuconv.backends.cuda.geometry import axis_strides, bytes_of_a_sum, bytes_of_gathered, computed
from gpuconv.dtypes import result_dtype, to_numpy
from gpuconv.problem import AxisPhase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.memory import Array, Job
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem
    from gpuconv.tuning_cuda import GemmTile

__all__ = ["FUSES", "cost", "pack", "run", "supports", "tile_of", "tiles_of", "workspace"]

FUSES = ("relu",)
"""As of `direct`."""

_WHOLE_AXIS = AxisPhase(0, 1, 1, 1, ((0, 0),))
"""The phase of an axis that a problem of lower rank has not got."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.operation == "weight_gradient":
        return "it computes no gradient by the weights"
    if call.operation != "forward" and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: it computes input gradients for the 'zeros' border only"
    if call.is_complex:
        return f"it does not take {call.dtype}"
    return None


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds: idle rows, columns and channels of the tiles are computed too."""
    p = computed(call)
    tile = tile_of(p, tiles_of(call.dtype, bytes_of_a_sum(call)))
    rows, columns, channels = p.gemm[0], p.gemm[1], p.in_channels // p.groups
    useful = max(rows * columns * channels, 1)
    done = _up(rows, tile.rows) * _up(columns, tile.columns) * _up(channels, tile.depth)
    # Fewer blocks than multiprocessors leave some of those idle.
    blocks = _up(rows, tile.rows) // tile.rows * (_up(columns, tile.columns) // tile.columns) * p.groups
    idle = max(device.multiprocessors / max(blocks, 1), 1.0)
    flops = call.flops * done / useful * idle
    return tuning_cuda.cuda_cost("implicit_gemm", call.dtype, flops, call.bytes, device.flops, device.bandwidth)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def tiles_of(dtype: str, itemsize: int) -> tuple[GemmTile, ...]:
    """Return the tiles for a dtype whose sums have so many bytes."""
    most = tuning_cuda.CUDA_LARGEST_SUMS.get(dtype, math.inf)
    tiles = tuning_cuda.CUDA_GEMM_TILES[itemsize]
    return tuple(tile for tile in tiles if tile.rows_per_thread * tile.columns_per_thread <= most)


def tile_of(p: ConvProblem, tiles: tuple[GemmTile, ...]) -> GemmTile:
    """Return the tile that computes least beside what is asked for; of equal ones the first, which is the largest."""
    rows, columns, _ = p.gemm
    return min(tiles, key=lambda tile: _up(rows, tile.rows) * _up(columns, tile.columns))


def workspace(call: Call) -> int:
    """Return the bytes of the gathered weights and of their index."""
    return bytes_of_gathered(call)


def pack(call: Call, w: Array) -> Any:
    """Return the weights on the GPU: phase after phase, each (groups, taps, inputs, outputs)."""
    from gpuconv.backends.cuda import memory

    with memory.Job(w) as job:
        packed = _packed(call, w, job)
        job.synchronize()
    return packed


def _packed(call: Call, w: Array, job: Job) -> Any:
    return job.gather(w, call.dtype, _order, call)


def _order(call: Call) -> NDArray[Any]:
    """Return where each packed number lies in w."""
    p = call.problem
    count = math.prod(p.w_shape)
    kernel: NDArray[Any] = np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64)
    kernel = kernel.reshape(p.groups, p.out_channels // p.groups, *p.w_shape[1:])
    if call.operation != "forward":
        kernel = np.flip(kernel.swapaxes(1, 2), axis=tuple(range(3, kernel.ndim)))
    phases = []
    for phase in computed(call).all_phases:
        taps = np.ix_(*([t for t, _ in axis.taps] for axis in phase))
        part = kernel[(slice(None),) * 3 + taps]
        phases.append(np.moveaxis(part, (2, 1), (-2, -1)).reshape(-1))
    return np.concatenate(phases)


@batches.split
def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
    """Write y (forward) or x (transposed, input_gradient), every element of it."""
    from gpuconv.backends.cuda import device, implicit_gemm_kernels, launch, memory, scalars

    read, written = (x, y) if call.operation == "forward" else (y, x)
    if written.size == 0:
        return
    p, kinds = computed(call), scalars.of(call.dtype)
    tiles = tiles_of(call.dtype, kinds.sums.itemsize)
    tile = tile_of(p, tuning_cuda.CUDA_SIMULATOR_GEMM_TILES if device().simulated else tiles)
    with memory.Job(read, w, written, bias) as job:
        weights = _packed(call, w, job) if packed is None else packed
        source, target = job.read(read, call.dtype), job.write(written, call.dtype)
        strides = axis_strides(p, source.strides)
        activation = call.activation if call.activation in FUSES else ""
        inside = strides.channel < strides.axes[2]
        kernel = implicit_gemm_kernels.product(kinds.kind, tile, inside, activation)
        offset = target.data
        if bias is not None:
            offset = job.read(bias, result_dtype(to_numpy(call.dtype)).name, flat=True).data
        key = p, tile, source.strides, target.strides, bias is not None
        meta, fill = job.resident(_numbers, *key), kinds.sums.type(p.padding_value)
        for part in _launches(*key)[0]:
            numbers = meta[part.begin : part.end]
            for first in range(0, p.groups, launch.GRID_Y):
                grid = part.blocks, min(launch.GRID_Y, p.groups - first)
                job.launch(
                    kernel, grid, tile.threads, source.data, weights, offset, target.data, fill, numbers, first
                )  # fmt: skip


class _Launch(NamedTuple):
    """One launch of the kernel: one phase."""

    blocks: int
    begin: int
    """Where its numbers begin in the array of all launches."""
    end: int


def _numbers(*key: Any) -> NDArray[np.int64]:
    """Return the numbers of `_launches`."""
    return _launches(*key)[1]


@functools.lru_cache(maxsize=256)
def _launches(
    p: ConvProblem, tile: GemmTile, in_strides: tuple[int, ...], out_strides: tuple[int, ...], biased: bool
) -> tuple[tuple[_Launch, ...], NDArray[np.int64]]:
    """Return the launches of a problem, and the numbers that their kernels read, one after the other."""
    from gpuconv.backends.cuda import implicit_gemm_kernels as kernels

    missing, source, target = 3 - p.rank, axis_strides(p, in_strides), axis_strides(p, out_strides)
    cropped = (*((0, 1),) * missing, *p.cropped)
    rows, channels = p.out_channels // p.groups, p.in_channels // p.groups
    launches: list[_Launch] = []
    numbers, weights = [], 0
    for phase in p.all_phases:
        axes = (*(_WHOLE_AXIS,) * missing, *phase)
        taps = math.prod(len(axis.taps) for axis in axes)
        columns = p.batch * math.prod(axis.count for axis in axes)
        head = {
            "rows": rows,
            "columns": columns,
            "row_tiles": -(-rows // tile.rows),
            "channels": channels,
            "chunks": -(-channels // tile.depth),
            "taps": taps,
            "mode": p.mode_code,
            "biased": biased,
            "weights_start": weights,
            "in_start": sum(low * stride for (low, _), stride in zip(cropped, source.axes, strict=True)),
            "in_batch": source.batch,
            "in_group": channels * source.channel,
            "in_channel": source.channel,
            "out_start": sum(axis.start * stride for axis, stride in zip(axes, target.axes, strict=True)),
            "out_batch": target.batch,
            "out_channel": target.channel,
        }
        meta = [head[name] for name in kernels.FIELDS]
        for axis, (low, high), in_stride, out_stride in zip(axes, cropped, source.axes, target.axes, strict=True):
            meta += [axis.count, axis.advance, high - low, in_stride, axis.step * out_stride]
        lows = [low for low, _ in cropped]
        for tap in itertools.product(*([offset for _, offset in axis.taps] for axis in axes)):
            meta += [offset - low for offset, low in zip(tap, lows, strict=True)]
        begin = launches[-1].end if launches else 0
        blocks = -(-rows // tile.rows) * -(-columns // tile.columns)
        launches.append(_Launch(blocks, begin, begin + len(meta)))
        numbers += meta
        weights += p.groups * taps * channels * rows
    return tuple(launches), np.array(numbers, np.int64)
