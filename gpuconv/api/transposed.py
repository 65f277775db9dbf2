"""conv_transpose1d, conv_transpose2d and conv_transpose3d."""

from __future__ import annotations

from typing import Any

from gpuconv.api.engine import run
from gpuconv.api.families import public

__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

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
    activation : {{"relu", "gelu", "gelu_tanh", "silu"}}, optional
        As for `conv{n}d`.
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
    activation: str | None = None,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, output_padding, dilation, groups, padding_mode, layout)
    return run("transposed", 1, x, w, bias, geometry, precision, backend, algorithm, out, activation=activation)


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
    activation: str | None = None,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, output_padding, dilation, groups, padding_mode, layout)
    return run("transposed", 2, x, w, bias, geometry, precision, backend, algorithm, out, activation=activation)


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
    activation: str | None = None,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, output_padding, dilation, groups, padding_mode, layout)
    return run("transposed", 3, x, w, bias, geometry, precision, backend, algorithm, out, activation=activation)
