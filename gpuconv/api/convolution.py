"""conv1d, conv2d and conv3d."""

from __future__ import annotations

from typing import Any

from gpuconv.api.engine import run
from gpuconv.api.families import public

__all__ = ["conv1d", "conv2d", "conv3d"]

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
    activation : {{"relu", "gelu", "gelu_tanh", "silu"}}, optional
        Applied to the result after the bias, in the precision of the sums where the algorithm fuses it and of the
        result elsewhere: max(y, 0), y * Phi(y) with the normal distribution's Phi, the same with Phi's approximation
        by a tanh, or y / (1 + exp(-y)), as torch's. Floats only. `gpuconv.grad` does not know of it.
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
    activation: str | None = None,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, 0, dilation, groups, padding_mode, layout)
    return run("forward", 1, x, w, bias, geometry, precision, backend, algorithm, out, activation=activation)


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
    activation: str | None = None,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, 0, dilation, groups, padding_mode, layout)
    return run("forward", 2, x, w, bias, geometry, precision, backend, algorithm, out, activation=activation)


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
    activation: str | None = None,
    padding_mode: str = "zeros",
    layout: str = "channels_first",
    precision: str = "high",
    backend: str = "auto",
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    geometry = (stride, padding, 0, dilation, groups, padding_mode, layout)
    return run("forward", 3, x, w, bias, geometry, precision, backend, algorithm, out, activation=activation)
