"""Separable filters: two 1-d passes over an image, both on the rows of a block while they are in the cache.

Serves calls whose weights are given as factors, one vector an axis. See docs/kernels_separable.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import separable_kernels as kernels
from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.simd import CODES
from gpuconv.backends.cpu.stencil_kernels import row_packing
from gpuconv.backends.cpu.stencil_tiles import block
from gpuconv.boundary import MODES
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call, Factors
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["TAKES", "cost", "pack", "run", "supports", "workspace"]

TAKES = ("factors",)
_SCRATCH_BYTES = 512 << 10
_TASK_FLOPS = 100e6


def supports(call: Call, device: Device) -> str | None:
    """Return why the call cannot be served, or None."""
    problem = call.problem
    if not call.factored:
        return "the weights are not given as factors"
    if call.operation != "forward":
        return "only the forward operation runs in passes"
    if call.dtype not in ("float32", "float64"):
        return f"passes compute float32 and float64, not {call.dtype}"
    if problem.rank != 2 or problem.in_channels != 1 or problem.out_channels != 1:
        return "passes take images of one channel"
    if any(s != 1 for s in (*problem.stride, *problem.dilation, *problem.input_dilation)):
        return "passes take neither strides nor dilation"
    if _geometry(problem, call.dtype).scratch_bytes > 32 * _SCRATCH_BYTES:
        return "the rows that a block of outputs reads do not fit in the cache"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["separable"][device.vector_bits]
    high, wide = call.problem.kernel
    # A load along a row feeds one product, so the pass along rows takes twice its share.
    flops = 2.0 * call.problem.batch * math.prod(call.problem.output) * (2 * wide + high)
    rate = constants.flops * device.threads * 4 / np.dtype(call.dtype).itemsize
    return constants.overhead + flops / rate + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    g = _geometry(call.problem, call.dtype)
    return sum(call.problem.kernel) * np.dtype(call.dtype).itemsize + g.scratch_bytes * min(g.tasks, threads.count())


class _Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    words: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _odd_lines(n: int) -> int:
    lines = -(-n // 64)
    return (lines + 1 - lines % 2) * 64


@functools.lru_cache(maxsize=1024)
def _geometry(problem: ConvProblem, dtype: str) -> _Geometry:
    size = np.dtype(dtype).itemsize
    lanes = simd.vector_bits() // 8 // size
    (oy, ox), (high, wide) = problem.output, problem.kernel
    each = 2.0 * (high + wide)
    rows = 8 if high >= 8 else 4
    wanted = 1 if each * problem.batch * oy * ox < threads.SMALL_FLOPS else 4 * threads.count()
    # Blocks high enough that the rows above and below them, summed twice, are few; as wide as the cache allows then.
    block_y = min(oy, max(64, _round(4 * (high - 1), rows)))
    block_x = max(_SCRATCH_BYTES // size // (block_y + high - 1), 16 * lanes)
    block_x = min(ox, _round(-(-ox // -(-ox // block_x)), lanes))
    while problem.batch * -(-oy // block_y) * -(-ox // block_x) < wanted and block_y > max(2 * high, 2 * rows):
        block_y = max(_round(block_y // 2, rows), rows)
    while block_y * block_x * each > _TASK_FLOPS and block_y > rows:
        block_y = max(_round(block_y // 2, rows), rows)
    used = _round(block_x, lanes) + wide - 1
    sums_step, sums_offset = _odd_lines(_round(block_x, lanes) * size), _odd_lines((used + 2 * lanes) * size)
    call = np.zeros((), kernels.CALL)
    counts = -(-oy // block_y), -(-ox // block_x)
    for name, value in (
        ("mode", MODES.index(problem.padding_mode)), ("offset_y", -problem.padding[0][0]),
        ("offset_x", -problem.padding[1][0]), ("count_y", oy), ("count_x", ox), ("block_y", block_y),
        ("block_x", block_x), ("blocks_y", counts[0]), ("blocks_x", counts[1]), ("reach_y", high - 1),
        ("reach_x", wide - 1), ("rows", rows), ("used", used), ("sums_step", sums_step), ("sums_offset", sums_offset),
    ):  # fmt: skip
        call[name] = value
    for name, (low, end) in zip("yx", problem.cropped, strict=True):
        call[f"low_{name}"], call[f"high_{name}"] = low, end
    tasks = problem.batch * math.prod(counts)
    scratch = sums_offset + (block_y + high - 1) * sums_step + 16 * lanes * size
    slice_tasks = max(1, int(2 * _TASK_FLOPS / (block_y * block_x * each)))
    return _Geometry(call.reshape(1).view(np.int64), tasks, _round(scratch, 64), slice_tasks)


def pack(call: Call, w: Factors) -> tuple[Array, Array]:
    """Return the weights of the two passes in the dtype of the sums."""
    down, across = (np.ascontiguousarray(vector, call.dtype) for vector in w.vectors)
    return down, across


def run(
    call: Call, x: Array, w: Factors, y: Array, bias: Array | None = None, packed: tuple[Array, Array] | None = None
) -> None:
    """Write the filtered x into y; see `gpuconv.dispatch`."""
    if y.strides[-1] != y.itemsize and y.size:
        dense = np.empty(y.shape, y.dtype)
        run(call, x, w, dense, bias, packed)
        y[...] = dense
        return
    g = _geometry(call.problem, call.dtype)
    down, across = pack(call, w) if packed is None else packed
    parts = np.array([[0, 1, across.size, 0], [0, down.size, 1, 0]], np.int64)
    numbers = np.array([call.problem.padding_value, 0, w.divisor, 1 / w.divisor], call.dtype)
    first, size = address_of(numbers), numbers.itemsize
    words = g.words.copy()
    xn, yn = (x.strides[0], y.strides[0]) if call.problem.batched else (0, 0)
    code = CODES[call.dtype]
    words[:19] = (
        address_of(x), xn, *x.strides[-2:], address_of(y), yn, y.strides[-2], address_of(parts), address_of(across),
        address_of(parts) + 32, address_of(down), first, first + size, 0 if w.divisor == 1.0 else first + 2 * size,
        row_packing(code, code), block(8, code), block(4, code), block(1, code), size,
    )  # fmt: skip
    threads.run(kernels.passes(), words, g.tasks, g.scratch_bytes, g.slice_tasks)
