"""Gradients of the convolutions by their input and by their weights, as `torch.nn.grad` names them."""

from __future__ import annotations

from typing import Any

from gpuconv.api import public, run

__all__ = ["conv1d_input", "conv1d_weight", "conv2d_input", "conv2d_weight", "conv3d_input", "conv3d_weight"]

_INPUT = """Return the gradient of ``sum(conj(dy) * conv{n}d(x, w, ...))`` by x, for any x of shape `x_shape`.

    Parameters
    ----------
    x_shape : tuple of int
        (N, C, {axes}) or (C, {axes}); channels last by `layout`.
    w : array, shape (O, C/groups, {kernel})
    dy : array
        The gradient by the convolution's result; of its shape and of the dtype of `w`.
    stride, padding, dilation, groups, padding_mode, layout
        What the forward call was given: every padding and border of `conv{n}d`.
    precision, backend, algorithm, out
        As for `conv{n}d`.

    Returns
    -------
    array, shape `x_shape`

    Raises
    ------
    ShapeError, DtypeError, UnsupportedError, BackendUnavailableError, MemoryError
        As `conv{n}d` does.

    Notes
    -----
    It is the adjoint of the convolution as a linear map of x: a transposed convolution with conj(w), and with what
    fell on the border added to the elements that the border showed. Deterministic.

    Examples
    --------
    >>> import numpy as np, gpuconv
    {example}
    """

_WEIGHT = """Return the gradient of ``sum(conj(dy) * conv{n}d(x, w, ...))`` by w, for any w of shape `w_shape`.

    Parameters
    ----------
    x : array, shape (N, C, {axes}) or (C, {axes})
    w_shape : tuple of int
        (O, C/groups, {kernel}).
    dy : array
        The gradient by the convolution's result; of its shape and of the dtype of `x`.
    stride, padding, dilation, groups, padding_mode, layout
        What the forward call was given: every padding and border of `conv{n}d`.
    precision, backend, algorithm, out
        As for `conv{n}d`.

    Returns
    -------
    array, shape `w_shape`

    Raises
    ------
    ShapeError, DtypeError, UnsupportedError, BackendUnavailableError, MemoryError
        As `conv{n}d` does.

    Notes
    -----
    dw[o, c, t] = sum over n, j of dy[n, o, j] * conj(x[n, c, j*stride + t*dilation - padding]), summed in an order
    that the shapes alone settle: the same bits at any number of threads.

    Examples
    --------
    >>> import numpy as np, gpuconv
    {example}
    """


@public(
    "input_gradient",
    1,
    _INPUT,
    """>>> gpuconv.grad.conv1d_input((1, 4), np.ones((1, 1, 2)), np.ones((1, 3)))
    array([[1., 2., 2., 1.]])""",
)
def conv1d_input(
    x_shape: Any,
    w: Any,
    dy: Any,
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
    return run(
        "input_gradient", 1, dy, w, None, geometry, precision, backend, algorithm, out,
        written_shape=x_shape, names=("dy", "w"),
    )  # fmt: skip


@public(
    "weight_gradient",
    1,
    _WEIGHT,
    """>>> gpuconv.grad.conv1d_weight(np.array([[1.0, 2.0, 3.0]]), (1, 1, 2), np.ones((1, 2)))
    array([[[3., 5.]]])""",
)
def conv1d_weight(
    x: Any,
    w_shape: Any,
    dy: Any,
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
    return run(
        "weight_gradient", 1, x, dy, None, geometry, precision, backend, algorithm, out,
        written_shape=w_shape, names=("x", "dy"),
    )  # fmt: skip


@public(
    "input_gradient",
    2,
    _INPUT,
    """>>> gpuconv.grad.conv2d_input((1, 2, 3), np.ones((1, 1, 2, 2)), np.ones((1, 1, 2)))
    array([[[1., 2., 1.],
            [1., 2., 1.]]])""",
)
def conv2d_input(
    x_shape: Any,
    w: Any,
    dy: Any,
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
    return run(
        "input_gradient", 2, dy, w, None, geometry, precision, backend, algorithm, out,
        written_shape=x_shape, names=("dy", "w"),
    )  # fmt: skip


@public(
    "weight_gradient",
    2,
    _WEIGHT,
    """>>> gpuconv.grad.conv2d_weight(np.ones((1, 4, 4)), (1, 1, 2, 2), np.ones((1, 3, 3)))
    array([[[[9., 9.],
             [9., 9.]]]])""",
)
def conv2d_weight(
    x: Any,
    w_shape: Any,
    dy: Any,
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
    return run(
        "weight_gradient", 2, x, dy, None, geometry, precision, backend, algorithm, out,
        written_shape=w_shape, names=("x", "dy"),
    )  # fmt: skip


@public(
    "input_gradient",
    3,
    _INPUT,
    """>>> gpuconv.grad.conv3d_input((1, 2, 2, 2), np.ones((1, 1, 2, 2, 2)), np.ones((1, 1, 1, 1))).sum()
    np.float64(8.0)""",
)
def conv3d_input(
    x_shape: Any,
    w: Any,
    dy: Any,
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
    return run(
        "input_gradient", 3, dy, w, None, geometry, precision, backend, algorithm, out,
        written_shape=x_shape, names=("dy", "w"),
    )  # fmt: skip


@public(
    "weight_gradient",
    3,
    _WEIGHT,
    """>>> gpuconv.grad.conv3d_weight(np.ones((1, 2, 2, 2)), (1, 1, 1, 1, 1), np.ones((1, 2, 2, 2))).ravel()
    array([8.])""",
)
def conv3d_weight(
    x: Any,
    w_shape: Any,
    dy: Any,
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
    return run(
        "weight_gradient", 3, x, dy, None, geometry, precision, backend, algorithm, out,
        written_shape=w_shape, names=("x", "dy"),
    )  # fmt: skip
