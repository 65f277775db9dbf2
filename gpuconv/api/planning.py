"""What a call would run, and calls whose weights are packed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpuconv import arrays, dispatch
from gpuconv.api.engine import bias_channels, execute, make_call, settle
from gpuconv.api.families import bind, geometry_of
from gpuconv.dtypes import check_pair, result_dtype
from gpuconv.errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from gpuconv.dispatch import Explanation

__all__ = ["Plan", "explain", "plan"]


def explain(
    function: Callable[..., Any], *args: Any, device: str | None = None, measure: bool = False, **arguments: Any
) -> Explanation:
    """Return what ``function(*args, **arguments)`` would run, and why not the other algorithms.

    Nothing is computed but with `measure`.

    Parameters
    ----------
    function : callable
        `conv1d` ... `conv_transpose3d`, or a function of `gpuconv.grad`.
    *args, **arguments
        As for `function`.
    device : str, optional
        A class of GPU, such as "a100" or "h200", to explain the CUDA backend for whether one is there or not. The
        estimates are computed from its data sheet.
    measure : bool
        Whether to time the call with every algorithm that can serve it on its backend, some tenths of a second each,
        with a bar on stderr.

    Returns
    -------
    Explanation
        ``problem``, ``flops``, ``bytes``, ``rows`` and ``chosen``, the row that would run. A row has ``backend``,
        ``algorithm``, ``reason``, the estimated ``seconds`` that choices go by, ``tabulated``, the estimate without
        what `gpuconv tune` found on this machine, and ``measured``. The `str` of an explanation is a table.

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
    operation, rank, a = bind(function, *args, **arguments)
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
    call = make_call(
        operation, rank, first.shape, second.shape, written, dtype, geometry_of(a), a["precision"],
        activation=a.get("activation"),
    )  # fmt: skip
    explanation = dispatch.explain(call, backend, a["algorithm"], device)
    if measure:
        if device is not None:
            raise UnsupportedError(f"device={device!r} with measure=True: only the device that is here can be measured")
        explanation.measure(lambda name: function(**{**a, "backend": backend, "algorithm": name, "out": None}), backend)
    return explanation


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
        call, which copies of arrays on their way to a GPU add to. None where an algorithm does not state it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        x_shape: tuple[int, ...],
        w: Any,
        arguments: dict[str, Any],
        max_workspace: int | None = None,
    ) -> None:
        operation, rank, a = bind(function, None, w, **arguments)
        if operation not in ("forward", "transposed"):
            raise UnsupportedError(f"plan takes conv1d ... conv_transpose3d, not {function.__name__}")
        for name in ("out",):
            if name in arguments:
                raise TypeError(f"{name}= is an argument of the plan's call, not of plan")
        backend = arrays.home(w) if a["backend"] == "auto" else a["backend"]
        # Copies: what the caller does to the arrays later changes neither this plan nor one that is unpickled.
        weights = arrays.snapshot(w)
        dtype = check_pair(weights.dtype, weights.dtype, ("w", "w"))
        if a["bias"] is not None:
            a["bias"] = arrays.snapshot(a["bias"])
            arguments = {**arguments, "bias": a["bias"]}
        self._state = (function, tuple(x_shape), weights, arguments, max_workspace)
        call = make_call(
            operation, rank, self._state[1], weights.shape, None, dtype, geometry_of(a), a["precision"],
            activation=a["activation"],
        )  # fmt: skip
        call = dataclasses.replace(call, planned=True)
        arrays.check_bias(a["bias"], bias_channels(call), result_dtype(weights.dtype))
        self._job = settle(call, backend, a["algorithm"], max_workspace)
        self._weights, self._bias, self._packed = weights, a["bias"], self._job.module.pack(call, weights)
        algorithm = self._job.module.__name__.rpartition(".")[2]
        self.explanation = dispatch.explain(call, backend, algorithm)
        self.workspace_bytes = dispatch.workspace(call, self._job.module)

    def __call__(self, x: Any, *, out: Any = None) -> Any:
        """Return the convolution of `x`, whose shape and dtype must be the planned ones."""
        arrays.check_home(self._job.backend, x, out)
        first = arrays.adopt(x)
        if tuple(first.shape) != self._state[1]:
            raise ShapeError(f"x has shape {tuple(first.shape)}; this plan takes {self._state[1]}")
        check_pair(first.dtype, self._weights.dtype)
        return execute(self._job, x, first, self._weights, self._bias, out, self._packed)

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
