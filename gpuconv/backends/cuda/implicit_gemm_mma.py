"""Implicit GEMM on tensor cores: raw CUDA kernels, loaded by CuPy.

A transposed convolution, and so an input gradient, is an ordinary convolution for each combination of its axes' phases
(`ConvProblem.phases`); one kernel (raw/implicit_gemm.cuh) serves all of them. `compute` does the work on whatever its
runtime gives: a GPU through CuPy (`raw_loader.CupyRuntime`), or in the tests the host.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.activation import NAMES
from gpuconv.backends.cuda import batches, raw_loader
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dtypes import result_dtype, to_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.dispatch import Call

    Array = NDArray[Any]

__all__ = [
    "FUSES",
    "LAUNCH",
    "compute",
    "cost",
    "missing",
    "pack",
    "packed_for",
    "run",
    "supports",
    "unreachable",
    "workspace",
]

FUSES = NAMES
_DTYPES = ("float16", "bfloat16", "float32", "int8", "uint8")
_GRID_Y = 65535
_LONGEST_AXIS = 1 << 29
"""Positions on an axis are 32-bit integers, and a border's pattern is up to twice as long as the axis."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    if call.dtype not in _DTYPES:
        return f"{call.dtype}: the tensor cores' kernels take {', '.join(_DTYPES)}"
    if call.dtype == "float32" and call.precision == "highest":
        return "precision='highest': tensor cores multiply float32 in parts of 11 bits; 'high' and 'tf32' allow it"
    p = call.problem
    if call.operation == "weight_gradient" and any(b > 1 for b in p.input_dilation):
        return f"input_dilation={p.input_dilation}: the weight gradient reads every input"
    return unreachable(call) or missing(device)


def unreachable(call: Call) -> str | None:
    """Return what of a call's border or size is beyond the kernels that read through `Problem`, or None."""
    p = call.problem
    if p.padding_value != 0:
        return f"padding_value={p.padding_value}: only a border of zeros is filled in"
    if call.operation in ("transposed", "input_gradient") and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: of the gradient only that of a border of zeros is gathered"
    if max(*p.dilated, *p.output, *p.extent) > _LONGEST_AXIS or math.prod(p.output) >= 1 << 31:
        return f"an axis of more than {_LONGEST_AXIS} elements, or 2^31 positions, is out of reach of 32-bit positions"
    return None


def missing(device: Device) -> str | None:
    """Return what the device lacks, or None."""
    if device.simulated:
        return "Numba's simulator runs no CUDA C++"
    if device.compute_capability < (8, 0):
        major, minor = device.compute_capability
        return f"{device.name} has compute capability {major}.{minor}; these kernels begin with 8.0"
    # A class of GPU that a choice is explained for is taken to have CuPy.
    return None if device.name in tuning_cuda.CUDA_DEVICES else raw_loader.unavailable()


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds: whole tiles at the tensor cores' rate, besides each array's way once."""
    layouts = (call.problem.layout,) * 2
    parts = geometry.launches(call, device.multiprocessors, geometry.reads_of(call, layouts), layouts)
    cycles, lanes = sum(part.cycles for part in parts), tuning_cuda.cuda_lanes(device.compute_capability)
    # As many operations as the ordinary cores would do in these cycles.
    flops = cycles * device.multiprocessors * lanes * 2
    seconds = tuning_cuda.cuda_cost("implicit_gemm_mma", call.dtype, flops, call.bytes, device.flops, device.bandwidth)
    return seconds + len(parts) * LAUNCH


def workspace(call: Call) -> int:
    """Return the bytes of the packed weights and of a split sum's parts."""
    from gpuconv.backends.cuda import device

    layouts = (call.problem.layout,) * 2
    parts = geometry.launches(call, device().multiprocessors, geometry.reads_of(call, layouts), layouts)
    weights = sum(part.weights_count for part in parts) * to_numpy(call.dtype).itemsize
    return weights + max(part.sums for part in parts) * np.dtype(np.uint32).itemsize


LAUNCH = 4e-6
"""Seconds of a launch. An estimate: not measured."""


def pack(call: Call, w: Any) -> Any:
    """Return the weights on the GPU, in the kernel's order."""
    with raw_loader.working(w) as runtime:
        packed = packed_for(runtime, call, w)
        runtime.synchronize()
    return packed


def packed_for(runtime: Any, call: Call, w: Any) -> Any:
    """Return the weights where a runtime computes, in the kernel's order."""
    return geometry.packed(runtime.xp, call, runtime.adopt(w).reshape(w.shape))


@batches.split
def run(call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any = None) -> None:
    """Write y (forward), x (transposed, input_gradient) or w (weight_gradient), every element of it."""
    with raw_loader.working(x, w, y, bias) as runtime:
        compute(runtime, call, x, w, y, bias, packed)


def compute(
    runtime: Any,
    call: Call,
    x: Any,
    w: Any,
    y: Any,
    bias: Any,
    packed: Any = None,
    only: tuning_cuda.TensorTile | None = None,
) -> None:
    """Do what `run` does through a runtime: `raw_loader.CupyRuntime`, or another with its methods.

    A tile named in `only` is taken whatever the estimates.
    """
    if call.operation == "weight_gradient":
        _weight_gradient(runtime, call, x, w, y, only)
        return
    read, written = (x, y) if call.operation == "forward" else (y, x)
    (read, of_read), (written, of_written) = (_in_memory(runtime, a, call) for a in (read, written))
    if written.size == 0:
        return
    layouts = of_read, of_written
    weights = packed_for(runtime, call, w) if packed is None else packed
    source, result = runtime.adopt(read), runtime.target(written)
    offset = None if bias is None else runtime.adopt(bias)
    at, into = runtime.pointer(source), runtime.pointer(result)
    reads = geometry.reads_of(call, layouts) if at % 16 == 0 else "gather"
    pairs = of_written == "channels_last" and into % (2 * result_dtype(to_numpy(call.dtype)).itemsize) == 0
    for part in geometry.launches(call, runtime.multiprocessors, reads, layouts, only):
        pointers = {
            "x": at,
            "w": runtime.pointer(weights) + part.weights * weights.dtype.itemsize,
            "bias": 0 if offset is None else runtime.pointer(offset),
            "y": into,
            "paired": int(pairs and part.numbers["outputs"] % 2 == 0),
        }
        _launch(runtime, part, pointers)
    runtime.deliver(result, written)


def _weight_gradient(runtime: Any, call: Call, x: Any, w: Any, y: Any, only: tuning_cuda.TensorTile | None) -> None:
    (x, of_x), (y, of_y) = (_in_memory(runtime, a, call) for a in (x, y))
    w, layouts = runtime.view(w), (of_x, of_y)
    if w.size == 0:
        return
    inputs, result = (runtime.adopt(x), runtime.adopt(y)), runtime.target(w)
    reads = geometry.reads_of(call, layouts)
    if reads == "vector" and any(runtime.pointer(a) % 16 for a in inputs):
        reads = "gather"
    (part,) = geometry.launches(call, runtime.multiprocessors, reads, layouts, only)
    pointers = {name: runtime.pointer(a) for name, a in zip("xyw", (*inputs, result), strict=True)}
    _launch(runtime, part, {**pointers, "bias": 0, "paired": 0})
    runtime.deliver(result, w)


def _in_memory(runtime: Any, array: Any, call: Call) -> tuple[Any, str]:
    """Return an array with its axes in the order of its memory, and that order, if it is one of the two layouts."""
    problem, view = call.problem, runtime.view(array)
    if view.flags.c_contiguous:
        return view, problem.layout
    first, last = (1 if problem.batched else 0), view.ndim - 1
    was_first = problem.layout == "channels_first"
    axes = [axis for axis in range(view.ndim) if axis != (first if was_first else last)]
    axes.insert(last if was_first else first, first if was_first else last)
    moved = view.transpose(axes)
    if moved.flags.c_contiguous:
        return moved, "channels_last" if was_first else "channels_first"
    return view, problem.layout


def _launch(runtime: Any, part: geometry.Launch, pointers: dict[str, int]) -> None:
    kernel, (tiles, splits) = part.kernel, part.grid
    partial = runtime.empty(part.sums, np.dtype(np.uint32)) if part.sums else None
    numbers = part.numbers | pointers
    numbers["partial"] = 0 if partial is None else runtime.pointer(partial)
    for first in range(0, numbers["groups"], _GRID_Y):
        grid = tiles, min(_GRID_Y, numbers["groups"] - first), splits
        struct = geometry.as_struct(numbers | {"first_group": first})
        runtime.launch(kernel, kernel.name, grid, kernel.tile.threads, kernel.shared, struct)
    if part.sums:
        blocks = min(-(-part.sums // splits // 256), 1 << 16)
        struct = geometry.as_struct(numbers | {"first_group": 0})
        runtime.launch(kernel, kernel.second_pass, (blocks, 1, 1), 256, 0, struct)
