"""Direct convolution on CUDA: the definition, tiled through shared memory.

A transposed convolution, and so an input gradient, is an ordinary convolution for each combination of its axes' phases
(`ConvProblem.phases`), on that phase's share of the taps. A forward convolution is the case of one phase, so one kernel
(`direct_kernels.convolution`) serves all three; this module chooses tiles and writes down what the kernel reads.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import tuning
from gpuconv.boundary import source_index
from gpuconv.dtypes import to_numpy
from gpuconv.problem import AxisPhase, ConvProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.dispatch import Call
    from gpuconv.tuning import CudaTile

    Array = NDArray[Any]

__all__ = ["cost", "pack", "run", "supports"]

_STAGED_COST = {True: 8, False: 24}
"""Cost of staging one input against one multiplication, with and without a halo. Estimates: not measured."""

_WHOLE_AXIS = AxisPhase(0, 1, 1, 1, ((0, 0),))
"""The phase of an axis that a problem of lower rank has not got."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    if call.dtype not in tuning.CUDA_DIRECT_TILES:
        known = " and ".join(tuning.CUDA_DIRECT_TILES)
        return f"{call.dtype} is not written yet for this backend; {known} are"
    if call.operation == "weight_gradient":
        return "the weight gradient is not written yet for this backend"
    p = call.problem
    if call.operation == "transposed" and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: a transposed convolution has the 'zeros' border only"
    return None


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds."""
    constants = tuning.CUDA_COSTS["direct"]
    return constants.overhead + call.flops / constants.flops + call.bytes / constants.bandwidth


def pack(call: Call, w: Array) -> Any:
    """Return the weights on the GPU: phase after phase, each (groups, inputs, taps, outputs)."""
    from gpuconv.backends.cuda import launch

    problem, groups = _computed(call), call.problem.groups
    kernel = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    if call.operation != "forward":
        kernel = np.flip(kernel.swapaxes(1, 2), axis=tuple(range(3, kernel.ndim)))
    phases = []
    for phase in problem.all_phases:
        taps = np.ix_(*([t for t, _ in axis.taps] for axis in phase))
        phases.append(np.moveaxis(kernel[(slice(None),) * 3 + taps], 1, -1).reshape(-1))
    return launch.to_device(np.concatenate(phases))


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
    """Write y (forward) or x (transposed, input_gradient), every element of it."""
    from gpuconv.backends.cuda import device, direct_kernels, launch

    read, written = (x, y) if call.operation == "forward" else (y, x)
    if written.size == 0:
        return
    problem, dtype = _computed(call), to_numpy(call.dtype)
    weights = pack(call, w) if packed is None else packed
    source = launch.to_device(read)
    result = launch.empty(math.prod(problem.y_shape), dtype)
    offset = launch.to_device(np.zeros(problem.out_channels, dtype) if bias is None else bias)
    tiles = tuning.CUDA_SIMULATOR_TILES if device().simulated else tuning.CUDA_DIRECT_TILES[call.dtype]
    launches, numbers = _launches(problem, tiles)
    meta = launch.to_device(numbers)
    fill, images = dtype.type(problem.padding_value), problem.batch * problem.groups
    for part in launches:
        kernel = direct_kernels.convolution(call.dtype, part.tile, part.halo)
        for first in range(0, images, launch.GRID_Y):
            grid = part.blocks, min(launch.GRID_Y, images - first)
            numbers_of_part = meta[part.begin : part.end]
            launch.launch(
                kernel, grid, part.tile.threads, source, weights, offset, result, fill, numbers_of_part, first
            )
    if call.operation != "forward" and call.problem.padding_mode != "zeros":
        result = _folded(call, result)
    launch.to_host(result, written)


def _computed(call: Call) -> ConvProblem:
    """Return the problem whose forward convolution the call is, with its border's share left to `_folded`."""
    problem = call.problem
    if call.operation == "forward":
        return problem
    return problem.adjoint() if problem.padding_mode == "zeros" else problem.on_padded().adjoint()


class _Launch(NamedTuple):
    """One launch of the kernel: one phase."""

    tile: CudaTile
    halo: bool
    blocks: int
    begin: int
    """Where its numbers begin in the array of all launches."""
    end: int


class _Tiling(NamedTuple):
    """How a phase is cut into blocks."""

    cost: float
    tile: CudaTile
    size: tuple[int, ...]
    """Positions of a tile on each axis."""
    halo: bool
    extent: tuple[int, ...]
    """Inputs that a tile reads on each axis, from the first to the last."""


@functools.lru_cache(maxsize=256)
def _launches(problem: ConvProblem, tiles: tuple[CudaTile, ...]) -> tuple[tuple[_Launch, ...], NDArray[np.int64]]:
    """Return the launches of a problem, and the numbers that their kernels read, one after the other."""
    missing = 3 - problem.rank
    launches, numbers, end, weights = [], [], 0, 0
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    for phase in problem.all_phases:
        axes = (*(_WHOLE_AXIS,) * missing, *phase)
        offsets = tuple(tuple(offset for _, offset in axis.taps) for axis in axes)
        counts, advances = tuple(axis.count for axis in axes), tuple(axis.advance for axis in axes)
        spans = tuple(max(o) - min(o) if o else 0 for o in offsets)
        taps = math.prod(map(len, offsets))
        tiling = _tiling(counts, advances, spans, taps, outputs, tiles)
        meta = _meta(problem, axes, offsets, tiling, weights)
        weights += problem.groups * channels * taps * outputs
        blocks = math.prod(-(-n // size) for n, size in zip(counts, tiling.size, strict=True))
        begin, end = end, end + len(meta)
        launches.append(_Launch(tiling.tile, tiling.halo, blocks * -(-outputs // tiling.tile.outputs), begin, end))
        numbers.append(meta)
    return tuple(launches), np.concatenate(numbers)


def _meta(
    problem: ConvProblem,
    axes: tuple[AxisPhase, ...],
    offsets: tuple[tuple[int, ...], ...],
    tiling: _Tiling,
    weights: int,
) -> NDArray[np.int64]:
    """Return the numbers of one phase, in the order that `direct_kernels` names."""
    from gpuconv.backends.cuda import direct_kernels as kernels

    missing, tile = 3 - problem.rank, tiling.tile
    in_batch, in_channel, in_axes = _strides(problem.in_channels, problem.spatial, problem.layout)
    out_batch, out_channel, out_axes = _strides(problem.out_channels, problem.output, problem.layout)
    cropped = (*((0, 1),) * missing, *problem.cropped)
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    taps, volume = math.prod(map(len, offsets)), math.prod(tiling.extent)
    lanes = 1
    if problem.layout == "channels_last":
        while lanes < 32 and 2 * lanes <= channels and tile.threads % (2 * lanes) == 0:
            lanes *= 2
    # Threads of a warp that store neighbouring channels of one position: an odd pitch keeps their banks apart.
    pitch = volume | 1 if lanes > 1 and volume | 1 <= tile.staged else volume
    fits = max(min(tile.staged // pitch, channels), 1)
    head = {
        "groups": problem.groups,
        "channels": channels,
        "outputs": outputs,
        "output_tiles": -(-outputs // tile.outputs),
        "taps": taps,
        "segment": fits * taps if tiling.halo else tile.depth,
        "pitch": pitch,
        "lanes": lanes,
        "mode": problem.mode_code,
        "in_start": sum(low * stride for (low, _), stride in zip(cropped, in_axes, strict=True)),
        "in_batch": in_batch,
        "in_channel": in_channel,
        "out_start": sum(axis.start * stride for axis, stride in zip(axes, out_axes, strict=True)),
        "out_batch": out_batch,
        "out_channel": out_channel,
        "weights_start": weights,
    }
    numbers = [head[name] for name in kernels.FIELDS]
    for i, axis in enumerate(axes):
        low, high = cropped[i]
        fields = {
            "count": axis.count,
            "tile": tiling.size[i],
            "tiles": -(-axis.count // tiling.size[i]),
            "advance": axis.advance,
            "first": min(offsets[i], default=0) - low,
            "halo": tiling.extent[i] if tiling.halo else 0,
            "length": high - low,
            "in_stride": in_axes[i],
            "out_stride": axis.step * out_axes[i],
        }
        numbers += [fields[name] for name in kernels.AXIS_FIELDS]
    table = np.zeros((taps, kernels.TAP_FIELDS), np.int64)
    if taps:
        away = np.meshgrid(*(np.array(o, np.int64) - min(o) for o in offsets), indexing="ij")
        flat = (away[0] * tiling.extent[1] + away[1]) * tiling.extent[2] + away[2]
        table[:] = np.stack([flat, *away], axis=-1).reshape(taps, -1)
    return np.concatenate([np.array(numbers, np.int64), table.reshape(-1)])


def _strides(channels: int, spatial: tuple[int, ...], layout: str) -> tuple[int, int, tuple[int, ...]]:
    """Return the strides, in elements, of a contiguous array's batch, channel and three spatial axes."""
    first = layout == "channels_first"
    axes = [1 if first else channels]
    for n in reversed(spatial[1:]):
        axes.insert(0, axes[0] * n)
    volume = math.prod(spatial)
    return channels * volume, volume if first else 1, (*(0,) * (3 - len(spatial)), *axes)


@functools.lru_cache(maxsize=1024)
def _tiling(
    counts: tuple[int, ...],
    advances: tuple[int, ...],
    spans: tuple[int, ...],
    taps: int,
    outputs: int,
    tiles: tuple[CudaTile, ...],
) -> _Tiling:
    """Return the cheapest way to cut a phase into blocks: least arithmetic, idle threads included, and staging."""
    return min(_tilings(counts, advances, spans, taps, outputs, tiles), key=lambda tiling: tiling.cost)


def _tilings(
    counts: tuple[int, ...],
    advances: tuple[int, ...],
    spans: tuple[int, ...],
    taps: int,
    outputs: int,
    tiles: tuple[CudaTile, ...],
) -> Iterator[_Tiling]:
    for tile in tiles:
        columns = -(-outputs // tile.outputs)
        sizes = [sorted({min(n, 2**i) for i in range(tile.positions.bit_length())}) for n in counts]
        for size in itertools.product(*sizes):
            if math.prod(size) > tile.positions:
                continue
            extent = tuple((q - 1) * a + span + 1 for q, a, span in zip(size, advances, spans, strict=True))
            fits = math.prod(extent) <= tile.staged and sum(extent) <= tile.axis_table
            blocks = columns * math.prod(-(-n // q) for n, q in zip(counts, size, strict=True))
            for halo, staged in ((True, math.prod(extent)), (False, math.prod(size) * taps)):
                if fits or not halo:
                    work = taps * tile.positions * tile.outputs + _STAGED_COST[halo] * staged + taps * tile.outputs
                    yield _Tiling(blocks * work, tile, size, halo, extent)


def _folded(call: Call, padded: Any) -> Any:
    """Return the gradient by x, on the GPU, from that by the padded x."""
    from gpuconv.backends.cuda import direct_kernels, launch

    p, missing = call.problem, 3 - call.problem.rank
    sizes, lists = (*(1,) * missing, *p.spatial), [_shown(0, 0, 1, p.mode_code)] * missing
    lists += [_shown(*pair, n, p.mode_code) for pair, n in zip(p.padding, p.spatial, strict=True)]
    padded_sizes = [1] * missing + [n + before + after for n, (before, after) in zip(p.spatial, p.padding, strict=True)]
    inner, total = p.in_channels if p.layout == "channels_last" else 1, math.prod(p.x_shape)
    starts = np.cumsum([len(direct_kernels.FOLD_FIELDS)] + [bounds.size + found.size for bounds, found in lists])
    numbers = [np.array([total, *sizes, inner, *padded_sizes, *starts[:3]], np.int64)]
    for start, (bounds, found) in zip(starts, lists, strict=False):
        numbers += [bounds + start + bounds.size, found]
    result = launch.empty(total, to_numpy(call.dtype))
    block = 4 if launch.SIMULATED else 128
    meta = launch.to_device(np.concatenate(numbers))
    launch.launch(direct_kernels.fold(call.dtype), (-(-total // block),), block, padded, result, meta)
    return result


def _shown(before: int, after: int, n: int, mode: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the padded positions that show each element of an axis, one list after another, and the lists' bounds."""
    low, high = max(-before, 0), n - max(-after, 0)
    source = np.arange(-before, n + after)
    for i in (*range(low + before), *range(high + before, len(source))):
        source[i] = low + source_index(mode, int(source[i]) - low, high - low)
    order = np.argsort(source, kind="stable")
    return np.searchsorted(source[order], np.arange(n + 1)), order
