"""Filters of planes by sixteen bytes of a row at a time: a raw CUDA kernel, loaded by CuPy.

One-channel images and depthwise layers, channels first, of stride and dilation 1, and their input gradients and
transposed forms, which are the same filter turned round. Made for the window's size; see docs/kernels_cuda_raw.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gpuconv import tuning_cuda
from gpuconv.activation import NAMES
from gpuconv.backends.cuda import batches, implicit_gemm_mma, raw_loader
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dtypes import result_dtype, to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.cuda import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = [
    "FUSES",
    "IN_REGISTERS",
    "Kernel",
    "compute",
    "cost",
    "kernel_of",
    "pack",
    "packed_for",
    "run",
    "supports",
    "workspace",
]

FUSES = NAMES
_ELEMENTS = {"float16": "Float16", "bfloat16": "BFloat16", "float32": "Float32", "int8": "Int8", "uint8": "UInt8"}
IN_REGISTERS = {1: 3, 2: 7, 4: 7}
"""Rows and columns of a window whose weights a thread holds, by an element's bytes; a larger one's rows are a loop."""
_BLOCK = 128
_GRID_Y = 65535
_MOST = 1 << 30
"""Threads of a plane: the kernel counts them in 32 bits."""


class Kernel(NamedTuple):
    """One instance of raw/stencil.cu."""

    element: str
    height: int
    """Rows of the window; 0 for any number."""
    width: int
    shift: int
    """Where the window of the first output begins, from a multiple of sixteen bytes on, in elements."""
    aligned: bool
    """Whether rows of the input begin at multiples of sixteen bytes."""
    activation: str = ""

    @property
    def name(self) -> str:
        """Name of the kernel."""
        window = f"{self.height or 'any'}x{self.width}"
        words = "stencil", self.element, window, f"at{self.shift}", "" if self.aligned else "apart", self.activation
        return "_".join(filter(None, words))

    @property
    def source(self) -> str:
        """The file that it is compiled from."""
        return "stencil.cu"

    @property
    def constants(self) -> dict[str, str]:
        """The constants of its compilation."""
        return {
            "ELEMENT": self.element,
            "HEIGHT": str(self.height),
            "WIDTH": str(self.width),
            "SHIFT": str(self.shift),
            "ALIGNED": str(self.aligned).lower(),
            "ACTIVATION": self.activation or "none",
            "NAME": self.name,
        }


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.dtype not in _ELEMENTS:
        return f"{call.dtype}: this kernel takes {', '.join(_ELEMENTS)}"
    if call.operation == "weight_gradient":
        return "the weight gradient is not among what this kernel computes"
    if p.rank != 2:
        return f"it takes 2-d problems, not {p.rank}-d ones"
    if any(s != 1 for s in (*p.stride, *p.dilation, *p.input_dilation)):
        return f"stride={p.stride}, dilation={p.dilation}: it takes 1 only"
    unreachable = implicit_gemm_mma.unreachable(call)
    if unreachable is not None:
        return unreachable
    q = geometry.computed(call)
    if q.in_channels != q.groups:
        return f"{q.in_channels // max(q.groups, 1)} input channels of a group: it takes one"
    if p.layout == "channels_last" and q.out_channels != 1:
        return "layout='channels_last' with several channels: it takes planes"
    if q.kernel[0] > tuning_cuda.CUDA_STENCIL_LIMITS[0] or q.kernel[1] > tuning_cuda.CUDA_STENCIL_LIMITS[1]:
        return f"a window of {q.kernel}: it takes up to {tuning_cuda.CUDA_STENCIL_LIMITS}"
    if _items(call, q) > _MOST:
        return f"threads of a plane are counted to {_MOST} only"
    return implicit_gemm_mma.missing(device)


def _items(call: Call, q: ConvProblem) -> int:
    """Return the threads that a plane takes: each has sixteen bytes of some rows, 32 outputs in all."""
    wide = 16 // to_numpy(call.dtype).itemsize
    return -(-q.output[0] // (32 // wide)) * -(-q.output[1] // wide)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds, of whole blocks and of all that their threads compute."""
    q = geometry.computed(call)
    threads = -(-_items(call, q) // _BLOCK) * _BLOCK * q.batch * q.out_channels
    flops = 2 * 32 * threads * q.kernel[0] * q.kernel[1]
    return tuning_cuda.cuda_cost("raw_stencil", call.dtype, flops, call.bytes, device.flops, device.bandwidth)


def workspace(call: Call) -> int:
    """Return the bytes of the packed weights, whose rows are rounded up to sixteen."""
    q = geometry.computed(call)
    return q.out_channels * q.kernel[0] * -(-q.kernel[1] * to_numpy(call.dtype).itemsize // 16) * 16


def pack(call: Call, w: Any) -> Any:
    """Return the weights on the GPU: (output channels, rows, columns rounded up to sixteen bytes)."""
    with raw_loader.working(w) as runtime:
        packed = packed_for(runtime, call, w)
        runtime.synchronize()
    return packed


def packed_for(runtime: Any, call: Call, w: Any) -> Any:
    """Return the weights where a runtime computes, in the kernel's order."""
    xp, kernel = runtime.xp, runtime.adopt(w).reshape(w.shape)
    if call.operation != "forward":
        kernel = xp.flip(kernel, axis=(2, 3))
    channels, (rows, columns), wide = geometry.computed(call).out_channels, kernel.shape[2:], 16 // w.dtype.itemsize
    packed = xp.zeros((channels, rows, -(-columns // wide) * wide), kernel.dtype)
    packed[..., :columns] = kernel.reshape(channels, rows, columns)
    return packed


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
    q = geometry.computed(call)
    weights = packed_for(runtime, call, w) if packed is None else packed
    source, result = runtime.adopt(runtime.view(read)), runtime.target(written)
    offset = None if bias is None else runtime.adopt(bias)
    (phase,) = q.all_phases
    numbers = geometry.numbers_of(call, q, phase, (q.layout,) * 2)
    size, result_size = to_numpy(call.dtype).itemsize, result_dtype(to_numpy(call.dtype)).itemsize
    at, into = runtime.pointer(source), runtime.pointer(result)
    steps = (numbers["x_axis1"], numbers["x_channel"], numbers["x_batch"])
    aligned = all(step * size % 16 == 0 for step in steps) and (at + numbers["x_start"] * size) % 16 == 0
    steps = (numbers["y_axis1"], numbers["y_channel"], numbers["y_batch"])
    kernel = kernel_of(call, numbers, aligned=aligned)
    pointers = {
        "x": at,
        "w": runtime.pointer(weights),
        "bias": 0 if offset is None else runtime.pointer(offset),
        "y": into,
        "paired": int(all(step * result_size % 16 == 0 for step in steps) and into % 16 == 0),
        "partial": 0,
        "splits": 1,
    }
    blocks, planes = -(-_items(call, q) // _BLOCK), q.batch * q.out_channels
    for first in range(0, planes, _GRID_Y):
        struct = geometry.as_struct(numbers | pointers | {"first_group": first})
        runtime.launch(kernel, kernel.name, (blocks, min(_GRID_Y, planes - first), 1), _BLOCK, 0, struct)
    runtime.deliver(result, written)


def kernel_of(call: Call, numbers: dict[str, int], *, aligned: bool) -> Kernel:
    """Return the kernel of a call."""
    height, width = numbers["taps1"], numbers["taps2"]
    size = to_numpy(call.dtype).itemsize
    held, shift = max(height, width) <= IN_REGISTERS[size], numbers["first2"] % (16 // size)
    return Kernel(_ELEMENTS[call.dtype], height if held else 0, width, shift, aligned, call.activation)
