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

from gpuconv.backends.cpu import direct_gradient, memory, threads
from gpuconv.backends.cpu import direct_kernels as kernels
from gpuconv.backends.cpu.direct_contraction import contraction
from gpuconv.backends.cpu.direct_geometry import accumulator_of, contraction_geometry, correlation_geometry
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.records import KeptRecords
from gpuconv.backends.cpu.simd import CODES
from gpuconv.backends.cpu.weight_packing import Packing
from gpuconv.boundary import source_index
from gpuconv.dtypes import name_of, result_dtype, to_numpy
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "pack_into", "packed_bytes", "run", "supports", "workspace"]


def supports(call: Call, device: Device) -> str | None:
    """Return None: this algorithm serves every call."""
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["direct"][device.vector_bits]
    rate = constants.flops * device.threads * 4 / np.dtype(call.accumulator).itemsize
    # A load of inputs feeds the outputs of one group: with one output, loads are what takes the time.
    rate *= min(1.0, (1 + call.problem.out_channels // call.problem.groups) / 5)
    moved = call.bytes
    if call.operation == "forward" and call.problem.stride[-1] > 1:
        # Rows are taken apart by the stride.
        moved += 2 * math.prod(call.problem.x_shape) * np.dtype(call.dtype).itemsize
    return constants.overhead + call.flops / rate + moved / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    g = _correlation(call).geometry
    return packed_bytes(call) + g.scratch_bytes * min(g.tasks, threads.count())


def packed_bytes(call: Call) -> int:
    """Return the bytes of the weights that `pack` returns."""
    return _correlation(call).packed_bytes


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    if call.operation == "weight_gradient":
        _contract(call, x, w, y)
        return
    if call.operation != "forward":
        if call.problem.padding_mode != "zeros":
            _fold_border(call, x, w, y)
            return
        x, y = y, x
    correlation = _correlation(call)
    if packed is not None:
        correlation.run(x, y, bias, packed)
        return
    block = memory.take(correlation.packed_bytes)
    correlation.run(x, y, bias, correlation.pack(w, block[0]))
    memory.give_back(block)


def pack(call: Call, w: Array) -> Array | None:
    """Return the weights as the kernel reads them, phase by phase (see `direct_weights.weight_packing`)."""
    correlation = _correlation(call)
    return correlation.pack(w, np.empty(correlation.packed_bytes, np.uint8))


def pack_into(call: Call, w: Array, to: Array) -> Array | None:
    """Return what `pack` does, written into `packed_bytes` bytes of the caller's."""
    return _correlation(call).pack(w, to)


def _real(dtype: str) -> str:
    """Return the dtype of the parts of a complex one, or the real dtype itself."""
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def _operand(problem: ConvProblem, array: Array) -> list[int]:
    """Return x's or y's address, the bytes between neighbours (batch, channel, z, y, x), and half an element."""
    batch, *rest = array.strides if problem.batched else (0, *array.strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return [address_of(array), batch, channel, *(0,) * (3 - problem.rank), *rest, array.itemsize // 2]


@functools.lru_cache(maxsize=1024)
def _correlation(call: Call) -> _Correlation:
    return _Correlation(call)


class _Correlation:
    """A forward or transposed convolution as the forward correlation that the kernel computes."""

    def __init__(self, call: Call) -> None:
        self.problem = problem = call.problem if call.operation == "forward" else call.problem.adjoint()
        self.dtype = np.dtype(accumulator_of(call.dtype, call.accumulator))
        self.bias_dtype = np.result_type(self.dtype, 1j) if call.is_complex else self.dtype
        self.geometry = g = correlation_geometry(problem, self.dtype.name, call.is_complex)
        self.packed_bytes = g.packed_elements * self.dtype.itemsize
        self.codes = CODES[_real(call.dtype)], CODES[self.dtype.name]
        self.fill = np.array([problem.padding_value, 0], self.dtype)
        self.fill_address = address_of(self.fill)
        self._records = KeptRecords(self._record)
        self.packing = Packing(call, g.record, g.phases, g.packed_elements, self.codes, kernels.ROWS, False)

    def pack(self, w: Array, to: Array) -> Array | None:
        """Return the bytes `to` with the packed weights in them, or None where there are none."""
        if self.packed_bytes == 0:
            return None
        return self.packing.pack(w, to)

    def run(self, x: Array, y: Array, bias: Array | None, packed: Array | None) -> None:
        """Write the correlation of x into y."""
        g = self.geometry
        words, kernel = self._records.copy((x.strides, y.strides, y.dtype), x, y)
        words[_X], words[_Y] = address_of(x), address_of(y)
        if packed is not None:
            words[_W] = address_of(packed)
        if bias is not None:
            sums_bias = np.ascontiguousarray(bias, self.bias_dtype)
            words[_BIAS] = address_of(sums_bias)
        threads.run(kernel, words, g.tasks, g.scratch_bytes, g.slice_tasks)

    def _record(self, x: Array, y: Array) -> tuple[Array, int]:
        """Return the call record for arrays like these, and the kernel."""
        words = self.geometry.words.copy()
        words[:17] = (*_operand(self.problem, x), *_operand(self.problem, y), 0, 0, self.fill_address)
        return words, kernels.correlation(*self.codes, CODES[_real(name_of(y.dtype))])


_X, _Y, _W, _BIAS = ((kernels.CALL.names or ()).index(name) for name in ("x", "y", "w", "bias"))


def _contract(call: Call, x: Array, w: Array, y: Array) -> None:
    """Write the weight gradient into w."""
    problem, dtype = call.problem, np.dtype(accumulator_of(call.dtype, call.accumulator))
    operands = [*_operand(problem, x), *_operand(problem, y)]
    if direct_gradient.serves(call) and w.size and y.size:
        codes = CODES[call.dtype], CODES[dtype.name], CODES[name_of(w.dtype)]
        direct_gradient.weight_gradient(call, w, codes, operands)
        return
    g = contraction_geometry(problem, dtype.name, call.is_complex)
    count = int(g.record["partial_count"])
    if count == 0:
        w[...] = 0
        return
    block = memory.take(count * g.packed_elements * dtype.itemsize)
    partials = block[0][: count * g.packed_elements * dtype.itemsize].view(dtype).reshape(count, -1)
    fill = np.array([problem.padding_value, 0], dtype)
    words = g.words.copy()
    words[:18] = (*operands, 0, 0, address_of(fill), address_of(partials))
    kernel = contraction(CODES[_real(call.dtype)], CODES[dtype.name])
    threads.run(kernel, words, g.tasks, g.scratch_bytes, g.slice_tasks)
    gradient = _gathered(problem, g, partials[0] if count == 1 else partials.sum(axis=0, dtype=dtype))
    if call.is_complex:
        # The real products of the parts of y (rows) and of x (columns) make y * conj(x).
        outputs, channels = gradient.shape[1] // 2, gradient.shape[2] // 2
        p = gradient.reshape(problem.groups, outputs, 2, channels, 2, *problem.kernel)
        gradient = np.empty((problem.groups, outputs, channels, *problem.kernel), np.result_type(dtype, 1j))
        np.add(p[:, :, 0, :, 0], p[:, :, 1, :, 1], out=gradient.real)
        np.subtract(p[:, :, 1, :, 0], p[:, :, 0, :, 1], out=gradient.imag)
    w[...] = gradient.reshape(problem.w_shape).astype(w.dtype, copy=False)
    memory.give_back(block)


def _gathered(problem: ConvProblem, g: Any, sums: Array) -> Array:
    """Return the phases' sums as one array (groups, outputs, channels, kernel...)."""
    shape = (problem.groups, int(g.record["outputs"]), int(g.record["channels"]))
    if len(g.phases) == 1 and int(g.phases[0]["tap_count"]) == math.prod(problem.kernel):
        return sums.reshape(*shape, *problem.kernel)
    whole = np.zeros((*shape, *problem.kernel), sums.dtype)
    for phase, combination in zip(g.phases, problem.all_phases, strict=True):
        taps = [[t for t, _ in axis.taps] for axis in combination]
        size = math.prod(shape) * int(phase["tap_count"])
        start = int(phase["partial_offset"]) // sums.itemsize
        whole[(slice(None),) * 3 + np.ix_(*taps)] += sums[start : start + size].reshape(*shape, *map(len, taps))
    return whole


def _fold_border(call: Call, x: Array, w: Array, y: Array) -> None:
    """Write the input gradient of a problem whose border is not zeros.

    The gradient by the input with its border is a plain one; each of its border elements is then added to the element
    that the border showed there.
    """
    problem = call.problem
    wide = problem.on_padded()
    plain = dataclasses.replace(call, problem=wide)
    correlation = _correlation(plain)
    folded: Array = np.empty(wide.x_shape, correlation.bias_dtype)
    block = memory.take(correlation.packed_bytes)
    correlation.run(y, folded, None, correlation.pack(w, block[0]))
    memory.give_back(block)
    first = x.ndim - problem.rank - (problem.layout == "channels_last")
    for axis, (p, q) in enumerate(problem.padding):
        low, high = problem.cropped[axis]
        size = high - low
        moved = np.moveaxis(folded, first + axis, 0)
        core = moved[max(p, 0) : max(p, 0) + size]
        for position in (*range(-max(p, 0), 0), *range(size, size + max(q, 0))):
            core[source_index(problem.mode_code, position, size)] += moved[position + max(p, 0)]
        folded = np.moveaxis(core, 0, first + axis)
    if folded.shape != x.shape:
        x[...] = 0
    place: list[slice] = [slice(None)] * x.ndim
    for axis, (low, high) in enumerate(problem.cropped):
        place[first + axis] = slice(low, high)
    x[tuple(place)] = folded.astype(result_dtype(to_numpy(call.dtype)), copy=False)
