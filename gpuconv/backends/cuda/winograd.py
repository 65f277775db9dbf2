"""Winograd's F(2x2, 3x3) and F(4x4, 3x3) on CUDA: 16 products for 36, and 36 for 144, between transforms.

Three launches: tiles of the input are transformed, the matrix products run as one launch of the implicit product's
kernel with a group for each, and the results are transformed back. F(4x4) is for float32, and taken by cost.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import batches, implicit_gemm
from gpuconv.backends.cuda.geometry import axis_strides, bytes_of_a_sum, bytes_of_gathered, computed
from gpuconv.dtypes import result_dtype, to_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.memory import Array, Job
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem
    from gpuconv.tuning_cuda import GemmTile

__all__ = ["cost", "pack", "run", "size_of", "supports", "temporary", "workspace"]

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_SIZES = {"float32": (2, 4)}
"""Outputs of a tile along each axis, by dtype; 2 for all others."""
_LARGE_CHANNELS = 32
"""Input channels from which on F(4x4) is taken: on fewer its largest error can pass that of a direct sum."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.precision == "highest":
        return "precision='highest' allows no transforms"
    if call.operation == "weight_gradient":
        return "it computes no gradient by the weights"
    if call.operation != "forward" and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: it computes input gradients for the 'zeros' border only"
    if call.dtype not in _DTYPES:
        return f"it does not take {call.dtype}"
    if p.kernel != (3, 3) or any(s != 1 for s in (*p.stride, *p.dilation, *p.input_dilation)):
        return f"kernel={p.kernel}, stride={p.stride}, dilation={p.dilation}: it takes 3x3, 1 and 1"
    if p.groups != 1:
        return f"groups={p.groups}: it takes one"
    needed = temporary(call)
    if needed > tuning_cuda.CUDA_WINOGRAD_TEMPORARY:
        return f"transformed arrays of {needed} bytes: it takes up to {tuning_cuda.CUDA_WINOGRAD_TEMPORARY}"
    return None


def temporary(call: Call) -> int:
    """Return the bytes that a call takes on the GPU besides its arrays: the transformed ones."""
    q, size = computed(call), size_of(call)
    return (size + 2) ** 2 * bytes_of_a_sum(call) * _tiles(q, size)[2] * (q.in_channels + q.out_channels)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds: those of the products, and of the transformed arrays' way to memory and back."""
    flops, traffic = _work(call, size_of(call))
    return tuning_cuda.cuda_cost("winograd", call.dtype, flops, traffic, device.flops, device.bandwidth)


@functools.lru_cache(maxsize=1024)
def size_of(call: Call) -> int:
    """Return how many outputs a tile has along each axis: the size of the least cost on any GPU.

    It does not depend on the GPU, so that results do not either.
    """
    sizes = _SIZES.get(call.dtype, (2,)) if computed(call).in_channels >= _LARGE_CHANNELS else (2,)

    def weight(size: int) -> float:
        flops, traffic = _work(call, size)
        return flops + tuning_cuda.CUDA_BALANCE * traffic

    return min(sizes, key=weight)


def _work(call: Call, size: int) -> tuple[float, float]:
    """Return the operations of a call with tiles of a size, and its bytes to and from memory."""
    p, itemsize, numbers = computed(call), bytes_of_a_sum(call), (size + 2) ** 2
    _, _, tiles = _tiles(p, size)
    tile = _tile(p, tiles, implicit_gemm.tiles_of("float32", itemsize))
    rows, columns = -(-p.out_channels // tile.rows) * tile.rows, -(-tiles // tile.columns) * tile.columns
    flops = 2.0 * numbers * rows * columns * (-(-p.in_channels // tile.depth) * tile.depth)
    # Of the transformed inputs, products and weights, each written once and read once.
    elements = tiles * (p.in_channels + p.out_channels) + p.in_channels * p.out_channels
    return flops, call.bytes + 2.0 * numbers * itemsize * elements


def _tiles(p: ConvProblem, size: int) -> tuple[int, int, int]:
    """Return the tiles in a row of an image, in an image and in all."""
    along = -(-p.output[1] // size)
    image = along * -(-p.output[0] // size)
    return along, image, image * p.batch


def _tile(p: ConvProblem, tiles: int, among: tuple[GemmTile, ...]) -> GemmTile:
    """Return the tile of the products that computes least beside what is asked for."""

    def work(tile: GemmTile) -> int:
        return -(-p.out_channels // tile.rows) * tile.rows * (-(-tiles // tile.columns) * tile.columns)

    return min(among, key=work)


def workspace(call: Call) -> int:
    """Return the bytes of the weights, as they are with their index and transformed, and of transformed arrays."""
    p = computed(call)
    weights = (size_of(call) + 2) ** 2 * p.in_channels * p.out_channels * bytes_of_a_sum(call)
    return bytes_of_gathered(call, 8) + weights + temporary(call)


def pack(call: Call, w: Array) -> Any:
    """Return a tile's size, and the weights on the GPU, as they are and transformed for it."""
    from gpuconv.backends.cuda import memory

    with memory.Job(w) as job:
        packed = _packed(call, w, job)
        job.synchronize()
    return packed


def _packed(call: Call, w: Array, job: Job) -> Any:
    from gpuconv.backends.cuda import launch, scalars, winograd_kernels

    p, kinds, size = computed(call), scalars.of(call.dtype), size_of(call)
    plain = job.gather(w, call.dtype, _order, call)
    count = p.in_channels * p.out_channels
    transformed = job.empty(max((size + 2) ** 2 * count, 1), kinds.sums)
    if count:
        kernel = winograd_kernels.weights(kinds.sums.name, size)
        job.launch(kernel, (launch.blocks_of(count),), launch.THREADS, plain, transformed, p.out_channels)
    return size, plain, transformed


def _order(call: Call) -> NDArray[Any]:
    """Return where each number of (outputs, inputs, 9) lies in w."""
    p = call.problem
    kernel: NDArray[Any] = np.arange(math.prod(p.w_shape), dtype=np.int64).reshape(p.w_shape)
    if call.operation != "forward":
        kernel = np.flip(kernel.swapaxes(0, 1), axis=(2, 3))
    return kernel.reshape(-1)


@batches.split(temporary=temporary)
def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
    """Write y (forward) or x (transposed, input_gradient), every element of it."""
    from gpuconv.backends.cuda import device, implicit_gemm_kernels, launch, memory, scalars, winograd_kernels

    read, written = (x, y) if call.operation == "forward" else (y, x)
    if written.size == 0:
        return
    p, kinds = computed(call), scalars.of(call.dtype)
    among = implicit_gemm.tiles_of("float32", kinds.sums.itemsize)
    among = tuning_cuda.CUDA_SIMULATOR_GEMM_TILES if device().simulated else among
    fill, zero = kinds.sums.type(p.padding_value), kinds.sums.type(0)
    with memory.Job(read, w, written, bias) as job:
        size, plain, transformed = _packed(call, w, job) if packed is None else packed
        numbers, (_, _, tiles) = (size + 2) ** 2, _tiles(p, size)
        tile = _tile(p, tiles, among)
        source, target = job.read(read, call.dtype), job.write(written, call.dtype)
        offset = target.data
        if bias is not None:
            offset = job.read(bias, result_dtype(to_numpy(call.dtype)).name, flat=True).data
        meta = job.resident(_numbers, p, size, source.strides, target.strides, bias is not None)
        v = job.empty(max(numbers * p.in_channels * tiles, 1), kinds.sums)
        m = job.empty(numbers * p.out_channels * tiles, kinds.sums)
        blocks = -(-tiles // launch.THREADS)
        kernel = winograd_kernels.inputs(kinds.kind, size)
        for first in range(0, p.in_channels, launch.GRID_Y):
            grid = blocks, min(launch.GRID_Y, p.in_channels - first)
            job.launch(kernel, grid, launch.THREADS, source.data, v, fill, meta, first)
        product = implicit_gemm_kernels.product(kinds.sums.name, tile, False)
        sizes = job.resident(_product, p.out_channels, p.in_channels, tiles, tile)
        grid = -(-p.out_channels // tile.rows) * -(-tiles // tile.columns), numbers
        job.launch(product, grid, tile.threads, v, transformed, m, m, zero, sizes, 0)
        kernel = winograd_kernels.outputs(kinds.kind, size)
        for first in range(0, p.out_channels, launch.GRID_Y):
            grid = blocks, min(launch.GRID_Y, p.out_channels - first)
            arrays = m, source.data, plain, offset, target.data
            job.launch(kernel, grid, launch.THREADS, *arrays, fill, meta, first)


def _product(rows: int, channels: int, tiles: int, tile: GemmTile) -> NDArray[np.int64]:
    """Return what the product's kernel reads for all products, as groups of a 1x1 convolution of one long row."""
    from gpuconv.backends.cuda import implicit_gemm_kernels as kernels

    head = dict.fromkeys(kernels.FIELDS, 0) | {
        "rows": rows,
        "columns": tiles,
        "row_tiles": -(-rows // tile.rows),
        "channels": channels,
        "chunks": -(-channels // tile.depth),
        "taps": 1,
        "in_group": channels * tiles,
        "in_channel": tiles,
        "out_channel": tiles,
    }
    # Sizes, steps and strides of three axes, and the one tap.
    axes = [1, 0, 1, 0, 0, 1, 0, 1, 0, 0, tiles, 1, tiles, 1, 1]
    return np.array([*(head[name] for name in kernels.FIELDS), *axes, 0, 0, 0], np.int64)


def _numbers(
    p: ConvProblem, size: int, in_strides: tuple[int, ...], out_strides: tuple[int, ...], biased: bool
) -> NDArray[np.int64]:
    """Return what the transforms read, in the order that `winograd_kernels` names."""
    from gpuconv.backends.cuda import winograd_kernels

    source, target = axis_strides(p, in_strides), axis_strides(p, out_strides)
    along, image, tiles = _tiles(p, size)
    (low_row, high_row), (low_column, high_column) = p.cropped
    fields = {
        "tiles": tiles,
        "along_row": along,
        "of_image": image,
        "channels": p.in_channels,
        "outputs": p.out_channels,
        "rows": p.output[0],
        "columns": p.output[1],
        "mode": p.mode_code,
        "biased": biased,
        "first_row": -p.padding[0][0],
        "first_column": -p.padding[1][0],
        "low_row": low_row,
        "low_column": low_column,
        "high_row": high_row,
        "high_column": high_column,
        "in_batch": source.batch,
        "in_channel": source.channel,
        "in_row": source.axes[1],
        "in_column": source.axes[2],
        "out_batch": target.batch,
        "out_channel": target.channel,
        "out_row": target.axes[1],
        "out_column": target.axes[2],
    }
    return np.array([fields[name] for name in winograd_kernels.FIELDS], np.int64)
