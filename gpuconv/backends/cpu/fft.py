"""Convolution by fast Fourier transforms of overlapping tiles, for large kernels of stride 1.

A tile of the input, its border filled in, is transformed, multiplied by the transformed weights and transformed back
while it stays in cache; the outputs that its wrap-around spoils are left out (overlap-save). See docs/kernels_fft.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import direct, threads
from gpuconv.backends.cpu import fft_kernels as kernels
from gpuconv.backends.cpu.fft_geometry import Geometry, TileSize, empty_aligned, geometry, three, tile_size
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.records import KeptRecords
from gpuconv.backends.cpu.simd import BYTES, CODES
from gpuconv.boundary import source_index
from gpuconv.dtypes import name_of
from gpuconv.factors import Factors
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["TAKES", "cost", "pack", "run", "supports", "workspace"]

TAKES = ("factors",)
_MOST_MEMORY = 256 << 20
"""Bytes of transformed weights, and of a thread's tiles, at most."""
_FEWEST = 24
_ALONE = 30e-6
"""Seconds of work that one thread does sooner than it hands half of it over."""
_WORDS = {name: i for i, name in enumerate(kernels.CALL.names or ())}
_X, _Y, _W, _BIAS, _FLAGS, _SELF = (_WORDS[name] for name in ("x", "y", "w", "bias", "flags", "self"))


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why not."""
    problem = call.problem
    if call.precision == "highest":
        return "precision='highest' excludes transforms"
    if call.dtype.lstrip("u").startswith("int"):
        return "rounding would make integers inexact"
    if call.operation == "weight_gradient":
        return "no weight gradient"
    if any(s != 1 for s in (*problem.stride, *problem.dilation, *problem.input_dilation)):
        return "stride and dilation must be 1"
    if call.operation != "forward" and problem.padding_mode != "zeros":
        return "the gradient of a border that is not zeros"
    if call.factored is not None and (call.factored.is_whole or call.factored.ends):
        return "the product of its factors has another result"
    problem = _forward(call)
    if not call.flops or problem.in_channels // problem.groups * math.prod(problem.kernel) < _FEWEST:
        return f"sums of fewer than {_FEWEST} products are sooner, and more exactly, direct"
    size = _tile(call)
    if not math.isfinite(size.task_seconds):
        return "the kernel is too large for one transform"
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    tile = math.prod(size.sizes) * 2 * BYTES[_code(call)]
    if tile * max(channels + 1, problem.groups * channels * outputs) > _MOST_MEMORY:
        return f"its transformed weights or inputs would take more than {_MOST_MEMORY >> 20} MiB"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["fft"][device.vector_bits]
    return constants.overhead + _tile(call).seconds(device.threads) + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of transformed weights, of all threads' scratch memory and of a flag for each tile."""
    plan = _plan(call)
    g = plan.geometry
    number = 1 if plan.alone else min(g.tasks, threads.count())
    return g.spectrum * plan.dtype.itemsize + g.scratch_bytes * number + plan.items


def pack(call: Call, w: Array | Factors) -> Array:
    """Return the transformed weights, divided by the tile's size."""
    plan = _plan(call)
    return plan.pack(_whole(call, w))


def _whole(call: Call, w: Array | Factors) -> Array:
    """Return weights as one array: the product of factors, divided."""
    return np.asarray(w.product(call.problem) / w.divisor, call.dtype) if isinstance(w, Factors) else w


def run(
    call: Call, x: Array, w: Array | Factors, y: Array, bias: Array | None = None, packed: Array | None = None
) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    w = _whole(call, w)
    if call.operation != "forward":
        x, y = y, x
    plan = _plan(call)
    plan.run(x, w, y, bias, plan.pack(w) if packed is None else packed)


def _code(call: Call) -> int:
    return CODES[call.accumulator]


def _real(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def _forward(call: Call) -> ConvProblem:
    """Return the forward problem that computes the operation."""
    return call.problem if call.operation == "forward" else call.problem.adjoint()


def _tile(call: Call) -> TileSize:
    from gpuconv.backends.cpu import device

    constants = CPU_COSTS["fft"][device().vector_bits]
    wide = BYTES[_code(call)] / 4
    return tile_size(_forward(call), _code(call), call.is_complex, wide / constants.flops, 0.3e-6)


@functools.lru_cache(maxsize=1024)
def _plan(call: Call) -> _Plan:
    return _Plan(call)


class _Plan:
    """One call as tiles."""

    def __init__(self, call: Call) -> None:
        self.call, self.problem, self.code = call, _forward(call), _code(call)
        self.tile = _tile(call)
        self.geometry: Geometry = geometry(self.problem, self.code, call.is_complex, self.tile)
        self.dtype = np.dtype(call.accumulator)
        self.transform = kernels.transform(self.code)
        self.alone = self.tile.tasks * self.tile.task_seconds < _ALONE
        self.items = int(self.geometry.record["items"])
        self.fill = np.array([self.problem.padding_value, 0], self.dtype)
        self.scale = np.array([1 / math.prod(self.tile.sizes)], self.dtype)
        self._tiles, self._weights = KeptRecords(self._tiles_record), KeptRecords(self._weights_record)

    def weights(self, w: Array) -> Array:
        """Return the weights of the forward problem that is computed."""
        if self.call.operation == "forward":
            return w
        p = self.call.problem
        split = w.reshape(p.groups, p.out_channels // p.groups, *w.shape[1:])
        turned = split.swapaxes(1, 2).reshape(self.problem.w_shape)
        return turned[(slice(None), slice(None), *(slice(None, None, -1) for _ in p.kernel))]

    def pack(self, w: Array) -> Array:
        """Return the transformed weights."""
        g = self.geometry
        spectrum = empty_aligned(g.spectrum, self.dtype)
        turned = self.weights(w)
        words, kernel = self._weights.copy(turned.strides, turned)
        words[_X], words[_W], words[_SELF] = address_of(turned), address_of(spectrum), address_of(words)
        threads.run(kernel, words, g.weight_tasks, 64, g.slice_tasks, alone=g.weight_tasks == 1)
        return spectrum

    def run(self, x: Array, w: Array, y: Array, bias: Array | None, packed: Array) -> None:
        """Write the correlation of x into y."""
        g = self.geometry
        flags = np.zeros(self.items, np.int8)
        words, kernel = self._tiles.copy((x.strides, y.strides, y.dtype), x, y)
        words[_X], words[_Y], words[_W] = address_of(x), address_of(y), address_of(packed)
        words[_FLAGS], words[_SELF] = address_of(flags), address_of(words)
        if bias is not None:
            numbers = np.result_type(self.dtype, 1j) if self.call.is_complex else self.dtype
            sums_bias = np.ascontiguousarray(bias, numbers)
            words[_BIAS] = address_of(sums_bias)
        threads.run(kernel, words, g.tasks, g.scratch_bytes, g.slice_tasks, alone=self.alone)
        if np.count_nonzero(flags):
            self._repair(x, self.weights(w), y, bias, np.flatnonzero(flags))

    def _weights_record(self, w: Array) -> tuple[Array, int]:
        """Return the record for weights like these, and the kernel that transforms them."""
        outputs, channels, *spatial = w.strides
        words, (z, y, x) = self.geometry.words.copy(), three(tuple(spatial), 0)
        for name, value in (
            ("fill", address_of(self.scale)), ("wo", outputs), ("wc", channels), ("wz", z), ("wy", y), ("wx", x),
            ("wg", outputs * (self.problem.out_channels // self.problem.groups)), ("w_half", w.itemsize // 2),
            ("conjugate", self.call.operation == "input_gradient"), ("transform", self.transform),
        ):  # fmt: skip
            words[_WORDS[name]] = value
        return words, kernels.weights(CODES[_real(self.call.dtype)], self.code)

    def _tiles_record(self, x: Array, y: Array) -> tuple[Array, int]:
        """Return the record for arrays like these, and the kernel that computes the tiles."""
        words = self.geometry.words.copy()
        words[:17] = (*_operand(self.problem, x), *_operand(self.problem, y), 0, 0, address_of(self.fill))
        words[_WORDS["transform"]] = self.transform
        return words, kernels.tiles(CODES[_real(self.call.dtype)], self.code, CODES[_real(name_of(y.dtype))])

    def _repair(self, x: Array, w: Array, y: Array, bias: Array | None, items: Array) -> None:
        """Compute directly the outputs of tiles that are not finite: one bad input spoils a whole transform."""
        problem = self.problem
        precise = dataclasses.replace(self.call, problem=problem, operation="forward", precision="highest")
        if self.call.operation == "input_gradient" and self.call.is_complex:
            w = w.conj()
        if 4 * len(items) > self.items:
            direct.run(precise, x, w, y, bias)
            return
        rank, tiles = problem.rank, self.tile.tiles
        first = problem.batched + (problem.layout == "channels_first")
        for item in items.tolist():
            image, place = divmod(item, math.prod(tiles))
            patch, target = (x[image : image + 1], y[image : image + 1]) if problem.batched else (x, y)
            position = np.unravel_index(place, tiles)[3 - rank :]
            for axis in range(rank):
                n, k = self.tile.sizes[3 - rank + axis], problem.kernel[axis]
                start = int(position[axis]) * (n - k + 1)
                stop = min(start + n - k + 1, problem.output[axis])
                low, high = problem.cropped[axis]
                before = problem.padding[axis][0]
                index = np.array(
                    [source_index(problem.mode_code, i - before - low, high - low) for i in range(start, stop + k - 1)]
                )
                outside = index < 0
                patch = np.take(patch, np.where(outside, 0, index + low), axis=first + axis)
                patch[(slice(None),) * (first + axis) + (outside,)] = problem.padding_value
                target = target[(slice(None),) * (first + axis) + (slice(start, stop),)]
            spatial = tuple(patch.shape[first + axis] for axis in range(rank))
            part = dataclasses.replace(
                problem, batch=1, spatial=spatial, padding=((0, 0),) * rank, padding_mode="zeros", padding_value=0.0
            )
            direct.run(dataclasses.replace(precise, problem=part), patch, w, target, bias)


def _operand(problem: ConvProblem, array: Array) -> list[int]:
    """Return x's or y's address, the bytes between neighbours (batch, channel, z, y, x), and half an element."""
    batch, *rest = array.strides if problem.batched else (0, *array.strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return [address_of(array), batch, channel, *(0,) * (3 - problem.rank), *rest, array.itemsize // 2]
