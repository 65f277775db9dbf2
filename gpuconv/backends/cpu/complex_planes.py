"""Complex convolutions as real ones: a complex channel is two real ones, its real and its imaginary part.

With the parts stacked along the channels of each group, y = w * x is

    [re y]   [re w  -im w]   [re x]
    [    ] = [           ] * [    ]
    [im y]   [im w   re w]   [im x]

which the algorithms of real numbers compute, Winograd's among them. Arrays are taken apart and put together by NumPy.
See docs/kernels.md.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import dispatch
from gpuconv.dispatch import Call
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from types import ModuleType

    from gpuconv.backends.cpu import Device
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_REAL = {"complex64": "float32", "complex128": "float64"}


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why not."""
    if call.dtype not in _REAL:
        return f"{call.dtype} is not complex"
    if not call.flops:
        return "there is nothing to multiply"
    if call.problem.padding_value:
        return "the border of the imaginary part is another than that of the real part"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["complex_planes"][device.vector_bits]
    return constants.overhead + call.bytes / constants.bandwidth + dispatch.estimate(_real(call), "cpu")


def workspace(call: Call) -> int:
    """Return the bytes of the parts of the arrays and of the weights, and of what the real convolution takes."""
    real = _real(call)
    inner = dispatch.workspace(real, _algorithm(call))
    return real.bytes + (inner or 0)


@functools.lru_cache(maxsize=1024)
def _real(call: Call) -> Call:
    """Return the real convolution of twice the channels."""
    p = call.problem
    problem = dataclasses.replace(p, in_channels=2 * p.in_channels, out_channels=2 * p.out_channels)
    return Call(problem, call.operation, _REAL[call.dtype], call.precision, planned=call.planned)


def _algorithm(call: Call) -> ModuleType:
    return dispatch.choose(_real(call), "cpu")


def pack(call: Call, w: Array) -> Any:
    """Return the weights of the real convolution in its algorithm's form."""
    return _algorithm(call).pack(_real(call), _stacked(call, w))


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Any = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    real, algorithm, p = _real(call), _algorithm(call), call.problem
    axis = _channel_axis(p)
    if call.operation == "weight_gradient":
        dw = np.empty(real.problem.w_shape, real.dtype)
        algorithm.run(real, _parts(x, axis, p.groups), dw, _parts(y, axis, p.groups), None)
        _add_products(w, dw, p)
        return
    stacked = _stacked(call, w) if packed is None else w
    start = None if bias is None else _parts(bias, 0, p.groups)
    if call.operation == "forward":
        result = np.empty(real.problem.y_shape, real.dtype)
        algorithm.run(real, _parts(x, axis, p.groups), stacked, result, start, packed)
        _join(y, result, axis, p.groups)
    else:
        result = np.empty(real.problem.x_shape, real.dtype)
        algorithm.run(real, result, stacked, _parts(y, axis, p.groups), start, packed)
        _join(x, result, axis, p.groups)


def _channel_axis(problem: ConvProblem) -> int:
    return int(problem.batched) + (problem.rank if problem.layout == "channels_last" else 0)


def _split(shape: tuple[int, ...], axis: int, groups: int, parts: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with the channels of an axis by group, and `parts` within each."""
    return (*shape[:axis], groups, *parts, shape[axis] // groups, *shape[axis + 1 :])


def _parts(a: Array, axis: int, groups: int) -> Array:
    """Return real and imaginary parts as channels, those of each group together."""
    parts = np.empty(_split(a.shape, axis, groups, (2,)), a.real.dtype)
    grouped = a.reshape(_split(a.shape, axis, groups, ()))
    np.moveaxis(parts, axis + 1, 0)[0] = grouped.real
    np.moveaxis(parts, axis + 1, 0)[1] = grouped.imag
    return parts.reshape(*a.shape[:axis], -1, *a.shape[axis + 1 :])


def _join(a: Array, parts: Array, axis: int, groups: int) -> None:
    """Write into `a` the complex numbers whose parts are channels."""
    grouped = parts.reshape(_split(a.shape, axis, groups, (2,)))
    real, imaginary = np.moveaxis(grouped, axis + 1, 0)
    a.real[...], a.imag[...] = real.reshape(a.shape), imaginary.reshape(a.shape)


def _stacked(call: Call, w: Array) -> Array:
    """Return the real weights: (outputs of re y, of im y) by (inputs of re x, of im x), in each group."""
    p = call.problem
    outputs, inputs = p.out_channels // p.groups, p.in_channels // p.groups
    stacked = np.empty((p.groups, 2, outputs, 2, inputs, *p.kernel), w.real.dtype)
    grouped = w.reshape(p.groups, outputs, inputs, *p.kernel)
    # The adjoint of the real map is that of the complex one, which conjugates; `transposed` does not.
    imaginary = -grouped.imag if call.operation == "transposed" else grouped.imag
    stacked[:, 0, :, 0] = stacked[:, 1, :, 1] = grouped.real
    stacked[:, 1, :, 0] = imaginary
    np.negative(imaginary, out=stacked[:, 0, :, 1])
    return stacked.reshape(2 * p.out_channels, 2 * inputs, *p.kernel)


def _add_products(w: Array, dw: Array, p: ConvProblem) -> None:
    """Write y * conj(x) into w from the products of the parts of y (outputs) and of x (inputs)."""
    outputs, inputs = p.out_channels // p.groups, p.in_channels // p.groups
    parts = dw.reshape(p.groups, 2, outputs, 2, inputs, *p.kernel)
    w.real[...] = (parts[:, 0, :, 0] + parts[:, 1, :, 1]).reshape(w.shape)
    w.imag[...] = (parts[:, 1, :, 0] - parts[:, 0, :, 1]).reshape(w.shape)
