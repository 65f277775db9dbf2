"""Convolution as a matrix product whose second factor is never stored as a whole.

The inputs that a tile of outputs needs are copied, term by term of the sum, into a panel that stays in the
first-level cache, and multiplied by the weights where they lie. See docs/kernels.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import direct, threads
from gpuconv.backends.cpu.gemm_geometry import geometry, offsets
from gpuconv.backends.cpu.gemm_kernels import GEMM, multiplication
from gpuconv.backends.cpu.simd import CODES
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports"]

_FIELD = {name: i for i, name in enumerate(GEMM.names or ())}


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    if call.operation == "weight_gradient":
        return "it computes outputs and input gradients, not weight gradients"
    if call.dtype not in ("float32", "float64"):
        return f"it multiplies float32 and float64, not {call.dtype}"
    problem = call.problem
    if call.operation != "forward" and problem.padding_mode != "zeros":
        return "its input gradients have the 'zeros' border only"
    if call.operation != "forward" and any(
        s > 1 and b > 1 for s, b in zip(problem.stride, problem.input_dilation, strict=True)
    ):
        return "an axis has both a stride and an input dilation"
    if call.operation == "forward" and any(
        s > 1 and b > 1 for s, b in zip(problem.stride, problem.input_dilation, strict=True)
    ):
        return "an axis has both a stride and an input dilation"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["gemm"][device.vector_bits]
    return constants.overhead + _geometry(call)[0].seconds * 150e9 / constants.flops + call.bytes / constants.bandwidth


def _flat(problem: ConvProblem) -> ConvProblem | None:
    """Return a kernel of size 1's problem with one spatial axis, or None where it is not of that kind."""
    if (
        problem.rank == 1
        or problem.layout != "channels_first"
        or any(n != 1 for n in (*problem.kernel, *problem.stride, *problem.input_dilation))
        or any(p or q for p, q in problem.padding)
    ):
        return None
    return dataclasses.replace(
        problem, spatial=(math.prod(problem.spatial),), kernel=(1,), stride=(1,), dilation=(1,), input_dilation=(1,),
        padding=((0, 0),),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _problems(call: Call) -> tuple[ConvProblem, ConvProblem | None]:
    problem = call.problem if call.operation == "forward" else call.problem.adjoint()
    return problem, _flat(problem)


def _geometry(call: Call) -> Any:
    problem, flat = _problems(call)
    own = flat or problem
    return geometry(own, call.accumulator, call.operation != "forward"), own


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _strides(problem: ConvProblem, array: Array) -> tuple[int, int, list[int]]:
    """Return the bytes between neighbours: batch, channel, and the three spatial axes."""
    batch, *rest = array.strides if problem.batched else (0, *array.strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return batch, channel, [0] * (3 - problem.rank) + rest


def _is_flat(strides: list[int], shape: tuple[int, ...], size: int) -> bool:
    for stride, n in zip(reversed(strides), reversed(shape), strict=False):
        if n > 1 and stride != size:
            return False
        size *= n
    return True


def pack(call: Call, w: Array) -> Array | None:
    """Return the weights as the kernel reads them: as they are for a forward problem, else as `direct` packs them."""
    return np.array(w, order="C") if call.operation == "forward" else direct.pack(call, w)


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    forward = call.operation == "forward"
    if not forward:
        x, y = y, x
    problem, flat = _problems(call)
    size = y.itemsize
    xn, xc, xs = _strides(problem, x)
    yn, yc, ys = _strides(problem, y)
    if flat is not None:
        if _is_flat(xs, problem.spatial, size) and _is_flat(ys, problem.output, size):
            problem, xs, ys = flat, [0, 0, size], [0, 0, size]
    g = geometry(problem, call.accumulator, not forward)
    words = g.words.copy()
    groups, outputs = problem.groups, problem.out_channels // problem.groups
    if forward:
        if packed is None:
            packed = w if w.flags.c_contiguous else np.ascontiguousarray(w)
        row = math.prod(packed.shape[1:]) * size
        weights = (_address(packed), row * outputs, row, size)
    else:
        if packed is None:
            packed = direct.pack(call, w)
        weights = (0 if packed is None else _address(packed), 0, 0, 0)
    sums_bias = np.zeros(problem.out_channels + 8, y.dtype)
    if bias is not None:
        sums_bias[: problem.out_channels] = bias
    fill = np.array([problem.padding_value, 0], y.dtype)
    in_place = g.inside and (xs[2] == size or problem.output[-1] == 1)
    lines_y, lines_z = g.lines
    kept = None
    if in_place:
        addresses, kept = offsets(g.set_taps, g.channels, (xc, *xs))
        sets = g.sets.copy()
        sets["offsets"] = addresses
        words[_FIELD["sets"]] = _address(sets)
        lines_y, lines_z = g.advances[1] * xs[1], g.advances[0] * xs[0]
    out = (1, 1, 1, *problem.output)[-3:]
    dense = (
        len(g.keep[0]) == 1
        and (ys[2] == size or out[2] == 1)
        and (int(words[_FIELD["block_y"]]) == 1 or (g.whole_lines[0] and ys[1] == out[2] * size))
        and (int(words[_FIELD["block_z"]]) == 1 or (g.whole_lines[1] and ys[0] == out[1] * out[2] * size))
    )
    words[:25] = (
        _address(x), xn, xc, *xs, 0, _address(y), yn, yc, *ys, 0, _address(fill), _address(sums_bias), *weights,
        in_place, lines_z, lines_y, dense, words[_FIELD["sets"]],
    )  # fmt: skip
    code = CODES[call.dtype]
    threads.run(multiplication(code, code, code), words, g.tasks, g.scratch_bytes, g.slice_tasks)
