"""Kernels as large as their maps: fully connected layers, and the layers that unfold a vector into a map.

There is one output position, so images, not positions, are what a matrix product has many of. The call is handed to
`gemm` as a kernel of size 1 along one axis: of images, or of the places of a kernel. Few products of long rows are
NumPy's. See docs/kernels_gemm.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import gemm
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_FEW = 16
"""Images, or outputs, below which products of rows go to NumPy: `gemm` would turn the longer operand around first."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    problem = call.problem
    if problem.groups != 1 or problem.layout != "channels_first":
        return "it takes channels first, in one group"
    if problem.kernel != problem.spatial or any(p or q for p, q in problem.padding):
        return "the kernel is not as large as the map, or there is padding"
    if any(b > 1 for b in problem.input_dilation):
        return "the input is dilated"
    if 0 in problem.x_shape or 0 in problem.y_shape:
        return "it takes no empty arrays"
    return gemm.supports(_product(call), device)


@functools.lru_cache(maxsize=1024)
def _product(call: Call) -> Call:
    """Return the convolution by a kernel of size 1 that the call is."""
    p = call.problem
    places = p.in_channels * math.prod(p.kernel)
    channels, outputs, positions = {
        "forward": (places, p.out_channels, p.batch),
        "weight_gradient": (p.batch, p.out_channels, places),
    }.get(call.operation, (p.out_channels, p.batch, places))
    problem = ConvProblem.make((1, channels, positions), (outputs, channels, 1))
    return Call(problem, "forward", call.dtype, call.precision, planned=call.planned)


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["dense"][device.vector_bits]
    if _is_few(call):
        return constants.overhead + call.bytes / constants.bandwidth
    return constants.overhead + gemm.cost(_product(call), device)


def _is_few(call: Call) -> bool:
    return call.operation == "forward" and min(call.problem.batch, call.problem.out_channels) < _FEW


def workspace(call: Call) -> int:
    """Return the bytes that the matrix product takes."""
    if _is_few(call):
        return math.prod(call.problem.w_shape) * np.dtype(call.dtype).itemsize
    return gemm.workspace(_product(call))


def pack(call: Call, w: Array) -> Any:
    """Return the weights as `gemm` reads them, or dense where they take the place of the inputs."""
    if call.operation == "forward" and not _is_few(call):
        return gemm.pack(_product(call), np.ascontiguousarray(w).reshape(len(w), -1, 1))
    return np.ascontiguousarray(w)


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Any = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    product, rank = _product(call), call.problem.rank
    # One row for each image; y has one position, so that its rows are views of it.
    images, results = (a if call.problem.batched else a[None] for a in (x, y))
    for _ in range(rank):
        results = results[..., 0]
    if call.operation == "forward":
        rows = np.ascontiguousarray(images).reshape(len(images), -1)
        if _is_few(call):
            np.matmul(rows, (w if packed is None else packed).reshape(results.shape[1], -1).T, out=results)
            if bias is not None:
                results += bias
            return
        weights = w if packed is not None else np.ascontiguousarray(w).reshape(len(w), -1, 1)
        gemm.run(product, rows.T[None], weights, results.T[None], bias, packed)
        return
    if call.operation == "weight_gradient":
        rows = np.ascontiguousarray(images).reshape(len(images), -1)
        _write(w, lambda to: gemm.run(product, rows[None], results.T[..., None], to.reshape(1, len(to), -1)))
        return
    w = np.ascontiguousarray(w) if packed is None else packed
    _write(
        images,
        lambda to: gemm.run(product, w.reshape(1, len(w), -1), results[..., None], to.reshape(1, len(to), -1)),
    )
    if bias is not None:
        images += bias.reshape(-1, *(1,) * rank)


def _write(array: Array, compute: Any) -> None:
    """Let `compute` write an array, or a dense one that is copied where the array is not."""
    if array.flags.c_contiguous:
        compute(array)
        return
    dense = np.empty(array.shape, array.dtype)
    compute(dense)
    array[...] = dense
