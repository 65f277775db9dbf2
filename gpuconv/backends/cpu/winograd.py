"""Winograd convolution: small kernels of any stride or dilation with fewer products than the definition has.

Input tiles and weights are transformed, multiplied element by element, summed over the channels and transformed back.
See docs/kernels.md for the points, the error, the blocking and what it reaches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import memory, threads, winograd_gradient
from gpuconv.backends.cpu.memory import LINE, address_of, first_line
from gpuconv.backends.cpu.winograd_call import CALL, FUSED, INPUTS, PRODUCTS, WEIGHTS
from gpuconv.backends.cpu.winograd_forms import are_joined, possible_forms
from gpuconv.backends.cpu.winograd_geometry import Geometry, geometry, is_worth_packing, operand
from gpuconv.backends.cpu.winograd_kernels import functions, kernel

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_LEAST_CHANNELS = 16
"""Sums of fewer channels are too short for the bound on the error, and too few for the transforms to pay."""
_LEAST_POSITIONS = 48
_MOST_PHASES = 64
_X, _Y, _W, _BIAS, _U, _V, _STAGE = (
    (CALL.names or ()).index(name) for name in ("x", "y", "w", "bias", "u", "v", "stage")
)
_FUNCTIONS = slice(_STAGE + 1, _STAGE + 5)


class _Phase(NamedTuple):
    """A share of the outputs that is a correlation of its own: all of them, unless an axis is divided into phases."""

    problem: ConvProblem | None
    """None where no tap meets these outputs."""
    outputs: tuple[Any, ...]
    taps: tuple[Any, ...]
    """Indices of the last axes, after an ellipsis."""


@functools.lru_cache(maxsize=4096)
def _phases(call: Call) -> tuple[_Phase, ...]:
    """Return the correlations that a call is made of: one, unless an axis has phases that are not computed together."""
    problem = call.problem if call.operation == "forward" else call.problem.adjoint()
    dilated = [axis for axis, b in enumerate(problem.input_dilation) if b > 1]
    apart = _divided(problem, [axis for axis in dilated if not are_joined(problem, axis)])
    if _are_possible(apart):
        return apart
    return _divided(problem, dilated)


def _are_possible(phases: tuple[_Phase, ...]) -> bool:
    return all(possible_forms(phase.problem) for phase in phases if phase.problem is not None)


def _divided(problem: ConvProblem, divided: list[int]) -> tuple[_Phase, ...]:
    """Return the correlations of all combinations of the phases of some axes."""
    after = (slice(None),) * (problem.layout != "channels_first")
    found = []
    for phases in itertools.product(*(problem.phases(axis) for axis in divided)):
        outputs, taps = [slice(None)] * problem.rank, [slice(None)] * problem.rank
        kernel, stride, dilation, inner, padding = (
            list[Any](values)
            for values in (problem.kernel, problem.stride, problem.dilation, problem.input_dilation, problem.padding)
        )
        for axis, phase in zip(divided, phases, strict=True):
            outputs[axis] = slice(phase.start, None, phase.step)
            if not phase.taps:
                continue
            (first, start), (second, then) = phase.taps[0], (phase.taps * 2)[1]
            taps[axis] = slice(first, phase.taps[-1][0] + 1, second - first or None)
            kernel[axis], stride[axis], inner[axis] = len(phase.taps), phase.advance, 1
            dilation[axis] = max(then - start, 1)
            end = start + (phase.count - 1) * phase.advance + (kernel[axis] - 1) * dilation[axis] + 1
            padding[axis] = (-start, end - problem.spatial[axis])
        share = dataclasses.replace(
            problem, kernel=tuple(kernel), stride=tuple(stride), dilation=tuple(dilation), input_dilation=tuple(inner),
            padding=tuple(padding),
        )  # fmt: skip
        has_taps = all(phase.taps for phase in phases)
        found.append(_Phase(share if has_taps else None, (..., *outputs, *after), (..., *taps)))
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    if call.dtype != "float32":
        return "it computes in float32 only"
    if call.precision == "highest":
        return "precision='highest' excludes transforms"
    if call.operation == "weight_gradient":
        return _supports_gradient(call.problem)
    if call.operation != "forward" and call.problem.padding_mode != "zeros":
        return "the gradient of a border other than zeros is folded by direct"
    problem = call.problem if call.operation == "forward" else call.problem.adjoint()
    if problem.batch * problem.out_channels == 0:
        return "the result is empty"
    if problem.in_channels // problem.groups < _LEAST_CHANNELS:
        return f"it needs at least {_LEAST_CHANNELS} channels to sum over in each group"
    if math.prod(problem.input_dilation) > _MOST_PHASES:
        return f"it divides the outputs by stride into at most {_MOST_PHASES} phases"
    if any(s > 1 and b > 1 for s, b in zip(problem.stride, problem.input_dilation, strict=True)):
        return "an axis has both a stride and an input dilation"
    if not _are_possible(_phases(call)):
        return "no tiles fit the taps of its kernel along the last two axes, or those of a part or phase of it"
    return None


def _supports_gradient(problem: ConvProblem) -> str | None:
    if math.prod(problem.w_shape) == 0:
        return "the result is empty"
    if min(problem.in_channels, problem.out_channels) // problem.groups < _LEAST_CHANNELS:
        return f"its weight gradients need at least {_LEAST_CHANNELS} channels and outputs in each group"
    if problem.batch * math.prod(problem.output) < _LEAST_POSITIONS:
        return f"sums of fewer than {_LEAST_POSITIONS} positions are too short for the bound on its error"
    if any(b > 1 for b in problem.input_dilation):
        return "its weight gradients take no input dilation"
    if not winograd_gradient.possible(problem):
        return "it needs a kernel of 2 or more taps along one of the last two axes, after division by the stride"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    if call.operation == "weight_gradient":
        return winograd_gradient.cost(call.problem, device.threads)
    problems = [phase.problem for phase in _phases(call)]
    return sum((geometry(problem, call.planned).seconds for problem in problems if problem is not None), 0.0)


def workspace(call: Call) -> int:
    """Return the bytes of transformed weights and inputs and of all threads' scratch memory."""
    if call.operation == "weight_gradient":
        return winograd_gradient.workspace(call.problem)
    weights, taps, most = 0, 0, 0
    for phase in _phases(call):
        if phase.problem is None:
            continue
        kept = 0
        for packed in (True, False):
            g = geometry(phase.problem, packed)
            kept = max(kept, 0 if g.transforms_inside else g.weight_bytes)
            blocks = min(max(g.tasks, g.input_tasks), threads.count())
            most = max(most, g.input_bytes * g.split + g.scratch_bytes * blocks)
            taps = max(taps, g.weight_scratch_bytes * min(g.weight_tasks, threads.count()))
        weights += kept
    return weights + taps + most


def _correlated(call: Call, w: Array) -> Array:
    """Return the weights of the correlation that computes the operation."""
    if call.operation == "forward":
        return w
    # The adjoint exchanges the channel axes within a group and turns the kernel around.
    p = call.problem
    inner = w.reshape(p.groups, p.out_channels // p.groups, p.in_channels // p.groups, *p.kernel).swapaxes(1, 2)
    backwards: tuple[Any, ...] = (..., *(slice(None, None, -1),) * p.rank)
    turned: Array = inner[backwards]
    return turned[0] if p.groups == 1 else turned.reshape(p.in_channels, p.out_channels // p.groups, *p.kernel)


def _weights(problem: ConvProblem, strides: tuple[int, ...]) -> list[int]:
    """Return a place for w's address and the bytes between neighbours: group, output, channel, z, y, x."""
    outputs, channels, *spatial = strides
    group = outputs * (problem.out_channels // problem.groups)
    return [0, group, outputs, channels, *(0,) * (3 - problem.rank), *spatial]


def pack(call: Call, w: Array) -> Array:
    """Return the transformed weights of the phases that gain by it, each with room to begin at a cache line."""
    sizes = _packed_sizes(call)
    packed = np.empty(sum(sizes), np.uint8)
    correlated, start = _correlated(call, w), 0
    for phase, size in zip(_phases(call), sizes, strict=True):
        if phase.problem is not None and size:
            to, g = first_line(packed[start:]), geometry(phase.problem, True)
            _transform(phase.problem, correlated[phase.taps], to, g)
        start += size
    return packed


@functools.lru_cache(maxsize=1024)
def _packed_sizes(call: Call) -> tuple[int, ...]:
    return tuple(
        geometry(phase.problem, True).weight_bytes + LINE
        if phase.problem is not None and is_worth_packing(phase.problem)
        else 0
        for phase in _phases(call)
    )


def _transform(problem: ConvProblem, w: Array, to: int, g: Geometry) -> None:
    words = g.words.copy()
    words[_W : _W + 7] = _weights(problem, w.strides)
    words[_W], words[_FUNCTIONS] = address_of(w), functions(g.form)
    _transform_into(words, to, g)


def _transform_into(words: Array, to: int, g: Geometry) -> None:
    words[_U], words[_STAGE] = to, WEIGHTS
    threads.run(kernel(), words, g.weight_tasks, g.weight_scratch_bytes, max(1, g.weight_tasks // 8))


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    if call.operation == "weight_gradient":
        winograd_gradient.weight_gradient(call, x, w, y)
        return
    if call.operation != "forward":
        x, y = y, x
    sums_bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    phases, correlated = _phases(call), _correlated(call, w)
    start = 0
    for phase, size in zip(phases, _packed_sizes(call), strict=True):
        part, mine = y[phase.outputs], None if packed is None or not size else packed[start : start + size]
        start += size
        if phase.problem is None:
            across = call.problem.rank if call.problem.layout == "channels_first" else 0
            part[...] = 0 if bias is None else bias.reshape(-1, *(1,) * across)
        else:
            _correlate(phase.problem, x, correlated[phase.taps], part, sums_bias, mine)


class _Ready(NamedTuple):
    """All that correlations of one problem on arrays of the same strides share."""

    geometry: Geometry
    words: Array
    kernel: int
    fill: Array
    """Kept alive: `words` holds its address."""
    weight_bytes: int
    """Of transformed weights in memory of the call's own."""
    is_small: bool


@functools.lru_cache(maxsize=1024)
def _ready(problem: ConvProblem, is_packed: bool, x: tuple[int, ...], y: tuple[int, ...], w: tuple[int, ...]) -> _Ready:
    g = geometry(problem, is_packed)
    fill = np.array([problem.padding_value], np.float32)
    words = g.words.copy()
    words[: _STAGE + 1] = (
        0, *operand(problem, x), 0, *operand(problem, y), *_weights(problem, w), 0, address_of(fill), 0, 0, 0,
    )  # fmt: skip
    words[_FUNCTIONS] = functions(g.form)
    weight_bytes = 0 if is_packed or g.transforms_inside else -(-g.weight_bytes // LINE) * LINE
    return _Ready(g, words, kernel(), fill, weight_bytes, problem.flops < threads.SMALL_FLOPS)


def _correlate(problem: ConvProblem, x: Array, w: Array, y: Array, bias: Array | None, packed: Array | None) -> None:
    """Write the correlation of x into y."""
    ready = _ready(problem, packed is not None, x.strides, y.strides, w.strides)
    g, words, weight_bytes = ready.geometry, ready.words.copy(), ready.weight_bytes
    words[_X], words[_Y], words[_W] = address_of(x), address_of(y), address_of(w)
    if bias is not None:
        words[_BIAS] = address_of(bias)
    block = memory.take(weight_bytes + (g.input_bytes if g.split else 0))
    if packed is not None:
        words[_U] = first_line(packed)
    elif weight_bytes:
        _transform_into(words, block[1], g)
    words[_V] = block[1] + weight_bytes
    if g.split:
        words[_STAGE] = INPUTS
        threads.run(ready.kernel, words, g.input_tasks, g.scratch_bytes, g.slice_tasks, alone=ready.is_small)
    words[_STAGE] = PRODUCTS if g.split else FUSED
    threads.run(ready.kernel, words, g.tasks, g.scratch_bytes, g.slice_tasks, alone=ready.is_small)
    memory.give_back(block)
