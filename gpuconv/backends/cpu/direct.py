"""Direct convolution: every dtype, operation, rank, border, layout and stride.

Outputs are vectors along the last spatial axis; a few vectors for a few output channels are summed in registers over
all input channels and taps. See docs/kernels.md for the blocking, its arithmetic and what it reaches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import direct_kernels as kernels
from gpuconv.backends.cpu import threads
from gpuconv.backends.cpu.direct_geometry import Geometry, accumulator_of, contraction_geometry, correlation_geometry
from gpuconv.backends.cpu.simd import CODES
from gpuconv.boundary import source_index
from gpuconv.dtypes import result_dtype, to_numpy
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports"]


def supports(call: Call, device: Device) -> str | None:
    """Return None: this algorithm serves every call."""
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["direct"][device.vector_bits]
    rate = constants.flops * device.threads * 4 / to_numpy(call.accumulator).itemsize
    return constants.overhead + call.flops / rate + call.bytes / constants.bandwidth


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    problem = call.problem
    if call.operation == "forward":
        _correlate(call, problem, x, y, bias, pack(call, w) if packed is None else packed)
    elif call.operation == "weight_gradient":
        _contract(call, x, w, y)
    elif call.problem.padding_mode == "zeros":
        _correlate(call, problem.adjoint(), y, x, bias, pack(call, w) if packed is None else packed)
    else:
        _fold_border(call, x, w, y)


def pack(call: Call, w: Array) -> Array:
    """Return the weights as the kernel reads them, phase by phase (see `weight_packing`)."""
    problem, view = _weights(call, w)
    g = _correlation(call, problem)
    dtype = _accumulator(call)
    packed = np.empty(max(g.packed_elements, 1), dtype)
    if not g.packed_elements:
        return packed
    record = np.zeros((), kernels.PACKING)
    strides = view.strides
    record["w"], record["wg"], record["wo"], record["wc"] = view.ctypes.data, *strides[:3]
    record["is_complex"], record["w_half"] = call.is_complex, view.itemsize // 2
    record["conjugate"] = call.operation == "input_gradient"
    record["packed"] = packed.ctypes.data
    record["channels"], record["outputs"], record["groups"] = g.call["channels"], g.call["outputs"], problem.groups
    record["phases"], record["phase_count"] = g.call["phases"], g.call["phase_count"]
    record["blocks"] = blocks = -(-int(record["outputs"]) // kernels.ROWS)
    tables = [
        np.array(
            [sum(t * s for (t, _), s in zip(taps, strides[3:], strict=True)) for taps in _tap_products(phase)], np.int64
        )
        for phase in problem.all_phases
    ]
    addresses = np.array([table.ctypes.data for table in tables], np.int64)
    record["tap_bytes"] = addresses.ctypes.data
    kernel = kernels.weight_packing(CODES[_real(call.dtype)], CODES[dtype.name])
    tasks = len(tables) * problem.groups * blocks
    slice_tasks = max(1, 10**8 * tasks // g.packed_elements)
    threads.run(kernel, record.reshape(1), tasks if g.packed_elements > 20_000 else tasks, 64, slice_tasks)
    return packed


def _tap_products(phase: Any) -> Any:
    import itertools

    return itertools.product(*(axis.taps for axis in phase))


def _weights(call: Call, w: Array) -> tuple[ConvProblem, Array]:
    """Return the forward problem that the kernel solves, and w as (groups, outputs, channels, kernel...) of it."""
    p = call.problem
    shape = (p.groups, p.out_channels // p.groups, p.in_channels // p.groups, *p.kernel)
    strides = (shape[1] * w.strides[0], *w.strides)
    view = np.lib.stride_tricks.as_strided(w, shape, strides, writeable=False)
    if call.operation == "forward":
        return p, view
    flip = (slice(None, None, -1),) * p.rank
    return p.adjoint(), view.swapaxes(1, 2)[(..., *flip)]


@functools.lru_cache(maxsize=1024)
def _accumulator(call: Call) -> np.dtype[Any]:
    return np.dtype(accumulator_of(call.dtype, call.accumulator))


def _real(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def _correlation(call: Call, problem: ConvProblem) -> Geometry:
    return correlation_geometry(problem, _accumulator(call).name, call.is_complex)


def _complete(call: Call, problem: ConvProblem, g: Geometry, x: Array, y: Array, fill: Array) -> Array:
    """Return the geometry's record with the addresses and strides of the arrays that a kernel reads and writes."""
    record = g.call.copy()
    for name, array in (("x", x), ("y", y)):
        strides = array.strides if problem.batched else (0, *array.strides)
        if problem.layout == "channels_first":
            batch, channel, spatial = strides[0], strides[1], strides[2:]
        else:
            batch, channel, spatial = strides[0], strides[-1], strides[1:-1]
        record[name], record[name + "n"], record[name + "c"] = array.ctypes.data, batch, channel
        record[name + "_half"] = array.itemsize // 2
        for axis, stride in zip("xyz", reversed(spatial), strict=False):
            record[name + axis] = stride
    fill[0] = problem.padding_value
    record["fill"] = fill.ctypes.data
    return record.reshape(1)


def _correlate(call: Call, problem: ConvProblem, x: Array, y: Array, bias: Array | None, packed: Array) -> None:
    """Write the forward correlation of `problem` into y."""
    g, dtype = _correlation(call, problem), _accumulator(call)
    fill = np.zeros(2, dtype)
    record = _complete(call, problem, g, x, y, fill)
    record["w"] = packed.ctypes.data
    sums_bias = None
    if bias is not None:
        sums_bias = np.ascontiguousarray(bias, np.result_type(dtype, 1j) if call.is_complex else dtype)
        record["bias"] = sums_bias.ctypes.data
    target = y.dtype.name
    kernel = kernels.correlation(CODES[_real(call.dtype)], CODES[dtype.name], CODES[_real(target)])
    threads.run(kernel, record, g.tasks, g.scratch_bytes, g.slice_tasks)


def _contract(call: Call, x: Array, w: Array, y: Array) -> None:
    """Write the weight gradient into w."""
    problem, dtype = call.problem, _accumulator(call)
    g = contraction_geometry(problem, dtype.name, call.is_complex)
    count = int(g.call["partial_count"])
    if count == 0:
        w[...] = 0
        return
    partials = np.empty((count, g.packed_elements), dtype)
    fill = np.zeros(2, dtype)
    record = _complete(call, problem, g, x, y, fill)
    record["partials"] = partials.ctypes.data
    kernel = kernels.contraction(CODES[_real(call.dtype)], CODES[dtype.name])
    threads.run(kernel, record, g.tasks, g.scratch_bytes, g.slice_tasks)
    total = partials[0] if count == 1 else partials.sum(axis=0, dtype=dtype)
    outputs, channels = int(g.call["outputs"]), int(g.call["channels"])
    shape = (problem.groups, outputs, channels)
    whole = len(g.phases) == 1 and int(g.phases[0]["tap_count"]) == math.prod(problem.kernel)
    gradient = None if whole else np.zeros((*shape, *problem.kernel), dtype)
    for phase, combination in zip(g.phases, problem.all_phases, strict=True):
        taps = [[t for t, _ in axis.taps] for axis in combination]
        size = math.prod(shape) * int(phase["tap_count"])
        start = int(phase["partial_offset"]) // dtype.itemsize
        part = total[start : start + size].reshape(*shape, *map(len, taps))
        if gradient is None:
            gradient = part
        else:
            gradient[(slice(None),) * 3 + np.ix_(*taps)] += part
    assert gradient is not None
    if call.is_complex:
        # Real products of the parts of y (rows) and x (columns) make y * conj(x).
        p = gradient.reshape(problem.groups, outputs // 2, 2, channels // 2, 2, *problem.kernel)
        result = np.empty((*p.shape[:2], p.shape[3], *problem.kernel), np.result_type(dtype, 1j))
        np.add(p[:, :, 0, :, 0], p[:, :, 1, :, 1], out=result.real)
        np.subtract(p[:, :, 1, :, 0], p[:, :, 0, :, 1], out=result.imag)
        gradient = result
    w[...] = gradient.reshape(problem.w_shape).astype(w.dtype, copy=False)


def _fold_border(call: Call, x: Array, w: Array, y: Array) -> None:
    """Write the input gradient of a problem whose border is not zeros.

    The gradient by the input with its border is a plain one; each of its border elements is then added to the element
    that the border showed there.
    """
    problem = call.problem
    wide = problem.on_padded()
    inner = dataclasses.replace(call, problem=wide)
    dtype = np.result_type(_accumulator(call), 1j) if call.is_complex else _accumulator(call)
    folded: Array = np.empty(wide.x_shape, dtype)
    _correlate(inner, wide.adjoint(), y, folded, None, pack(inner, w))
    first = x.ndim - problem.rank - (problem.layout == "channels_last")
    for axis, (p, q) in enumerate(problem.padding):
        low, high = problem.cropped[axis]
        size = high - low
        moved = np.moveaxis(folded, first + axis, 0)
        core = moved[max(p, 0) : max(p, 0) + size]
        for position in (*range(-max(p, 0), 0), *range(size, size + max(q, 0))):
            core[source_index(problem.mode_code, position, size)] += moved[position + max(p, 0)]
        folded = np.moveaxis(core, 0, first + axis)
    place: list[slice] = [slice(None)] * x.ndim
    for axis, (low, high) in enumerate(problem.cropped):
        place[first + axis] = slice(low, high)
    if folded.shape != x.shape:
        x[...] = 0
    x[tuple(place)] = folded.astype(result_dtype(to_numpy(call.dtype)), copy=False)
