"""Direct convolution on CUDA: the definition, tiled through shared memory.

A transposed convolution, and so an input gradient, is an ordinary convolution for each combination of its axes' phases
(`ConvProblem.phases`), on that phase's share of the taps. A forward convolution is the case of one phase, so one kernel
(`direct_kernels.convolution`) serves all three; this module chooses tiles and writes down what the kernel reads. The
gradient by the weights has a kernel of its own (`direct_gradient`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import batches, direct_gradient
from gpuconv.backends.cuda.geometry import (
    AxisStrides,
    axis_strides,
    bytes_of_a_sum,
    bytes_of_gathered,
    computed,
    refused,
    summed,
)
from gpuconv.dtypes import result_dtype, to_numpy
from gpuconv.problem import AxisPhase, ConvProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.memory import Array, Job, View
    from gpuconv.dispatch import Call
    from gpuconv.tuning_cuda import CudaTile

__all__ = ["FUSES", "TAKES", "cost", "pack", "run", "supports", "tiles_of", "workspace"]

FUSES = ("relu",)
"""What is longer keeps the compiler from unrolling the loop over a thread's results, whose sums then lie in memory."""

TAKES = ("other dtypes",)
_STAGED_COST = {True: 8, False: 24}
"""Cost of staging one input against one multiplication, with and without a halo. Estimates: not measured."""

_WHOLE_AXIS = AxisPhase(0, 1, 1, 1, ((0, 0),))
"""The phase of an axis that a problem of lower rank has not got."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.operation == "transposed" and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: a transposed convolution has the 'zeros' border only"
    return refused(call)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds, of all that the tiles compute: for idle threads, too, and to stage and to address."""
    parts, itemsize = (2 if call.is_complex else 1), bytes_of_a_sum(call)
    if call.operation == "weight_gradient":
        work = direct_gradient.work(call.problem, parts, tuning_cuda.CUDA_GRADIENT_TILES[itemsize])
    else:
        work = _work(computed(call), parts, tiles_of(summed(call), itemsize))
    return tuning_cuda.cuda_cost("direct", summed(call), 2 * work, call.bytes, device.flops, device.bandwidth)


def _work(p: ConvProblem, parts: int, tiles: tuple[CudaTile, ...]) -> float:
    """Return the instructions of a lane, in products, that the forward convolution of a problem takes."""
    missing, total = 3 - p.rank, 0.0
    outputs = p.out_channels // p.groups * parts
    for phase in p.all_phases:
        axes = (*(_WHOLE_AXIS,) * missing, *phase)
        spans = tuple(axis.taps[-1][1] - axis.taps[0][1] if axis.taps else 0 for axis in axes)
        counts, advances = tuple(axis.count for axis in axes), tuple(axis.advance for axis in axes)
        tiling = _tiling(counts, advances, spans, math.prod(len(axis.taps) for axis in axes), outputs, tiles)
        sums = tiling.tile.positions_per_thread * tiling.tile.outputs_per_thread
        loads = tiling.tile.positions_per_thread + tiling.tile.outputs_per_thread + 8
        total += tiling.cost * (sums + loads) / sums
    return total * p.in_channels * parts * p.batch


def workspace(call: Call) -> int:
    """Return the bytes of the gathered weights and of their index."""
    return bytes_of_gathered(call)


def pack(call: Call, w: Array) -> Any:
    """Return the weights on the GPU: phase after phase, each (groups, inputs, taps, outputs) of real numbers."""
    from gpuconv.backends.cuda import memory

    if call.operation == "weight_gradient":
        return None
    with memory.Job(w) as job:
        packed = _packed(call, w, job)
        job.synchronize()
    return packed


@batches.split
def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
    """Write the array that the operation writes, every element of it."""
    from gpuconv.backends.cuda import memory

    if call.operation == "weight_gradient":
        direct_gradient.run(call, x, w, y)
        return
    read, written = (x, y) if call.operation == "forward" else (y, x)
    if written.size == 0:
        return
    with memory.Job(read, w, written, bias) as job:
        weights = _packed(call, w, job) if packed is None else packed
        if call.operation == "forward" or call.problem.padding_mode == "zeros":
            target = job.write(written, call.result or call.dtype, exact=bool(call.result))
            _convolve(call, job, read, weights, bias, target, wide=False)
        else:
            from gpuconv.backends.cuda import direct_border

            padded = direct_border.padded(call, job)
            _convolve(call, job, read, weights, None, padded, wide=True)
            direct_border.fold(call, job, padded.data, job.write(written, call.dtype, flat=True).data)


def _convolve(call: Call, job: Job, read: Array, weights: Any, bias: Array | None, target: View, *, wide: bool) -> None:
    """Launch the kernel for every phase of the forward convolution that the call is."""
    from gpuconv.backends.cuda import device, direct_kernels, launch, scalars

    kinds, problem = scalars.of(summed(call)), computed(call)
    source = job.read(read, call.dtype)
    tiles = tuning_cuda.CUDA_SIMULATOR_TILES if device().simulated else tiles_of(summed(call), kinds.sums.itemsize)
    key = problem, tiles, kinds.parts, source.strides, target.strides, bias is not None
    offset = target.data if bias is None else job.read(bias, result_dtype(to_numpy(summed(call))).name, flat=True).data
    meta = job.resident(_numbers, *key)
    activation = call.activation if call.activation in FUSES else ""
    fill, images = kinds.sums.type(problem.padding_value), problem.batch * problem.groups
    others = (call.dtype, call.result) if call.sums else None
    for part in _launches(*key)[0]:
        kernel = direct_kernels.convolution(kinds.kind, part.tile, part.halo, kinds.parts, wide, activation, others)
        for first in range(0, images, launch.GRID_Y):
            grid = part.blocks, min(launch.GRID_Y, images - first)
            numbers = meta[part.begin : part.end]
            job.launch(kernel, grid, part.tile.threads, source.data, weights, offset, target.data, fill, numbers, first)


def tiles_of(dtype: str, itemsize: int) -> tuple[CudaTile, ...]:
    """Return the tiles for a dtype whose sums have so many bytes."""
    most = tuning_cuda.CUDA_LARGEST_SUMS.get(dtype, math.inf)
    tiles = tuning_cuda.CUDA_DIRECT_TILES[itemsize]
    return tuple(tile for tile in tiles if tile.positions_per_thread * tile.outputs_per_thread <= most)


def _packed(call: Call, w: Array, job: Job) -> Any:
    """Return the packed weights, as numbers to compute with."""
    return job.gather(w, summed(call), _order, call)


def _order(call: Call) -> NDArray[Any]:
    """Return where each packed number lies among the real numbers of w; ~i for the negative of number i."""
    p, groups = call.problem, call.problem.groups
    count = math.prod(p.w_shape)
    kernel: NDArray[Any] = np.arange(count, dtype=np.int32 if count < 1 << 29 else np.int64)
    kernel = kernel.reshape(groups, p.out_channels // groups, *p.w_shape[1:])
    if call.operation != "forward":
        kernel = np.flip(kernel.swapaxes(1, 2), axis=tuple(range(3, kernel.ndim)))
    phases = []
    for phase in computed(call).all_phases:
        taps = np.ix_(*([t for t, _ in axis.taps] for axis in phase))
        part = np.moveaxis(kernel[(slice(None),) * 3 + taps], 1, -1)
        if call.is_complex:
            # y = (a + bi) x as the real product [[a, -b], [b, a]] (x, xi); the gradient has the conjugate weights.
            real, imaginary = 2 * part, 2 * part + 1
            negative = ~imaginary
            if call.operation == "input_gradient":
                imaginary, negative = negative, imaginary
            of_real, of_imaginary = np.stack([real, imaginary], -1), np.stack([negative, real], -1)
            part = np.stack([of_real, of_imaginary], 2)
        phases.append(part.reshape(-1))
    return np.concatenate(phases)


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
def _launches(
    problem: ConvProblem,
    tiles: tuple[CudaTile, ...],
    parts: int,
    in_strides: tuple[int, ...],
    out_strides: tuple[int, ...],
    biased: bool,
) -> tuple[tuple[_Launch, ...], NDArray[np.int64]]:
    """Return the launches of a problem, and the numbers that their kernels read, one after the other."""
    missing = 3 - problem.rank
    launches, numbers, end, weights = [], [], 0, 0
    channels = problem.in_channels // problem.groups * parts
    outputs = problem.out_channels // problem.groups * parts
    strides = axis_strides(problem, in_strides), axis_strides(problem, out_strides)
    for phase in problem.all_phases:
        axes = (*(_WHOLE_AXIS,) * missing, *phase)
        offsets = tuple(tuple(offset for _, offset in axis.taps) for axis in axes)
        counts, advances = tuple(axis.count for axis in axes), tuple(axis.advance for axis in axes)
        spans = tuple(max(o) - min(o) if o else 0 for o in offsets)
        taps = math.prod(map(len, offsets))
        tiling = _tiling(counts, advances, spans, taps, outputs, tiles)
        meta = _meta(problem, axes, offsets, tiling, weights, strides, (channels, outputs), biased)
        weights += problem.groups * channels * taps * outputs
        blocks = math.prod(-(-n // size) for n, size in zip(counts, tiling.size, strict=True))
        begin, end = end, end + len(meta)
        launches.append(_Launch(tiling.tile, tiling.halo, blocks * -(-outputs // tiling.tile.outputs), begin, end))
        numbers.append(meta)
    return tuple(launches), np.concatenate(numbers)


def _numbers(*key: Any) -> NDArray[np.int64]:
    """Return the numbers of `_launches`."""
    return _launches(*key)[1]


def _meta(
    problem: ConvProblem,
    axes: tuple[AxisPhase, ...],
    offsets: tuple[tuple[int, ...], ...],
    tiling: _Tiling,
    weights: int,
    strides: tuple[AxisStrides, AxisStrides],
    sizes: tuple[int, int],
    biased: bool,
) -> NDArray[np.int64]:
    """Return the numbers of one phase, in the order that `direct_kernels` names."""
    from gpuconv.backends.cuda import direct_kernels as kernels

    missing, tile = 3 - problem.rank, tiling.tile
    (in_batch, in_channel, in_axes), (out_batch, out_channel, out_axes) = strides
    cropped = (*((0, 1),) * missing, *problem.cropped)
    channels, outputs = sizes
    taps, volume = math.prod(map(len, offsets)), math.prod(tiling.extent)
    lanes = 1
    if in_channel < in_axes[2]:
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
        "in_group": problem.in_channels // problem.groups * in_channel,
        "in_channel": in_channel,
        "out_start": sum(axis.start * stride for axis, stride in zip(axes, out_axes, strict=True)),
        "out_batch": out_batch,
        "out_channel": out_channel,
        "weights_start": weights,
        "biased": biased,
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
