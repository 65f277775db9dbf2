"""Stencils: correlations with one input channel, or few, for each output channel, in native memory order.

Filters of images and volumes, depthwise and narrowly grouped layers. Outputs are vectors along the last axis, summed
in registers for several rows at once and written where they belong. See docs/kernels_stencil.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import stencil_gradient, threads
from gpuconv.backends.cpu import stencil_kernels as kernels
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.records import KeptRecords
from gpuconv.backends.cpu.simd import BYTES, CODES, lanes_of, registers
from gpuconv.backends.cpu.stencil_geometry import Support, stencil_geometry
from gpuconv.backends.cpu.stencil_tiles import block, divisor_record
from gpuconv.dtypes import name_of
from gpuconv.factors import Factors
from gpuconv.tuning import CPU_COSTS, CPU_STENCIL_HIGH, CPU_STENCIL_PLANE, CPU_STENCIL_SHARE

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["TAKES", "cost", "pack", "run", "supports", "workspace"]

TAKES = ("other dtypes", "factors")
_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32")

_MOST_CHANNELS = 8
_LARGEST_PRODUCT = 1024
_MOST_SCRATCH = 16 << 20
_MOST_ORDERED = 1 << 13
"""Weights whose order in the packed array is kept: to collect them by it is one quick step."""
_MASKED_VECTORS = 12
"""Vectors of a row, at most, that are all masked where there are mask registers: wider tiles are worth more."""
_SET_SPAN, _WAYS = 4096, 8
"""Bytes after which a first-level cache begins with its first set again, and the least lines that a set holds."""


def supports(call: Call, device: Device) -> str | None:
    """Return why the call cannot be served, or None."""
    if call.sums:
        if call.dtype not in _TYPES or call.result not in _TYPES or call.result in ("float16", "bfloat16"):
            return f"stencils do not turn {call.dtype} into {call.result}"
    elif call.dtype not in ("float32", "float64"):
        return f"stencils compute float32 and float64, not {call.dtype}"
    problem = call.problem
    has_pixels = call.factored is not None and call.factored.pixel > 1
    if has_pixels and problem.padding_mode != "zeros" and any(problem.padding[-1]):
        return "stencils have no border of pixels"
    if call.factored is not None and sum(k > 1 for k in problem.kernel) > 1:
        if math.prod(problem.kernel) > _LARGEST_PRODUCT:
            return "the product of its factors is too large to be worth it"
        if call.factored.is_whole or _support(call) is None:
            return "the product of its factors has another result"
    if call.operation in ("transposed", "input_gradient"):
        if problem.padding_mode != "zeros":
            return "the gradient of a border is no stencil"
        if any(s > 1 for s in problem.stride):
            return "the transpose of a strided convolution is no stencil"
        problem = problem.adjoint()
    if any(b > 1 for b in problem.input_dilation):
        return "the input is dilated"
    channels = problem.in_channels // problem.groups
    if not 1 <= channels <= _MOST_CHANNELS:
        return f"{channels} input channels for each output; a stencil takes 1 to {_MOST_CHANNELS}"
    if problem.layout != "channels_first" and problem.in_channels * problem.out_channels > 1:
        return "channels last: neighbours along the last spatial axis lie apart"
    if _scratch_bytes(problem, call) > _MOST_SCRATCH:
        return "the rows that a block of outputs reads do not fit in the cache"
    return None


def _scratch_bytes(problem: ConvProblem, call: Call) -> int:
    if call.operation == "weight_gradient":
        return stencil_gradient.scratch_bytes(problem, call.accumulator)
    return stencil_geometry(problem, call.accumulator).scratch_bytes


@functools.lru_cache(maxsize=1024)
def _support(call: Call) -> Support | None:
    """Return the rectangles of a kernel given as factors where one of their products may not be 0.

    None where what is left of a column is in two, or the call is more than a filter.
    """
    problem, factored = call.problem, call.factored
    if factored is None or not factored.ends:
        return ()
    if (
        call.operation != "forward"
        or problem.rank != 2
        or problem.stride != (1, 1)
        or problem.dilation != (1, 1)
        or problem.in_channels != 1
    ):
        return None
    found: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for column in range(problem.kernel[1]):
        ranges = sorted(down for down, (first, end) in factored.ends if first <= column < end)
        if not ranges:
            continue
        low, high = ranges[0]
        for first, end in ranges:
            if first > high:
                return None
            high = max(high, end)
        if found and found[-1] == ((low, high), (found[-1][1][0], column)):
            found[-1] = (low, high), (found[-1][1][0], column + 1)
        else:
            found.append(((low, high), (column, column + 1)))
    return tuple(found)


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    if call.operation == "weight_gradient":
        return _gradient_cost(call, device)
    problem = call.problem if call.operation == "forward" else call.problem.adjoint()
    constants = CPU_COSTS["stencil"][device.vector_bits]
    size = np.dtype(call.accumulator).itemsize
    lanes = device.vector_bits // 8 // size
    vectors = math.prod(problem.output[:-1]) * -(-problem.output[-1] // lanes)
    support = _support(call)
    taps = sum((b - a) * (d - c) for (a, b), (c, d) in support) if support else math.prod(problem.kernel)
    products = vectors * lanes * taps * problem.in_channels // problem.groups
    flops = 2.0 * products * problem.batch * problem.out_channels
    # Rows of the kernel share loads: one row is bound by them, eight come near the peak.
    high = 1 if problem.rank == 1 else problem.kernel[-2]
    shared = CPU_STENCIL_HIGH[device.vector_bits] if high >= 8 else 1.0 if high > 1 else 0.6
    rate = constants.flops * device.threads * 4 / size * shared
    if problem.in_channels > problem.groups and problem.out_channels // problem.groups >= 4:
        # A load of inputs feeds the rows of one output only; direct's feeds several outputs.
        rate *= CPU_STENCIL_SHARE[device.vector_bits]
    planes = problem.batch * problem.out_channels / device.threads
    return constants.overhead + planes * CPU_STENCIL_PLANE + flops / rate + call.bytes / constants.bandwidth


def _gradient_cost(call: Call, device: Device) -> float:
    """Return the estimated seconds of a weight gradient: its input is packed once, its outputs read for every tap."""
    problem, constants = call.problem, CPU_COSTS["stencil"][device.vector_bits]
    size = np.dtype(call.accumulator).itemsize
    lanes = device.vector_bits // 8 // size
    lines = problem.batch * problem.out_channels * math.prod(problem.output[:-1])
    vectors = lines * -(-problem.output[-1] // lanes)
    taps = math.prod(problem.w_shape[1:])
    # A row of few vectors costs as much as its beginning and end do.
    flops = 2.0 * lanes * taps * (vectors + lines)
    return constants.overhead + flops * size / 4 / (constants.flops * device.threads) + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    correlation = _correlation(call)
    g = correlation.geometry
    weights = math.prod(correlation.problem.w_shape) * correlation.dtype.itemsize
    return weights + g.scratch_bytes * min(g.tasks, threads.count())


@functools.lru_cache(maxsize=1024)
def _correlation(call: Call) -> _Correlation:
    return _Correlation(call)


class _Correlation:
    """A forward or transposed convolution as the forward correlation that the kernel computes."""

    def __init__(self, call: Call) -> None:
        self.is_forward = call.operation in ("forward", "weight_gradient")
        self.problem = problem = call.problem if self.is_forward else call.problem.adjoint()
        self.dtype = np.dtype(call.accumulator)
        support = _support(call) or ()
        self.geometry = stencil_geometry(problem, self.dtype.name, 0, support)
        self.fill = np.array([problem.padding_value, 0], self.dtype)
        self._records = KeptRecords(self._record)
        self._order: Array | None = None
        self.no_bias = np.zeros(1, self.dtype)
        self.is_small = call.flops < threads.SMALL_FLOPS
        # Whether a vector of inputs can be loaded from the caller's rows, with the zeros of the border masked in.
        self.reads_rows = (
            problem.rank == 2
            and problem.layout == "channels_first"
            and problem.padding_mode == "zeros"
            and problem.padding_value == 0
            and problem.in_channels == problem.groups
            and problem.stride == (1, 1)
            and problem.dilation[0] == 1
            and problem.spatial[-1] < 1 << 30
            and all(p >= 0 for pair in problem.padding for p in pair)
            and not support
        )

    def pack(self, w: Array) -> Array:
        """Return each output channel's weights part by part, column by column."""
        if w.size > _MOST_ORDERED:
            return self._packed(w)
        if self._order is None:
            self._order = self._packed(np.arange(w.size).reshape(w.shape), np.dtype(np.intp)).ravel()
        return w.take(self._order).astype(self.dtype, copy=False)

    def _packed(self, w: Array, dtype: np.dtype[Any] | None = None) -> Array:
        p = self.problem
        if not self.is_forward:
            per_group = w.reshape(p.groups, p.in_channels // p.groups, -1, *p.kernel).swapaxes(1, 2)
            w = np.flip(per_group.reshape(p.w_shape), tuple(range(2, w.ndim)))
        w = w.reshape(p.out_channels, p.in_channels // p.groups, *(1,) * (3 - p.rank), *p.kernel)
        slices = self.geometry.slices
        if not slices:
            return np.ascontiguousarray(w.swapaxes(-1, -2), dtype or self.dtype)
        columns = [w[(slice(None), *place)].swapaxes(-1, -2).reshape(p.out_channels, -1) for place in slices]
        return np.ascontiguousarray(np.concatenate(columns, axis=1), dtype or self.dtype)

    def run(self, x: Array, y: Array, bias: Array | None, packed: Array, divisor: float = 1.0) -> None:
        """Write the correlation of x into y."""
        p, g = self.problem, self.geometry
        if y.strides[-1 if p.layout == "channels_first" else -2] != y.itemsize and y.size:
            dense = np.empty(y.shape, y.dtype)
            self.run(x, dense, bias, packed, divisor)
            y[...] = dense
            return
        words, kernel = self._records.copy((x.strides, y.strides, x.dtype, y.dtype), x, y)
        start = self.no_bias if bias is None else np.ascontiguousarray(bias, self.dtype)
        words[_X], words[_Y] = address_of(x), address_of(y)
        words[_W], words[_BIAS], words[_ITSELF] = address_of(packed), address_of(start), address_of(words)
        if bias is not None:
            words[_BIAS_STEP] = start.itemsize
        if divisor != 1.0:
            by = divisor_record(divisor, self.dtype)
            words[_DIVISOR] = address_of(by)
        threads.run(kernel, words, g.tasks, g.scratch_bytes, g.slice_tasks, alone=self.is_small)

    def _record(self, x: Array, y: Array) -> tuple[Array, int]:
        """Return the call record for arrays like these, without addresses of theirs, and the kernel."""
        words, sums, p = self.geometry.words.copy(), CODES[self.dtype.name], self.problem
        source, result = CODES[name_of(x.dtype)], CODES[name_of(y.dtype)]
        words[:11] = (*self.operand(x), *self.operand(y)[:-1])
        words[_FILL : _FILL + 10] = (
            address_of(self.fill), 0, 0, kernels.block_packing(source, sums), block(8, sums), block(4, sums),
            block(1, sums), 0 if sums == result else kernels.row_writing(sums, result), BYTES[sums], BYTES[result],
        )  # fmt: skip
        if self.reads_rows and source == sums == result:
            words[_IN_PLACE:] = (
                int(self._is_quick_to_read(x)), block(8, sums, 1), block(4, sums, 1), p.spatial[-1], p.spatial[-2],
                lanes_of(sums), _MASKED_VECTORS * lanes_of(sums) if registers() == 32 else 0,
            )  # fmt: skip
        return words, kernels.correlation()

    def _is_quick_to_read(self, x: Array) -> bool:
        """Whether rows are dense, and those that a tile reads do not push each other out of a first-level cache."""
        rows = self.problem.kernel[0] + 3
        return x.strides[-1] == x.itemsize and rows * math.gcd(x.strides[-2], _SET_SPAN) <= _WAYS * _SET_SPAN

    def operand(self, array: Array) -> list[int]:
        """Return an array's address and the bytes between neighbours (batch, channel, z, y, x)."""
        p = self.problem
        batch, *rest = array.strides if p.batched else (0, *array.strides)
        channel = rest.pop(0 if p.layout == "channels_first" else -1)
        return [address_of(array), batch, channel, *(0,) * (3 - p.rank), *rest]


_X, _Y, _W, _BIAS, _FILL, _DIVISOR, _ITSELF, _BIAS_STEP, _IN_PLACE = (
    (kernels.CALL.names or ()).index(name)
    for name in ("x", "y", "w", "bias", "fill", "divisor", "itself", "bias_step", "in_place")
)


def pack(call: Call, w: Array | Factors) -> Array:
    """Return the weights as the kernel reads them."""
    return _correlation(call).pack(w.product(call.problem) if isinstance(w, Factors) else w)


def run(
    call: Call, x: Array, w: Array | Factors, y: Array, bias: Array | None = None, packed: Array | None = None
) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    correlation = _correlation(call)
    if call.operation == "weight_gradient" and not isinstance(w, Factors):
        dense = y if y.strides[-1] == y.itemsize else np.ascontiguousarray(y)
        source = CODES[name_of(x.dtype)]
        stencil_gradient.weight_gradient(call, w, correlation.operand(x), correlation.operand(dense)[:-1], source)
        return
    packed = pack(call, w) if packed is None else packed
    x, y = (x, y) if correlation.is_forward else (y, x)
    correlation.run(x, y, bias, packed, w.divisor if isinstance(w, Factors) else 1.0)
