"""Short filters along one axis, one channel to one: read from the caller's array and written to it, no packing.

See docs/kernels_fft.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import fir_kernels as kernels
from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.memory import address_of
from gpuconv.boundary import MODES
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_BLOCK = 16384
"""Outputs of a task, at most."""
_TASK_FLOPS = 200e6
"""Most work of a task, so that a slice of tasks ends soon after a signal."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why not."""
    problem = call.problem
    if call.dtype not in ("float32", "float64"):
        return "float32 and float64 only"
    if call.operation == "weight_gradient":
        return "no weight gradient"
    if problem.rank != 1 or not problem.in_channels == problem.out_channels == problem.groups:
        return "one axis, and one channel to one, only"
    if problem.layout != "channels_first":
        return "channels_first only"
    if problem.stride != (1,) or problem.input_dilation != (1,):
        return "stride must be 1"
    if call.operation != "forward" and problem.padding_mode != "zeros":
        return "the gradient of a border that is not zeros"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["fir"][device.vector_bits]
    number = 1 if call.flops < threads.SMALL_FLOPS else device.threads
    rate = constants.flops * number * 4 / np.dtype(call.dtype).itemsize
    return constants.overhead + call.flops / rate + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    plan, weights = _plan(call), math.prod(call.problem.w_shape) * np.dtype(call.dtype).itemsize
    return weights + plan.scratch * (1 if plan.alone else min(plan.tasks, threads.count()))


def pack(call: Call, w: Array) -> Array:
    """Return the weights of the correlation, one group after the other."""
    return np.ascontiguousarray(w if call.operation == "forward" else w[:, :, ::-1])


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    if call.operation != "forward":
        x, y = y, x
    plan = _plan(call)
    size = y.itemsize
    if x.strides[-1] != size:
        x = np.ascontiguousarray(x)
    written = y if y.strides[-1] == size else np.empty(y.shape, y.dtype)
    weights = pack(call, w) if packed is None else packed
    added = None if bias is None else np.ascontiguousarray(bias)
    words = plan.words.copy()
    x_batch, y_batch = (x.strides[0], written.strides[0]) if call.problem.batched else (0, 0)
    words[:8] = (
        address_of(x), x_batch, x.strides[-2], address_of(written), y_batch, written.strides[-2], address_of(weights),
        0 if added is None else address_of(added),
    )  # fmt: skip
    threads.run(plan.kernel, words, plan.tasks, plan.scratch, plan.slice_tasks, alone=plan.alone)
    if written is not y:
        y[...] = written


@functools.lru_cache(maxsize=1024)
def _plan(call: Call) -> _Plan:
    return _Plan(call)


class _Plan:
    """What a call's kernel is told, apart from addresses."""

    def __init__(self, call: Call) -> None:
        problem: ConvProblem = call.problem if call.operation == "forward" else call.problem.adjoint()
        code = simd.CODES[call.dtype]
        self.kernel = kernels.filtering(code)
        (taps,), (dilation,), (extent,), (out,) = problem.kernel, problem.dilation, problem.extent, problem.output
        (low, high), before = problem.cropped[0], problem.padding[0][0]
        # An output from here on, up to there, reads the array alone.
        first = min(max(low + before, 0), out)
        last = max(min(high + before - extent + 1, out), first)
        self.alone = call.flops < threads.SMALL_FLOPS
        lines = problem.batch * problem.groups
        most = max(1024, min(_BLOCK, -(-lines * out // 64), int(_TASK_FLOPS / (2 * taps))))
        blocks = 1 if self.alone and out <= 4 * _BLOCK else -(-out // most)
        block = -(-out // blocks)
        self.tasks = lines * blocks
        self.slice_tasks = max(1, int(_TASK_FLOPS * self.tasks / max(call.flops, 1)))
        self.offsets = np.arange(taps, dtype=np.int64) * (dilation * simd.BYTES[code])
        self.fill = np.array([problem.padding_value], call.dtype)
        record = np.zeros((), kernels.CALL)
        values = {
            "groups": problem.groups,
            "taps": taps,
            "offsets": address_of(self.offsets),
            "fill": address_of(self.fill),
            "extent": extent,
            "out": out,
            "before": before,
            "low": low,
            "high": high,
            "first": first,
            "last": last,
            "block": block,
            "blocks": blocks,
            "mode": MODES.index(problem.padding_mode),
        }
        for name, value in values.items():
            record[name] = value
        self.words = record.reshape(1).view(np.int64)
        # The ends of the signal with their borders, and their sums.
        strip = kernels.CHUNK + extent + 2 * simd.lanes_of(code) * 8
        self.scratch = -(-2 * strip * simd.BYTES[code] // 64) * 64
