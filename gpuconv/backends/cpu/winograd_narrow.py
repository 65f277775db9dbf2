"""Winograd convolution of few input channels: the first layers of networks, whose inputs are images.

Where `winograd` has vectors of channels, here a vector holds one position of neighbouring tiles, so that three channels
fill it as well as a hundred. See docs/kernels_winograd.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import gemm, memory, threads
from gpuconv.backends.cpu.memory import LINE, address_of, first_line
from gpuconv.backends.cpu.winograd_forms import along_axes
from gpuconv.backends.cpu.winograd_geometry import operand
from gpuconv.backends.cpu.winograd_narrow_geometry import Geometry, form_of, geometry, part_count
from gpuconv.backends.cpu.winograd_narrow_kernels import NARROW, TILES, WEIGHTS, kernel
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_LEAST_CHANNELS = 3
"""Sums of fewer channels are too short for the bound on the error."""
_MOST_CHANNELS = 128
"""Of a group's channels in all parts: a column of their transformed positions then stays in a first-level cache."""
_SECONDS_OF_ONE = 1.2e-9
"""An output's, where neighbours are not neighbours in memory."""
_X, _Y, _W, _BIAS, _U, _STAGE, _FLAG = (
    (NARROW.names or ()).index(name) for name in ("x", "y", "w", "bias", "u", "stage", "flag")
)


@functools.lru_cache(maxsize=4096)
def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    problem = call.problem
    if call.dtype != "float32":
        return "it computes in float32 only"
    if call.precision == "highest":
        return "precision='highest' excludes transforms"
    if call.operation != "forward" or any(b > 1 for b in problem.input_dilation):
        return "it computes outputs of forward convolutions only"
    if problem.batch * problem.out_channels == 0:
        return "the result is empty"
    channels = problem.in_channels // problem.groups
    if channels < _LEAST_CHANNELS:
        return f"it needs at least {_LEAST_CHANNELS} channels to sum over in each group"
    if any(d > 1 and k > 1 for d, k in zip(*(along_axes(problem)[i] for i in (2, 0)), strict=True)):
        return "it takes no dilation along the last two axes"
    form = form_of(problem)
    if form is None:
        return "it needs a kernel of at least 2 by 3 taps on the last two axes, after division by the stride"
    if channels * part_count(problem, form) > _MOST_CHANNELS:
        return f"it sums over at most {_MOST_CHANNELS} channels, each counted once for every part of the kernel"
    return None


@functools.lru_cache(maxsize=1024)
def _geometry(call: Call) -> Geometry:
    form = form_of(call.problem)
    if form is None:
        raise ValueError("not a problem that it supports")
    return geometry(call.problem, form)


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["winograd_narrow"][device.vector_bits]
    seconds = constants.overhead + _geometry(call).cycles * device.vector_bits / 8 / constants.flops
    if call.problem.layout != "channels_first":
        seconds += math.prod(call.problem.y_shape) * _SECONDS_OF_ONE / device.threads
    return seconds + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of transformed weights and of all threads' scratch memory."""
    g = _geometry(call)
    return g.weight_bytes + g.scratch_bytes * min(g.tasks, threads.count())


def pack(call: Call, w: Array) -> Array:
    """Return the transformed weights, with room to begin at a cache line."""
    g = _geometry(call)
    packed = np.empty(g.weight_bytes + LINE, np.uint8)
    ready = _ready(call.problem, g.form, (0,) * len(call.problem.x_shape), (0,) * len(call.problem.y_shape), w.strides)
    _transform(ready, w, first_line(packed))
    return packed


class _Ready(NamedTuple):
    """All that calls of one problem on arrays of the same strides share."""

    geometry: Geometry
    words: Array
    kernel: int
    no_bias: Array
    fill: Array
    """Kept alive: `words` holds its address."""


@functools.lru_cache(maxsize=1024)
def _ready(problem: ConvProblem, form: int, x: tuple[int, ...], y: tuple[int, ...], w: tuple[int, ...]) -> _Ready:
    g = geometry(problem, form)
    words, fill = g.words.copy(), np.array([problem.padding_value], np.float32)
    outputs, channels, *spatial = w
    group = outputs * (problem.out_channels // problem.groups)
    words[: _BIAS + 2] = (
        0, *operand(problem, x), 0, *operand(problem, y), 0, group, outputs, channels, *(0,) * (3 - problem.rank),
        *spatial, 0, address_of(fill),
    )  # fmt: skip
    return _Ready(g, words, kernel(form), np.zeros(problem.out_channels, np.float32), fill)


def _transform(ready: _Ready, w: Array, to: int) -> None:
    g, words = ready.geometry, ready.words.copy()
    words[_W], words[_U], words[_STAGE] = address_of(w), to, WEIGHTS
    threads.run(ready.kernel, words, g.weight_tasks, g.weight_scratch_bytes, g.weight_tasks, alone=g.weight_tasks < 4)


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    ready = _ready(call.problem, _geometry(call).form, x.strides, y.strides, w.strides)
    g, words, flag = ready.geometry, ready.words.copy(), np.zeros(1, np.int64)
    sums_bias = ready.no_bias if bias is None else np.ascontiguousarray(bias, np.float32)
    block = memory.take(0 if packed is not None else g.weight_bytes)
    if packed is None:
        _transform(ready, w, block[1])
    words[_X], words[_Y], words[_BIAS] = address_of(x), address_of(y), address_of(sums_bias)
    words[_U], words[_STAGE] = block[1] if packed is None else first_line(packed), TILES
    words[_FLAG] = address_of(flag)
    threads.run(ready.kernel, words, g.tasks, g.scratch_bytes, g.slice_tasks, alone=call.flops < threads.SMALL_FLOPS)
    memory.give_back(block)
    if flag[0]:
        # A NaN or an infinity spreads over its tiles here; the definition confines it to what it meets.
        gemm.run(call, x, w, y, bias)
