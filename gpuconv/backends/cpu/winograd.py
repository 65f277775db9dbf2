"""Winograd convolution: small kernels of stride 1 and any dilation with fewer products than the definition has.

Input tiles and weights are transformed, multiplied element by element, summed over the channels and transformed back.
See docs/kernels.md for the points, the error, the blocking and what it reaches.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import threads
from gpuconv.backends.cpu.winograd_geometry import Geometry, geometry, possible_forms
from gpuconv.backends.cpu.winograd_kernels import CALL, FUSED, INPUTS, PRODUCTS, WEIGHTS, kernel, products

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_LEAST_CHANNELS = 16
"""Sums of fewer channels are too short for the bound on the error, and too few for the transforms to pay."""
_STAGE = CALL.names.index("stage") if CALL.names else 0


def _correlation(call: Call) -> ConvProblem:
    """Return the forward problem that computes the operation."""
    return call.problem if call.operation == "forward" else call.problem.adjoint()


@functools.lru_cache(maxsize=4096)
def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    if call.operation == "weight_gradient":
        return "it does not compute weight gradients"
    if call.dtype != "float32":
        return "it computes in float32 only"
    if call.precision == "highest":
        return "precision='highest' excludes transforms"
    if call.operation != "forward" and call.problem.padding_mode != "zeros":
        return "the gradient of a border other than zeros is folded by direct"
    problem = _correlation(call)
    if problem.batch * problem.out_channels == 0:
        return "the result is empty"
    if any(s > 1 for s in (*problem.stride, *problem.input_dilation)):
        return "it needs a stride of 1"
    if not possible_forms(problem):
        return "it needs a kernel of 2 to 5 taps on one axis or, the same, on two"
    if problem.in_channels // problem.groups < _LEAST_CHANNELS:
        return f"it needs at least {_LEAST_CHANNELS} channels to sum over in each group"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    return geometry(_correlation(call), False).seconds


def workspace(call: Call) -> int:
    """Return the bytes of transformed weights and inputs and of all threads' scratch memory."""
    g = geometry(_correlation(call), True)
    return g.weight_bytes + g.input_bytes * g.split + g.scratch_bytes * min(g.tasks, threads.count())


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _operand(problem: ConvProblem, array: Array) -> list[int]:
    """Return x's or y's address and the bytes between neighbours: batch, channel, y, x."""
    batch, *rest = array.strides if problem.batched else (0, *array.strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return [_address(array), batch, channel, *(0,) * (2 - problem.rank), *rest]


def _weights(call: Call, w: Array) -> list[int]:
    """Return w's address and the bytes between neighbours: group, output, channel, y, x of the correlation."""
    problem = call.problem
    outputs, channels, *spatial = w.strides
    address, group = _address(w), outputs * (problem.out_channels // problem.groups)
    if call.operation != "forward":
        # The adjoint exchanges the channel axes within a group and turns the kernel around.
        outputs, channels = channels, outputs
        address += sum((k - 1) * stride for k, stride in zip(problem.kernel, spatial, strict=True))
        spatial = [-stride for stride in spatial]
    return [address, group, outputs, channels, *(0,) * (2 - problem.rank), *spatial]


_KEPT_BYTES = 128 << 20
_kept: list[Array] = []


def _aligned(size: int) -> tuple[Array, int]:
    """Return memory that has been used before, where there is some: new pages are slow; and its first cache line."""
    try:
        memory = _kept.pop()
    except IndexError:
        memory = np.empty(0, np.uint8)
    if memory.nbytes < size + 64:
        memory = np.empty(size + 64, np.uint8)
    return memory, _line(memory)


def _keep(*used: Array) -> None:
    _kept.extend(memory for memory in used if memory.nbytes + sum(m.nbytes for m in _kept) <= _KEPT_BYTES)
    del _kept[4:]


def _line(memory: Array) -> int:
    return -(-_address(memory) // 64) * 64


def pack(call: Call, w: Array) -> Array:
    """Return the transformed weights, which begin at a cache line."""
    memory = np.empty(geometry(_correlation(call), True).weight_bytes + 64, np.uint8)
    _transform(call, w, memory, geometry(_correlation(call), True))
    return memory


def _transform(call: Call, w: Array, memory: Array, g: Geometry) -> None:
    words = g.words.copy()
    words[10:20] = (*_weights(call, w), 0, 0, _line(memory), 0)
    words[_STAGE] = WEIGHTS
    threads.run(kernel(g.form), words, g.weight_tasks, g.scratch_bytes, max(1, g.weight_tasks // 8))


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    problem = _correlation(call)
    if call.operation != "forward":
        x, y = y, x
    g = geometry(problem, packed is not None)
    kept = []
    if packed is None and not g.transforms_inside:
        packed, _ = _aligned(g.weight_bytes)
        kept.append(packed)
        _transform(call, w, packed, g)
    v = 0
    if g.split:
        inputs, v = _aligned(g.input_bytes)
        kept.append(inputs)
    fill = np.array([problem.padding_value], np.float32)
    sums_bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    words = g.words.copy()
    words[:20] = (
        *_operand(problem, x), *_operand(problem, y), *_weights(call, w),
        0 if sums_bias is None else _address(sums_bias), _address(fill), 0 if packed is None else _line(packed), v,
    )  # fmt: skip
    words[_STAGE + 1] = products()
    code = kernel(g.form)
    if g.split:
        words[_STAGE] = INPUTS
        threads.run(code, words, g.input_tasks, g.scratch_bytes, g.slice_tasks)
    words[_STAGE] = PRODUCTS if g.split else FUSED
    threads.run(code, words, g.tasks, g.scratch_bytes, g.slice_tasks)
    _keep(*kept)
