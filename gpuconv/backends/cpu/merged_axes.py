"""Volumes whose kernel has one tap along two neighbouring axes, as in factored 3-d layers: the two are one long axis.

A kernel of k x 1 x 1 on D x H x W is one of k x 1 on D x H W, by a view: its lines fill vectors, and Winograd, whose
tiles are along the last two axes, serves it. See docs/kernels.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import dispatch
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why it cannot serve the call."""
    if _first(call.problem) is None:
        return "no two neighbouring axes of three have a kernel of 1, a stride of 1 and no padding"
    if 0 in call.problem.x_shape or 0 in call.problem.y_shape:
        return "it takes no empty arrays"
    if dispatch.estimate(_merged(call), "cpu") == math.inf:
        return "no algorithm serves the call with the axes merged"
    return None


def _first(problem: ConvProblem) -> int | None:
    """Return the first of the two axes, the last such pair; None where there is none."""
    if problem.rank != 3:
        return None
    plain = [
        (k, s, b, *pair) == (1, 1, 1, 0, 0)
        for k, s, b, pair in zip(problem.kernel, problem.stride, problem.input_dilation, problem.padding, strict=True)
    ]
    return max((axis for axis in (0, 1) if plain[axis] and plain[axis + 1]), default=None)


def _without(values: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return values[:axis] + values[axis + 1 :]


@functools.lru_cache(maxsize=1024)
def _merged(call: Call) -> Call:
    """Return the call with the two axes as one."""
    p, axis = call.problem, _first(call.problem) or 0
    spatial = (*p.spatial[:axis], p.spatial[axis] * p.spatial[axis + 1], *p.spatial[axis + 2 :])
    problem = dataclasses.replace(
        p, spatial=spatial, kernel=_without(p.kernel, axis), stride=_without(p.stride, axis),
        dilation=_without(p.dilation, axis), padding=_without(p.padding, axis),
        input_dilation=_without(p.input_dilation, axis),
    )  # fmt: skip
    return dataclasses.replace(call, problem=problem)


def _algorithm(call: Call) -> ModuleType:
    return dispatch.choose(_merged(call), "cpu")


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    return CPU_COSTS["merged_axes"][device.vector_bits].overhead + dispatch.estimate(_merged(call), "cpu")


def workspace(call: Call) -> int | None:
    """Return the bytes that the algorithm takes which serves the call with its axes merged."""
    return dispatch.workspace(_merged(call), _algorithm(call))


def _weights(call: Call, w: Array) -> Array:
    return np.ascontiguousarray(w).reshape(_merged(call).problem.w_shape)


def pack(call: Call, w: Array) -> Any:
    """Return the weights as the algorithm reads them."""
    return _algorithm(call).pack(_merged(call), _weights(call, w))


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Any = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    merged, algorithm = _merged(call), _algorithm(call)
    shapes = merged.problem.x_shape, merged.problem.w_shape, merged.problem.y_shape
    written = {"forward": 2, "weight_gradient": 1}.get(call.operation, 0)
    arrays = [a if a.flags.c_contiguous or i == written else np.ascontiguousarray(a) for i, a in enumerate((x, w, y))]
    target = arrays[written]
    if not target.flags.c_contiguous:
        arrays[written] = np.empty(target.shape, target.dtype)
    views = [a.reshape(shape) for a, shape in zip(arrays, shapes, strict=True)]
    algorithm.run(merged, *views, bias, packed)
    if arrays[written] is not target:
        target[...] = arrays[written]
