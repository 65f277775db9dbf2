"""Depthwise layers of small maps: each channel's plane is packed whole, its border beside it, and computed in one go.

What `stencil` spends on tiles, rows and borders is more than the products where a plane has a few hundred outputs; here
a plane is one loop over taps. See docs/kernels_stencil.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import threads
from gpuconv.backends.cpu.axes import plane_steps
from gpuconv.backends.cpu.depthwise_kernels import PLANES, convolution
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.simd import CODES, vector_bits
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_MOST_SCRATCH = 16 << 10
"""Bytes of a packed plane: it stays in a first-level cache."""
_TILES = (8, 7, 4, 1)
"""Rows of outputs that are summed in registers at once."""
_HEIGHTS = (3, 5, 7)
"""Rows of kernels that are unrolled."""
_TASK_CYCLES, _SLICE_CYCLES = 30_000, 1e8
"""Of a task, so that it outweighs its beginning; of the tasks between two looks for signals."""
_TASKS_PER_THREAD = 4


def _forward(call: Call) -> ConvProblem:
    return call.problem if call.operation == "forward" else call.problem.adjoint()


@functools.lru_cache(maxsize=4096)
def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    if call.dtype not in ("float32", "float64"):
        return f"it computes float32 and float64, not {call.dtype}"
    if call.operation == "weight_gradient":
        return "it computes outputs and input gradients only"
    if call.operation != "forward" and any(s > 1 for s in call.problem.stride):
        return "the transpose of a strided convolution is not one"
    if call.problem.padding_mode != "zeros" or call.problem.padding_value != 0:
        return "it takes borders of zeros"
    problem = _forward(call)
    if problem.rank != 2 or problem.in_channels != problem.groups:
        return "it takes two-dimensional maps with one input channel for each group"
    if problem.layout != "channels_first":
        return "channels last: neighbours along the last spatial axis lie apart"
    if any(b > 1 for b in problem.input_dilation):
        return "it takes inputs that are not dilated"
    if any(p < 0 for pair in problem.padding for p in pair):
        return "it takes no negative padding"
    if problem.stride[1] > 2:
        return "it takes strides of 1 and 2 along rows"
    if 0 in call.problem.x_shape or 0 in call.problem.y_shape or 0 in problem.kernel:
        return "it takes no empty arrays"
    itemsize = np.dtype(call.dtype).itemsize
    if _plane(problem, itemsize).size * itemsize > _MOST_SCRATCH:
        return f"a plane with its border is more than {_MOST_SCRATCH} bytes"
    return None


class _Plane(NamedTuple):
    """A packed plane, in elements: its rows begin `pitch` apart, the second residue of columns `half` after the first.

    It ends with what the vectors of the last row's outputs read besides.
    """

    pitch: int
    half: int
    size: int


def _plane(problem: ConvProblem, itemsize: int) -> _Plane:
    lanes = vector_bits() // 8 // itemsize
    (high, wide), (down, across) = problem.output, problem.stride
    (kernel_y, kernel_x), (dilation_y, dilation_x) = problem.kernel, problem.dilation
    before = problem.padding[1][0]
    rows = max((high - 1) * down + (kernel_y - 1) * dilation_y + 1, problem.padding[0][0] + problem.spatial[0])
    reach = (kernel_x - 1) * dilation_x
    half = max(wide + reach // across, -(-(before + problem.spatial[1]) // across))
    return _Plane(half * across, half, rows * half * across + -(-wide // lanes) * lanes + reach)


def _tile(high: int) -> int:
    """Return the rows of a tile with which all tiles are the least work, rows that two compute included."""
    return min((rows for rows in _TILES if rows <= high), key=lambda rows: (-(-high // rows) * (rows + 2), -rows))


def _kernel(problem: ConvProblem) -> tuple[int, int]:
    """Return the rows of the kernel and the stride that there is a compiled kernel for; (0, 1) is for all others."""
    high, down = problem.kernel[0], problem.stride[0]
    return (high, down) if high in _HEIGHTS and down <= 2 and problem.dilation[0] == 1 else (0, 1)


def _cycles(problem: ConvProblem, itemsize: int) -> float:
    """Return the estimated cycles of an input plane and all that is computed from it."""
    lanes = vector_bits() // 8 // itemsize
    high, wide = problem.output
    rows = _tile(high)
    vectors = -(-high // rows) * -(-wide // lanes)
    kernel_y, kernel_x = problem.kernel
    if _kernel(problem)[0]:
        products = kernel_x * kernel_y * (0.55 * rows + 1)
    else:
        # A load a product, of which most meet two cache lines where a vector is as long as one.
        products = kernel_x * kernel_y * rows * (0.2 + lanes * itemsize / 64)
    outputs = problem.out_channels // problem.groups
    packing = problem.spatial[0] * -(-problem.spatial[1] // lanes) * 2
    return 40 + packing + outputs * vectors * (20 + products)


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    problem, constants = _forward(call), CPU_COSTS["depthwise"][device.vector_bits]
    cycles = _cycles(problem, np.dtype(call.dtype).itemsize) * problem.batch * problem.groups / device.threads
    # Two multiply-adds a cycle.
    return constants.overhead + cycles * device.vector_bits / 8 / constants.flops + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    ready = _ready(call)
    weights = math.prod(ready.problem.w_shape) * ready.dtype.itemsize
    return weights + ready.scratch_bytes * min(ready.tasks, threads.count())


class _Ready(NamedTuple):
    """All that calls of one problem share; `words` lacks what belongs to their arrays."""

    problem: ConvProblem
    dtype: np.dtype[Any]
    kernel: tuple[int, int]
    words: Array
    tasks: int
    slice_tasks: int
    scratch_bytes: int
    no_bias: Array
    offsets: Array
    """Kept alive: `words` holds its address."""


@functools.lru_cache(maxsize=1024)
def _ready(call: Call) -> _Ready:
    problem, dtype = _forward(call), np.dtype(call.dtype)
    size, plane = dtype.itemsize, _plane(problem, dtype.itemsize)
    down, across = problem.stride
    (top, _), (before, _) = problem.padding
    cycles, kernel = _cycles(problem, size), _kernel(problem)
    share = problem.groups * problem.batch // (threads.count() * _TASKS_PER_THREAD)
    chunk = max(min(int(_TASK_CYCLES / cycles), share, problem.groups), 1)
    chunks = -(-problem.groups // chunk)
    y, x = (np.arange(k) * d for k, d in zip(problem.kernel, problem.dilation, strict=True))
    offsets = np.add.outer(y * plane.pitch, x % across * plane.half + x // across).ravel().astype(np.int64) * size
    # The first input stands `before` columns after the plane's first, whose residue is 0.
    places = [(before + column) % across * plane.half + (before + column) // across for column in (0, 1)]
    words = np.zeros(len(PLANES.names or ()), np.int64)
    words[_CHANNELS:] = (
        problem.groups, problem.out_channels // problem.groups, chunk, chunks, math.prod(problem.kernel) * size,
        *problem.spatial, across == 2, *((top * plane.pitch + place) * size for place in places), plane.pitch * size,
        plane.size, *problem.output, plane.pitch * size * (1 if kernel[0] else down), address_of(offsets), offsets.size,
        _tile(problem.output[0]),
    )  # fmt: skip
    return _Ready(
        problem, dtype, kernel, words, problem.batch * chunks, max(1, int(_SLICE_CYCLES / (chunk * cycles))),
        -(-plane.size * size // 64) * 64, np.zeros(1, dtype), offsets,
    )  # fmt: skip


_X, _Y, _W, _CHANNELS = ((PLANES.names or ()).index(name) for name in ("x", "y", "w", "channels"))


def pack(call: Call, w: Array) -> Array:
    """Return the weights as the kernel reads them: of an input gradient they are turned around."""
    w = w if call.operation == "forward" else np.flip(w, (2, 3))
    return np.ascontiguousarray(w, call.dtype)


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    ready = _ready(call)
    packed = pack(call, w) if packed is None else packed
    source, result = (x, y) if call.operation == "forward" else (y, x)
    source = source if source.strides[-1] == source.itemsize else np.ascontiguousarray(source)
    dense = result if result.strides[-1] == result.itemsize else np.empty(result.shape, result.dtype)
    start = ready.no_bias if bias is None else np.ascontiguousarray(bias, ready.dtype)
    words = ready.words.copy()
    words[:_CHANNELS] = (
        address_of(source), *plane_steps(ready.problem, source), address_of(dense), *plane_steps(ready.problem, dense),
        address_of(packed), address_of(start), 0 if bias is None else start.itemsize,
    )  # fmt: skip
    threads.run(
        convolution(CODES[ready.dtype.name], *ready.kernel), words, ready.tasks, ready.scratch_bytes, ready.slice_tasks,
        alone=call.flops < threads.SMALL_FLOPS,
    )  # fmt: skip
    if dense is not result:
        result[...] = dense
