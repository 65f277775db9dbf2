"""What kernels know of a call: the forward problem that it is, and strides of its arrays' axes in one order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = ["AxisStrides", "axis_strides", "bytes_of_a_sum", "bytes_of_gathered", "computed", "refused", "summed"]


def bytes_of_a_sum(call: Call) -> int:
    """Return how many bytes a sum of real numbers has: integers of up to 32 bits are summed in 32."""
    return 8 if summed(call) in ("float64", "complex128", "int64", "uint64") else 4


def summed(call: Call) -> str:
    """Return the dtype whose arithmetic a call has: that of its weights."""
    return call.sums or call.dtype


def refused(call: Call) -> str | None:
    """Return why a kernel cannot serve a call whose image, sums and result differ in dtype, or None."""
    if call.sums and (call.operation != "forward" or call.sums not in ("float32", "float64") or call.is_complex):
        return f"it does not sum {call.dtype} in {call.sums}"
    if call.result == "uint64":
        return f"it does not turn {call.dtype} into uint64"
    return None


def bytes_of_gathered(call: Call, of_an_index: int = 0) -> int:
    """Return the bytes of gathered weights and of the index that they are gathered by, which stays on the GPU.

    A number of the index has as many bytes as it says, else four, or eight where the weights are very many.
    """
    count = math.prod(call.problem.w_shape)
    # A complex weight is a matrix of two by two.
    numbers = count * 4 if call.is_complex else count
    return numbers * (bytes_of_a_sum(call) + (of_an_index or (4 if count < 1 << 29 else 8)))


def computed(call: Call) -> ConvProblem:
    """Return the problem whose forward convolution a call is.

    Of the gradient by x under a border other than zeros it is the gradient by the padded x.
    """
    problem = call.problem
    if call.operation == "forward":
        return problem
    return problem.adjoint() if problem.padding_mode == "zeros" else problem.on_padded().adjoint()


class AxisStrides(NamedTuple):
    """How far apart neighbours lie, in real numbers."""

    batch: int
    channel: int
    axes: tuple[int, int, int]
    """Of the spatial axes; axes that a problem of lower rank has not got come first, with 0."""


def axis_strides(problem: ConvProblem, strides: tuple[int, ...]) -> AxisStrides:
    """Return the strides of an x or y of a problem, given one for each of its axes.

    Examples
    --------
    >>> from gpuconv.problem import ConvProblem
    >>> axis_strides(ConvProblem.make((2, 3, 5, 7), (4, 3, 3, 3)), (105, 35, 7, 1))
    AxisStrides(batch=105, channel=35, axes=(0, 7, 1))
    """
    batch, rest = (strides[0], strides[1:]) if problem.batched else (0, strides)
    if problem.layout == "channels_first":
        channel, spatial = rest[0], rest[1:]
    else:
        channel, spatial = rest[-1], rest[:-1]
    first, second, third = (*(0,) * (3 - len(spatial)), *spatial)
    return AxisStrides(batch, channel, (first, second, third))
