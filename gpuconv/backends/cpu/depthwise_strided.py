"""Depthwise layers with a stride of 2 along rows: rows are read where they lie and taken apart in registers.

To pack such rows by even and odd columns takes as long as the products of a small kernel. See docs/kernels_stencil.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import direct, threads
from gpuconv.backends.cpu.axes import plane_steps
from gpuconv.backends.cpu.depthwise_strided_kernels import PLANES, TILE, convolution
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.simd import CODES, vector_bits
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_MOST_TAPS = 7
"""Taps along an axis: all of a kernel are unrolled."""
_MOST_COLUMNS = 1 << 30
"""Of a row: their numbers are compared as 32-bit integers, a whole vector at once."""
_TASK_CYCLES, _LONGEST_CYCLES, _SLICE_CYCLES = 30_000, 1e7, 1e8
"""Of a task, so that it outweighs its beginning, and at most; of the tasks between two looks for signals."""
_TASKS_PER_THREAD = 4


@functools.lru_cache(maxsize=4096)
def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    problem = call.problem
    if call.dtype not in ("float32", "float64"):
        return f"it computes float32 and float64, not {call.dtype}"
    if call.operation != "forward":
        return "it computes outputs only"
    if problem.padding_mode != "zeros" or problem.padding_value != 0:
        return "it takes borders of zeros"
    if problem.rank != 2 or problem.in_channels != problem.groups:
        return "it takes two-dimensional maps with one input channel for each group"
    if problem.layout != "channels_first":
        return "channels last: neighbours along the last spatial axis lie apart"
    if problem.stride[1] != 2 or problem.stride[0] > 2:
        return "it takes strides of 2 along rows, of 1 and 2 along columns"
    if any(b > 1 for b in (*problem.input_dilation, *problem.dilation)):
        return "it takes no dilation"
    if any(p < 0 for pair in problem.padding for p in pair):
        return "it takes no negative padding"
    if max(problem.kernel) > _MOST_TAPS:
        return f"it takes kernels of at most {_MOST_TAPS} taps along an axis"
    if problem.spatial[1] + sum(problem.padding[1]) > _MOST_COLUMNS:
        return f"rows have more than {_MOST_COLUMNS} columns"
    if 0 in problem.x_shape or 0 in problem.y_shape or 0 in problem.kernel:
        return "it takes no empty arrays"
    return None


def _cycles(problem: ConvProblem, itemsize: int) -> float:
    """Return the estimated cycles of a plane of outputs."""
    lanes = vector_bits() // 8 // itemsize
    high, wide = problem.output
    rows = TILE if high >= TILE else 1
    (kernel_y, kernel_x), down = problem.kernel, problem.stride[0]
    lines = (rows - 1) * down + kernel_y
    # A line's loads, of which most meet two cache lines, and shuffles; the products share a port with the latter.
    each = lines * (2 * -(-kernel_x // 2) + 0.5 * kernel_x) + 0.5 * (rows + 1) * kernel_y * kernel_x
    return 40 + -(-high // rows) * -(-wide // lanes) * (20 + each)


class _Division(NamedTuple):
    """Planes of outputs are divided into bands of rows, so that every thread has some."""

    band: int
    """Rows of outputs."""
    plane_bands: int
    bands: int
    """Of all planes."""
    chunk: int
    """Bands of a task."""
    tasks: int


def _division(problem: ConvProblem, itemsize: int, workers: int) -> _Division:
    planes, high = problem.batch * problem.out_channels, problem.output[0]
    cycles, wanted = _cycles(problem, itemsize), workers * _TASKS_PER_THREAD
    plane_bands = max(min(-(-wanted // planes), int(cycles / _TASK_CYCLES)), int(cycles / _LONGEST_CYCLES), 1)
    band = -(-high // (plane_bands * TILE)) * TILE
    plane_bands = -(-high // band)
    bands = planes * plane_bands
    chunk = max(min(int(_TASK_CYCLES * plane_bands / cycles), bands // wanted), 1)
    return _Division(band, plane_bands, bands, chunk, -(-bands // chunk))


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    problem, constants = call.problem, CPU_COSTS["depthwise_strided"][device.vector_bits]
    itemsize = np.dtype(call.dtype).itemsize
    cycles = _cycles(problem, itemsize) * problem.batch * problem.out_channels
    tasks = _division(problem, itemsize, device.threads).tasks
    busiest = -(-tasks // device.threads) / tasks
    # Two multiply-adds a cycle.
    computed = cycles * device.vector_bits / 8 / constants.flops
    return constants.overhead + busiest * max(computed, device.threads * call.bytes / constants.bandwidth)


def workspace(call: Call) -> int:
    """Return the bytes of packed weights."""
    return math.prod(call.problem.w_shape) * np.dtype(call.dtype).itemsize


class _Ready(NamedTuple):
    """All that calls of one problem share; `words` lacks what belongs to their arrays."""

    dtype: np.dtype[Any]
    words: Array
    tasks: int
    slice_tasks: int
    no_bias: Array


_CHANNELS = (PLANES.names or ()).index("outputs")


@functools.lru_cache(maxsize=1024)
def _ready(call: Call) -> _Ready:
    problem, dtype = call.problem, np.dtype(call.dtype)
    d = _division(problem, dtype.itemsize, threads.count())
    cycles = _cycles(problem, dtype.itemsize) * d.chunk / d.plane_bands
    words = np.zeros(len(PLANES.names or ()), np.int64)
    words[_CHANNELS:] = (
        problem.out_channels, problem.out_channels // problem.groups, math.prod(problem.kernel) * dtype.itemsize,
        d.band, d.plane_bands, d.bands, d.chunk, *problem.spatial, *problem.output,
        *(before for before, _ in problem.padding),
    )  # fmt: skip
    return _Ready(dtype, words, d.tasks, max(1, int(_SLICE_CYCLES / cycles)), np.zeros(1, dtype))


def pack(call: Call, w: Array) -> Array:
    """Return the weights as the kernel reads them."""
    return np.ascontiguousarray(w, call.dtype)


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    ready, problem = _ready(call), call.problem
    packed = pack(call, w) if packed is None else packed
    if not np.isfinite(packed).all():
        # They meet the zeros of every border, and the kernel leaves rows of them out.
        direct.run(call, x, w, y, bias)
        return
    source = x if x.strides[-1] == x.itemsize else np.ascontiguousarray(x)
    dense = y if y.strides[-1] == y.itemsize else np.empty(y.shape, y.dtype)
    start = ready.no_bias if bias is None else np.ascontiguousarray(bias, ready.dtype)
    words = ready.words.copy()
    words[:_CHANNELS] = (
        address_of(source), *plane_steps(problem, source), address_of(dense), *plane_steps(problem, dense),
        address_of(packed), address_of(start), 0 if bias is None else start.itemsize,
    )  # fmt: skip
    function = convolution(CODES[ready.dtype.name], *problem.kernel, problem.stride[0])
    threads.run(function, words, ready.tasks, 0, ready.slice_tasks, alone=call.flops < threads.SMALL_FLOPS)
    if dense is not y:
        y[...] = dense
