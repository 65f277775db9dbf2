"""The public functions: names, defaults and documentation; one `run` for all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gpuconv import arrays, dispatch
from gpuconv.dispatch import Call, Explanation
from gpuconv.dtypes import check_pair, result_dtype, to_numpy
from gpuconv.errors import ShapeError, UnsupportedError
from gpuconv.problem import ConvProblem

__all__ = [
    "Plan",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "explain",
    "plan",
    "run",
]

_CONV = """{n}-d convolution, in the machine-learning sense (a correlation), of a batch of arrays.

    y[n, o, j] = bias[o] + sum over c, t of w[o, c, t] * x[n, c, j*stride + t*dilation - padding]

    Positional order and meaning are `torch.nn.functional.conv{n}d`'s.

    Parameters
    ----------
    x : array, shape (N, C, {axes}) or (C, {axes})
        float16, bfloat16, float32, float64, complex64, complex128 or any integer dtype.
        With ``layout="channels_last"``: (N, {axes}, C) or ({axes}, C).
    w : array, shape (O, C/groups, {kernel})
        Of the dtype of `x`.
    bias : array, shape (O,), optional
        Of the dtype of the result.
    stride, dilation : int or tuple of int
    padding : int, tuple or str
        An int, or per spatial axis an int or a pair (before, after); negative values crop, before any border.
        Or "valid" (0), "same" (output ceil(i/stride), an odd element at the end), "same_lower" (at the start)
        or "causal" (all of it before).
    groups : int
        Channel groups that are convolved apart; C for a depthwise convolution.
    padding_mode : str
        What lies outside: "zeros", "nearest", "symmetric", "mirror" or "wrap", or the same under SciPy's, torch's,
        numpy.pad's or OpenCV's name. "reflect" is torch's and NumPy's: our "mirror", the edge element not repeated.
    layout : {{"channels_first", "channels_last"}}
        Of x and the result; w keeps its own.
    precision : {{"high", "highest", "tf32"}}
        "highest" multiplies and adds in the input's precision without transforms; "high" allows transforms of
        bounded error; "tf32" also TF32 products on a GPU.
    backend : {{"auto", "cpu", "cuda"}}
        "auto" follows the arrays.
    algorithm : str
        One name of `explain`, or "auto". A named backend or algorithm never falls back to another.
    out : array, optional
        Written and returned.

    Returns
    -------
    array, shape (N, O, {axes})
        Of the kind of `x` and its dtype; int32 for int8 and uint8. Integers wrap around as NumPy's do; floats are
        summed in at least float32. A NaN or infinity reaches exactly the outputs whose receptive field holds it.

    Raises
    ------
    ShapeError
        If shapes or numbers do not fit together.
    DtypeError
        If dtypes differ or are not supported.
    UnsupportedError
        If a name is unknown or the named algorithm cannot serve the call.
    BackendUnavailableError
        If the named backend cannot run here.
    MemoryError
        If the result cannot fit in memory. All errors come before any work.

    Notes
    -----
    The output's size is floor((i + 2*padding - dilation*(k - 1) - 1) / stride) + 1 on each axis [1]_. The direct
    algorithm takes 2 * N * O * C/groups * prod(output) * prod(kernel) floating-point operations.

    References
    ----------
    .. [1] V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np, gpuconv
    {example}
    """

_TRANSPOSED = """{n}-d transposed convolution: the transpose of the linear map that `conv{n}d` is.

    Each element of x is multiplied by the whole kernel and added into the result, `stride` apart. Positional order
    and meaning are `torch.nn.functional.conv_transpose{n}d`'s.

    Parameters
    ----------
    x : array, shape (N, C, {axes}) or (C, {axes})
        As for `conv{n}d`.
    w : array, shape (C, O/groups, {kernel})
    bias : array, shape (O,), optional
    stride, dilation : int or tuple of int
    padding : int, tuple or str
        What the corresponding convolution would pad, so it is cut from the result: an int, per axis an int or a
        pair (before, after), none negative; "valid" (0) or "same" (output i * stride).
    output_padding : int or tuple of int
        Elements added at the end of each axis; less than the larger of stride and dilation.
    groups : int
    padding_mode : str
        "zeros", the only border that a transposed convolution has.
    layout, precision, backend, algorithm, out
        As for `conv{n}d`.

    Returns
    -------
    array, shape (N, O, {axes})

    Raises
    ------
    ShapeError, DtypeError, UnsupportedError, BackendUnavailableError, MemoryError
        As for `conv{n}d`.

    Notes
    -----
    The output's size is (i - 1)*stride - 2*padding + dilation*(k - 1) + output_padding + 1. It is computed as
    prod(stride) ordinary convolutions, one for each residue of the output's position modulo the stride, so no
    multiplication by an inserted zero is made and no two results are added into one place.

    Examples
    --------
    >>> import numpy as np, gpuconv
    {example}
    """

_AXES = {1: ("W", "k"), 2: ("H, W", "kh, kw"), 3: ("D, H, W", "kd, kh, kw")}


_MEANING: dict[Callable[..., Any], tuple[str, int]] = {}


def public(
    operation: str, rank: int, template: str, example: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a public function's operation and rank, and fill its docstring from its family's template."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        axes, kernel = _AXES[rank]
        function.__doc__ = template.format(n=rank, axes=axes, kernel=kernel, example=example)
        _MEANING[function] = operation, rank
        return function

    return decorate


@public(
    "forward",
    1,
    _CONV,
    """>>> gpuconv.conv1d(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[[1.0, -1.0]]]))
    array([[-1., -1., -1.]])""",
)
def conv1d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, 0, dilation, groups, padding_mode, layout)
    return run("forward", 1, x, w, bias, geometry, precision, backend, algorithm, out)


@public(
    "forward",
    2,
    _CONV,
    """>>> x = np.arange(9.0).reshape(1, 3, 3)
    >>> gpuconv.conv2d(x, np.array([[[[0.0, 1.0], [2.0, 3.0]]]]))
    array([[[19., 25.],
            [37., 43.]]])
    >>> gpuconv.conv2d(x, np.ones((1, 1, 3, 3)), padding="same", padding_mode="nearest").shape
    (1, 3, 3)""",
)
def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, 0, dilation, groups, padding_mode, layout)
    return run("forward", 2, x, w, bias, geometry, precision, backend, algorithm, out)


@public(
    "forward",
    3,
    _CONV,
    """>>> gpuconv.conv3d(np.ones((1, 3, 3, 3)), np.ones((2, 1, 3, 3, 3)), np.array([0.0, 1.0])).ravel()
    array([27., 28.])""",
)
def conv3d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, 0, dilation, groups, padding_mode, layout)
    return run("forward", 3, x, w, bias, geometry, precision, backend, algorithm, out)


@public(
    "transposed",
    1,
    _TRANSPOSED,
    """>>> gpuconv.conv_transpose1d(np.ones((1, 6)), np.ones((1, 1, 3)), stride=2)
    array([[1., 1., 2., 1., 2., 1., 2., 1., 2., 1., 2., 1., 1.]])""",
)
def conv_transpose1d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, output_padding, dilation, groups, padding_mode, layout)
    return run("transposed", 1, x, w, bias, geometry, precision, backend, algorithm, out)


@public(
    "transposed",
    2,
    _TRANSPOSED,
    """>>> k = np.array([[0.0, 1.0], [2.0, 3.0]])
    >>> gpuconv.conv_transpose2d(k[None], k[None, None])
    array([[[ 0.,  0.,  1.],
            [ 0.,  4.,  6.],
            [ 4., 12.,  9.]]])""",
)
def conv_transpose2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, output_padding, dilation, groups, padding_mode, layout)
    return run("transposed", 2, x, w, bias, geometry, precision, backend, algorithm, out)


@public(
    "transposed",
    3,
    _TRANSPOSED,
    """>>> gpuconv.conv_transpose3d(np.ones((1, 2, 2, 2)), np.ones((1, 1, 2, 2, 2)), stride=2).shape
    (1, 4, 4, 4)""",
)
def conv_transpose3d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, output_padding, dilation, groups, padding_mode, layout)
    return run("transposed", 3, x, w, bias, geometry, precision, backend, algorithm, out)


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
    packed: Any = None,
    padding_value: float = 0.0,
) -> Any:
    """Check, choose, allocate and compute: the one way of every public function.

    `x` and `w` are the two arrays that the operation reads, in its caller's order, `names` their
    names for messages, and `written_shape` the shape of the result where a gradient is asked for.
    `padding_value` is what the "zeros" border of a forward operation holds.
    """
    if backend == "auto":
        backend = arrays.home(x, w, bias, out)
    else:
        arrays.check_home(backend, x, w, bias, out)
    first, second = arrays.adopt(x), arrays.adopt(w)
    dtype = check_pair(first.dtype, second.dtype, names)
    key = (
        operation, rank, first.shape, second.shape, written_shape, dtype, geometry, precision, backend, algorithm,
        padding_value,
    )  # fmt: skip
    call, module = (_ready if _is_plain(geometry) and _is_plain(written_shape) else _ready.__wrapped__)(*key)
    problem: ConvProblem = call.problem
    *_, shape = problem.shapes(operation)
    result_type = result_dtype(first.dtype)
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
    return arrays.give_back(result, x) if out is None else out


def _is_plain(value: Any) -> bool:
    """Whether equal values mean the same: a cache key may not take 1.0 or True for 1."""
    kind = type(value)
    return kind is int or kind is str or value is None or (kind is tuple and all(map(_is_plain, value)))


@functools.lru_cache(maxsize=4096)
def _ready(
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
) -> tuple[Call, ModuleType]:
    """Return the call that the arguments mean and the algorithm that serves it."""
    call = make_call(operation, rank, first, second, written, dtype, geometry, precision, padding_value)
    # Before the choice: what cannot be held need not be planned.
    if backend != "cuda":
        arrays.check_size(call.problem.shapes(operation)[2], result_dtype(to_numpy(dtype)))
    return call, dispatch.choose(call, backend, algorithm)


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
) -> Call:
    """Return the validated call for two shapes read and, for a gradient, the shape written."""
    if precision not in dispatch.PRECISIONS:
        raise UnsupportedError(
            f"precision={precision!r} is unknown; valid are {', '.join(map(repr, dispatch.PRECISIONS))}"
        )
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
    return Call(problem, operation, dtype, precision)


def bias_channels(call: Call) -> int:
    """Return how many channels the result of a forward or transposed call has."""
    return call.problem.out_channels if call.operation == "forward" else call.problem.in_channels


def _bound(function: Callable[..., Any], *args: Any, **arguments: Any) -> tuple[str, int, dict[str, Any]]:
    """Return the operation, the rank and all arguments, defaults included, of a call of a public function."""
    if function not in _MEANING:
        names = ", ".join(sorted(f.__name__ for f in _MEANING))
        raise TypeError(f"function={function!r} must be one of gpuconv's: {names}")
    bound = inspect.signature(function).bind(*args, **arguments)
    bound.apply_defaults()
    operation, rank = _MEANING[function]
    return operation, rank, bound.arguments


def _geometry(a: dict[str, Any]) -> tuple[Any, ...]:
    """Return the geometry that `run` takes from a public function's bound arguments."""
    return (
        a["stride"], a["padding"], a.get("output_padding", 0), a["dilation"], a["groups"],
        a["padding_mode"], a["layout"],
    )  # fmt: skip


def explain(function: Callable[..., Any], *args: Any, device: str | None = None, **arguments: Any) -> Explanation:
    """Return what ``function(*args, **arguments)`` would run, and why not the other algorithms; nothing is computed.

    Parameters
    ----------
    function : callable
        `conv1d` ... `conv_transpose3d`, or a function of `gpuconv.grad`.
    *args, **arguments
        As for `function`.
    device : str, optional
        A class of GPU, such as "a100" or "h200", to explain the CUDA backend for whether one is there or not. The
        estimates are computed from its data sheet.

    Returns
    -------
    Explanation
        ``problem``, ``flops``, ``bytes``, ``rows`` (each with ``backend``, ``algorithm``, ``reason`` and the estimated
        ``seconds``) and ``chosen``, the row that would run. Its `str` is a table.

    Examples
    --------
    >>> import numpy as np, gpuconv
    >>> e = gpuconv.explain(gpuconv.conv2d, np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), padding=1)
    >>> e.problem.y_shape, e.flops, e.chosen.backend
    ((1, 4, 8, 8), 13824, 'cpu')
    >>> e = gpuconv.explain(gpuconv.conv2d, np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)), device="h200")
    >>> e.chosen.backend
    'cuda'
    """
    operation, rank, a = _bound(function, *args, **arguments)
    if operation == "input_gradient":
        names, written = ("dy", "w"), a["x_shape"]
    elif operation == "weight_gradient":
        names, written = ("x", "dy"), a["w_shape"]
    else:
        names, written = ("x", "w"), None
    first, second = (a[name] for name in names)
    backend = a["backend"]
    if backend == "auto":
        backend = arrays.home(first, second) if device is None else "cuda"
    first, second = arrays.adopt(first), arrays.adopt(second)
    dtype = check_pair(first.dtype, second.dtype, names)
    call = make_call(operation, rank, first.shape, second.shape, written, dtype, _geometry(a), a["precision"])
    return dispatch.explain(call, backend, a["algorithm"], device)


class Plan:
    """A convolution whose weights are packed once; made by `plan`.

    Calling it with an array of the planned shape runs it. It may be called from several threads at once, and
    pickled: the copy packs its weights again.

    Attributes
    ----------
    explanation : Explanation
        What it runs.
    workspace_bytes : int or None
        Memory besides the arrays: packed weights, which the plan keeps, and scratch memory of all threads during a
        call. None where the algorithm does not state it: those of the CPU all do.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        x_shape: tuple[int, ...],
        w: Any,
        arguments: dict[str, Any],
        max_workspace: int | None = None,
    ) -> None:
        operation, rank, a = _bound(function, None, w, **arguments)
        if operation not in ("forward", "transposed"):
            raise UnsupportedError(f"plan takes conv1d ... conv_transpose3d, not {function.__name__}")
        for name in ("out",):
            if name in arguments:
                raise TypeError(f"{name}= is an argument of the plan's call, not of plan")
        self._backend = arrays.home(w) if a["backend"] == "auto" else a["backend"]
        # Copies: what the caller does to the arrays later changes neither this plan nor one that is unpickled.
        weights = arrays.snapshot(w)
        dtype = check_pair(weights.dtype, weights.dtype, ("w", "w"))
        if a["bias"] is not None:
            a["bias"] = arrays.snapshot(a["bias"])
            arguments = {**arguments, "bias": a["bias"]}
        self._state = (function, tuple(x_shape), weights, arguments, max_workspace)
        call = make_call(operation, rank, self._state[1], weights.shape, None, dtype, _geometry(a), a["precision"])
        arrays.check_bias(a["bias"], bias_channels(call), result_dtype(weights.dtype))
        module = dispatch.choose(call, self._backend, a["algorithm"], max_workspace)
        # Calls name what was chosen here: the packed weights are in its form.
        a["algorithm"] = module.__name__.rpartition(".")[2]
        self._bound = (operation, rank, weights, a)
        self._packed = module.pack(call, weights)
        self.explanation = dispatch.explain(call, self._backend, a["algorithm"])
        self.workspace_bytes = dispatch.workspace(call, self._backend, a["algorithm"])

    def __call__(self, x: Any, *, out: Any = None) -> Any:
        """Return the convolution of `x`, whose shape and dtype must be the planned ones."""
        operation, rank, w, a = self._bound
        shape = tuple(arrays.adopt(x).shape)
        if shape != self._state[1]:
            raise ShapeError(f"x has shape {shape}; this plan takes {self._state[1]}")
        return run(
            operation, rank, x, w, a["bias"], _geometry(a), a["precision"], self._backend, a["algorithm"], out,
            packed=self._packed,
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, self._state

    def __repr__(self) -> str:
        return f"<Plan: {self._state[0].__name__} of {self._state[1]}, {self.explanation!r}>"


def plan(
    function: Callable[..., Any],
    x_shape: tuple[int, ...],
    w: Any,
    *,
    max_workspace: int | None = None,
    **arguments: Any,
) -> Plan:
    """Return a convolution with its weights packed once, for many inputs of one shape.

    Parameters
    ----------
    function : callable
        `conv1d` ... `conv_transpose3d`.
    x_shape : tuple of int
    w : array
        Weights; the plan keeps them in its own form. x must have their dtype.
    max_workspace : int, optional
        Bytes that the plan may take besides the arrays: packed weights and scratch memory. The algorithm is chosen
        among those that state theirs (`Plan.workspace_bytes`) and keep within it.
    **arguments
        Any other argument of `function` but ``out``.

    Returns
    -------
    Plan

    Raises
    ------
    ShapeError, DtypeError, UnsupportedError, BackendUnavailableError
        As `function` does.
    UnsupportedError
        If no algorithm keeps within `max_workspace`; the message names the least that is needed.

    Examples
    --------
    >>> import numpy as np, gpuconv
    >>> smooth = gpuconv.plan(gpuconv.conv1d, (1, 5), np.ones((1, 1, 3)), padding="same")
    >>> smooth(np.array([[0.0, 0.0, 3.0, 0.0, 0.0]]))
    array([[0., 3., 3., 3., 0.]])
    """
    if max_workspace is not None and not isinstance(max_workspace, int):
        raise TypeError(f"max_workspace={max_workspace!r} must be a number of bytes, an int, or None")
    return Plan(function, x_shape, w, arguments, max_workspace)
