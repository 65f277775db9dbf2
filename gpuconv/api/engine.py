"""The one way of every public function: check, choose, allocate, compute."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuconv import activation as activations
from gpuconv import arrays, dispatch
from gpuconv.dispatch import Call
from gpuconv.dtypes import check_pair, result_dtype, to_numpy
from gpuconv.errors import ShapeError, UnsupportedError
from gpuconv.problem import ConvProblem

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Job", "bias_channels", "execute", "make_call", "run", "settle"]


def run(
    operation: str,
    rank: int,
    x: Any,
    w: Any,
    bias: Any,
    geometry: tuple[Any, ...],
    precision: str,
    backend: str,
    algorithm: str,
    out: Any,
    *,
    written_shape: Any = None,
    names: tuple[str, str] = ("x", "w"),
    padding_value: float = 0.0,
    activation: str | None = None,
) -> Any:
    """Check, choose, allocate and compute: the one way of every public function.

    `x` and `w` are the two arrays that the operation reads, in its caller's order, `names` their
    names for messages, and `written_shape` the shape of the result where a gradient is asked for.
    `padding_value` is what the "zeros" border of a forward operation holds; `activation` is applied to the result of
    a forward or transposed operation, after the bias.
    """
    if backend == "auto":
        backend = arrays.home(x, w, bias, out)
    else:
        arrays.check_home(backend, x, w, bias, out)
    first, second = arrays.adopt(x), arrays.adopt(w)
    dtype = check_pair(first.dtype, second.dtype, names)
    key = (
        operation, rank, first.shape, second.shape, written_shape, dtype, geometry, precision, backend, algorithm,
        padding_value, activation,
    )  # fmt: skip
    plain = _is_plain(geometry) and _is_plain(written_shape) and _is_plain(activation)
    job = (_job if plain else _job.__wrapped__)(*key)
    return execute(job, x, first, second, bias, out)


class Job(NamedTuple):
    """A call with all that was settled for it."""

    call: Call
    module: ModuleType
    """The algorithm that serves it."""
    backend: str
    shape: tuple[int, ...]
    """The result's."""
    dtype: np.dtype[Any]
    """The result's."""


def execute(job: Job, x: Any, first: Any, second: Any, bias: Any, out: Any, packed: Any = None) -> Any:
    """Allocate the result, in the kind of `x`, and compute it from the two arrays that the job reads.

    `packed` are the weights as the algorithm's ``pack`` gives them.
    """
    call, module, backend, shape, result_type = job
    operation = call.operation
    bias_array = None
    if bias is not None:
        bias_array = arrays.check_bias(bias, bias_channels(call), result_type)
    if out is None:
        result = arrays.allocate(shape, result_type, x)
    else:
        inputs = (first, second) if bias_array is None else (first, second, bias_array)
        result = arrays.check_out(out, shape, result_type, inputs)
    if result.size:
        if operation == "forward":
            module.run(call, first, second, result, bias_array, packed)
        elif operation == "weight_gradient":
            module.run(call, first, result, second, bias_array, packed)
        else:
            module.run(call, result, second, first, bias_array, packed)
        if call.activation:
            activations.finish(call, module, backend, result)
    return arrays.give_back(result, x) if out is None else out


def _is_plain(value: Any) -> bool:
    """Whether equal values mean the same: a cache key may not take 1.0 or True for 1."""
    kind = type(value)
    if kind is tuple:
        return _PLAIN.issuperset(map(type, value)) or all(map(_is_plain, value))
    return kind in _PLAIN


_PLAIN = frozenset((int, str, type(None)))


@functools.lru_cache(maxsize=4096)
def _job(
    operation: str,
    rank: int,
    first: tuple[int, ...],
    second: tuple[int, ...],
    written: Any,
    dtype: str,
    geometry: tuple[Any, ...],
    precision: str,
    backend: str,
    algorithm: str,
    padding_value: float,
    activation: Any,
) -> Job:
    """Return the call that the arguments mean, with the algorithm that serves it."""
    call = make_call(operation, rank, first, second, written, dtype, geometry, precision, padding_value, activation)
    return settle(call, backend, algorithm)


def settle(call: Call, backend: str, algorithm: str, max_workspace: int | None = None) -> Job:
    """Return a call with the algorithm chosen for it."""
    shape, result_type = call.problem.shapes(call.operation)[2], result_dtype(to_numpy(call.dtype))
    # Before the choice: what cannot be held need not be planned.
    if backend != "cuda":
        arrays.check_size(shape, result_type)
    return Job(call, dispatch.choose(call, backend, algorithm, max_workspace), backend, shape, result_type)


def make_call(
    operation: str,
    rank: int,
    first: tuple[int, ...],
    second: tuple[int, ...],
    written: Any,
    dtype: str,
    geometry: tuple[Any, ...],
    precision: str,
    padding_value: float = 0.0,
    activation: str | None = None,
) -> Call:
    """Return the validated call for two shapes read and, for a gradient, the shape written."""
    if precision not in dispatch.PRECISIONS:
        raise UnsupportedError(
            f"precision={precision!r} is unknown; valid are {', '.join(map(repr, dispatch.PRECISIONS))}"
        )
    activated = activations.check(activation, dtype)
    stride, padding, output_padding, dilation, groups, padding_mode, layout = geometry
    common = {
        "rank": rank,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": padding_mode,
        "layout": layout,
    }
    if operation == "transposed":
        problem = ConvProblem.make_transposed(first, second, output_padding=output_padding, **common)
    elif operation == "forward":
        problem = ConvProblem.make(first, second, padding_value=padding_value, **common)
    else:
        is_input = operation == "input_gradient"
        x_shape, w_shape, dy_shape = (written, second, first) if is_input else (first, written, second)
        problem = ConvProblem.make(x_shape, w_shape, **common)
        if tuple(dy_shape) != problem.y_shape:
            raise ShapeError(
                f"dy has shape {tuple(dy_shape)}; the convolution of x {problem.x_shape} with w {problem.w_shape} "
                f"gives {problem.y_shape}"
            )
    return Call(problem, operation, dtype, precision, activation=activated)


def bias_channels(call: Call) -> int:
    """Return how many channels the result of a forward or transposed call has."""
    return call.problem.out_channels if call.operation == "forward" else call.problem.in_channels
