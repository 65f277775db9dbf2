"""Depthwise convolution by sixteen bytes of channels at a time: a raw CUDA kernel, loaded by CuPy.

Channels must lie together. As `implicit_gemm` it computes a transposed convolution and an input gradient phase by
phase, and runs on whatever its runtime gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuconv import tuning_cuda
from gpuconv.activation import NAMES
from gpuconv.backends.cuda import batches, implicit_gemm_mma, raw_loader
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dtypes import to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.cuda import Device
    from gpuconv.dispatch import Call

__all__ = ["FUSES", "Kernel", "compute", "cost", "kernel_of", "pack", "packed_for", "run", "supports", "workspace"]

FUSES = NAMES
_ELEMENTS = {"float16": "Float16", "bfloat16": "BFloat16", "float32": "Float32"}
_MOST_SLID = 7
"""Taps of the last axis whose weights a thread holds in registers; more are a loop."""
_BLOCK = 128
_MOST = 1 << 30
"""Threads of a launch, rows, and chunks of a row: the kernel counts them in 32 bits."""


class Kernel(NamedTuple):
    """One instance of raw/depthwise.cu."""

    element: str
    taps: int
    """Of the last axis, one apart; 0 for any number at any distance."""
    activation: str = ""

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return "_".join(filter(None, ("depthwise", self.element, str(self.taps or "any"), self.activation)))

    @property
    def source(self) -> str:
        """The file that it is compiled from."""
        return "depthwise.cu"

    @property
    def strip(self) -> int:
        """Outputs of a thread along the last axis."""
        return 8 if self.element == "Float32" else 4

    @property
    def constants(self) -> dict[str, str]:
        """The constants of its compilation."""
        return {
            "ELEMENT": self.element,
            "TAPS": str(self.taps),
            "STRIP": str(self.strip),
            "ACTIVATION": self.activation or "none",
            "NAME": self.name,
        }


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.dtype not in _ELEMENTS:
        return f"{call.dtype}: this kernel takes {', '.join(_ELEMENTS)}"
    if p.in_channels // max(p.groups, 1) != 1 or p.out_channels != p.in_channels:
        return f"groups={p.groups}: only one input and one output channel to a group"
    if call.operation == "weight_gradient":
        return "the weight gradient is not among what this kernel computes"
    wide = 16 // to_numpy(call.dtype).itemsize
    if p.layout != "channels_last" or p.in_channels % wide:
        return f"{p.in_channels} channels, {p.layout}: channels must lie together, a multiple of {wide} of them"
    if p.batch * math.prod(p.output[:-1]) > _MOST or p.output[-1] * (p.in_channels // wide) > _MOST:
        return f"rows of the output, and chunks of one, are counted to {_MOST} only"
    return implicit_gemm_mma.unreachable(call) or implicit_gemm_mma.missing(device)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds."""
    launches = len(geometry.computed(call).all_phases)
    seconds = tuning_cuda.cuda_cost("raw_depthwise", call.dtype, call.flops, call.bytes, device.flops, device.bandwidth)
    return seconds + launches * implicit_gemm_mma.LAUNCH


def workspace(call: Call) -> int:
    """Return the bytes of the packed weights."""
    return math.prod(call.problem.w_shape) * to_numpy(call.dtype).itemsize


def pack(call: Call, w: Any) -> Any:
    """Return the weights on the GPU: phase after phase, each (taps, channels)."""
    with raw_loader.working(w) as runtime:
        packed = packed_for(runtime, call, w)
        runtime.synchronize()
    return packed


def packed_for(runtime: Any, call: Call, w: Any) -> Any:
    """Return the weights where a runtime computes, in the kernel's order."""
    xp, kernel = runtime.xp, runtime.adopt(w).reshape(w.shape)[:, 0]
    if call.operation != "forward":
        kernel = xp.flip(kernel, axis=tuple(range(1, kernel.ndim)))
    return xp.concatenate([
        xp.ascontiguousarray(xp.moveaxis(kernel[(slice(None), *geometry.slices(phase))], 0, -1)).reshape(-1)
        for phase in geometry.computed(call).all_phases
    ])  # fmt: skip


@batches.split
def run(call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any = None) -> None:
    """Write y (forward) or x (transposed, input_gradient), every element of it."""
    with raw_loader.working(x, w, y, bias) as runtime:
        compute(runtime, call, x, w, y, bias, packed)


def compute(runtime: Any, call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any = None) -> None:
    """Do what `run` does through a runtime: `raw_loader.CupyRuntime`, or another with its methods."""
    read, written = (x, y) if call.operation == "forward" else (y, x)
    written = runtime.view(written)
    if written.size == 0:
        return
    weights = packed_for(runtime, call, w) if packed is None else packed
    source, result = runtime.adopt(runtime.view(read)), runtime.target(written)
    if runtime.pointer(source) % 16:
        source = source.copy()
    if runtime.pointer(result) % 16:
        result = runtime.empty(result.size, result.dtype)
    offset = None if bias is None else runtime.adopt(bias)
    wide, layouts, begin = 16 // weights.dtype.itemsize, ("channels_last",) * 2, 0
    for phase in geometry.computed(call).all_phases:
        numbers = geometry.numbers_of(call, geometry.computed(call), phase, layouts)
        kernel = kernel_of(_ELEMENTS[call.dtype], numbers, call.activation)
        rows, strips = numbers["rows"] // numbers["count2"], -(-numbers["count2"] // kernel.strip)
        items = strips * (numbers["groups"] // wide)
        pointers = {
            "x": runtime.pointer(source),
            "w": runtime.pointer(weights) + begin * weights.dtype.itemsize,
            "bias": 0 if offset is None else runtime.pointer(offset),
            "y": runtime.pointer(result),
        }
        step = max(_MOST // items, 1)
        for first in range(0, rows, step):
            # A launch's rows are counted from `first_group` on, up to `splits`.
            bounds = {"first_group": first, "splits": min(first + step, rows), "partial": 0, "paired": 0}
            blocks = -(-(bounds["splits"] - first) * items // _BLOCK)
            struct = geometry.as_struct(numbers | pointers | bounds)
            runtime.launch(kernel, kernel.name, (blocks, 1, 1), _BLOCK, 0, struct)
        begin += math.prod(len(axis.taps) for axis in phase) * numbers["groups"]
    runtime.deliver(result, written)


def kernel_of(element: str, numbers: dict[str, int], activation: str = "") -> Kernel:
    """Return the kernel of a phase."""
    one_apart = numbers["advance2"] == numbers["delta2"] == 1 and numbers["taps0"] > 0
    slides = one_apart and numbers["taps2"] <= _MOST_SLID
    return Kernel(element, numbers["taps2"] if slides else 0, activation)
