"""The oracle: every operation from its definition, in plain NumPy, written for reading.

Nothing here is shared with the kernels; borders come from `numpy.pad`. Floats are computed
in float64 or complex128, integers in wrapping 64-bit arithmetic, and rounded once at the end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.dtypes import result_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.problem import ConvProblem

    Array = NDArray[Any]

__all__ = ["activated", "forward", "input_gradient", "transposed", "weight_gradient"]

_NUMPY_PAD = {"zeros": "constant", "nearest": "edge", "symmetric": "symmetric", "mirror": "reflect", "wrap": "wrap"}


def forward(problem: ConvProblem, x: Array, w: Array, bias: Array | None = None, activation: str = "") -> Array:
    """Return y[n, o, j] = bias[o] + sum over c and t of w[o, c, t] * padded_x[n, c, j*stride + t*dilation]."""
    padded, kernel = _padded(problem, _wide(_grouped(problem, x))), _grouped_kernel(problem, _wide(w))
    y = np.zeros((problem.batch, *kernel.shape[:2], *problem.output), padded.dtype)
    for tap, window in _taps(problem):
        y += np.einsum("ngc...,goc->ngo...", padded[window], kernel[(..., *tap)])
    return _finish(problem, y, problem.y_shape, x.dtype, bias, activation)


def transposed(problem: ConvProblem, y: Array, w: Array, bias: Array | None = None, activation: str = "") -> Array:
    """Return the transpose of `forward` applied to y: each y is spread over the x that it was a sum of."""
    dy, kernel = _wide(_grouped(problem, y)), _grouped_kernel(problem, _wide(w))
    padded = np.zeros((problem.batch, problem.groups, kernel.shape[2], *_padded_size(problem)), dy.dtype)
    for tap, window in _taps(problem):
        padded[window] += np.einsum("ngo...,goc->ngc...", dy, kernel[(..., *tap)])
    return _finish(problem, _folded(problem, padded), problem.x_shape, y.dtype, bias, activation)


def input_gradient(problem: ConvProblem, y: Array, w: Array) -> Array:
    """Return the gradient by x of <y, forward(x)>: `transposed` with w conjugated."""
    return transposed(problem, y, np.conj(w))


def weight_gradient(problem: ConvProblem, x: Array, y: Array) -> Array:
    """Return the gradient by w of <y, forward(x)>: dw[o, c, t] = sum over n and j of y[n, o, j] * conj(x at j, t)."""
    padded, dy = np.conj(_padded(problem, _wide(_grouped(problem, x)))), _wide(_grouped(problem, y))
    dw = np.zeros((problem.groups, dy.shape[2], padded.shape[2], *problem.kernel), dy.dtype)
    places = math.prod(problem.output)
    for tap, window in _taps(problem):
        flat = padded[window].reshape(*padded.shape[:3], places)
        dw[(..., *tap)] = np.einsum("ngoj,ngcj->goc", dy.reshape(*dy.shape[:3], places), flat)
    return dw.reshape(problem.w_shape).astype(result_dtype(x.dtype))


def activated(name: str, a: Array) -> Array:
    """Return an activation of floats, in float64: max(a, 0), a * Phi(a), that by a tanh, or a * sigmoid(a)."""
    a = a.astype(np.float64)
    with np.errstate(all="ignore"):
        if name == "relu":
            return np.where(a < 0, 0.0, a)
        if name == "gelu":
            factor: Array = np.vectorize(math.erfc, otypes=[np.float64])(-a / math.sqrt(2)) / 2
        elif name == "gelu_tanh":
            factor = (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) / 2
        else:
            factor = 1 / (1 + np.exp(-a))
        result: Array = a * factor
        return result


def _taps(problem: ConvProblem) -> Iterator[tuple[Any, Any]]:
    """Yield each tap with the slice of the padded input that it multiplies."""
    for tap in itertools.product(*map(range, problem.kernel)):
        yield (
            tap,
            (
                ...,
                *(
                    slice(t * d, t * d + s * (o - 1) + 1, s)
                    for t, d, s, o in zip(tap, problem.dilation, problem.stride, problem.output, strict=True)
                ),
            ),
        )


def _wide(a: Array) -> Array:
    """Return `a` in the widest dtype of its kind."""
    if np.iscomplexobj(a):
        return a.astype(np.complex128)
    return a.astype(np.int64 if a.dtype.kind in "iu" else np.float64)


def _grouped(problem: ConvProblem, a: Array) -> Array:
    """Return x or y as (N, groups, channels of a group, spatial...)."""
    if not problem.batched:
        a = a[None]
    if problem.layout == "channels_last":
        a = np.moveaxis(a, -1, 1)
    return a.reshape(a.shape[0], problem.groups, a.shape[1] // problem.groups, *a.shape[2:])


def _grouped_kernel(problem: ConvProblem, w: Array) -> Array:
    """Return w as (groups, outputs of a group, inputs of a group, kernel...)."""
    return w.reshape(problem.groups, w.shape[0] // problem.groups, *w.shape[1:])


def _padded_size(problem: ConvProblem) -> tuple[int, ...]:
    return tuple(
        (n - 1) * b + 1 + p + q
        for n, b, (p, q) in zip(problem.spatial, problem.input_dilation, problem.padding, strict=True)
    )


def _dilated(problem: ConvProblem, x: Array) -> Array:
    size = tuple((n - 1) * b + 1 for n, b in zip(problem.spatial, problem.input_dilation, strict=True))
    dilated = np.zeros((*x.shape[: -problem.rank], *size), x.dtype)
    every: tuple[Any, ...] = (..., *(slice(None, None, b) for b in problem.input_dilation))
    dilated[every] = x
    return dilated


def _padded(problem: ConvProblem, x: Array) -> Array:
    """Return x dilated, then cropped by negative padding, then with its border."""
    x = _dilated(problem, x)
    sizes = x.shape[-problem.rank :]
    crop: tuple[Any, ...] = (
        ...,
        *(slice(max(-p, 0), n - max(-q, 0)) for n, (p, q) in zip(sizes, problem.padding, strict=True)),
    )
    width = [(0, 0)] * (x.ndim - problem.rank) + [(max(p, 0), max(q, 0)) for p, q in problem.padding]
    options = {"constant_values": problem.padding_value} if problem.padding_mode == "zeros" else {}
    mode: Any = _NUMPY_PAD[problem.padding_mode]
    padded: Array = np.pad(x[crop], width, mode=mode, **options)
    return padded


def _folded(problem: ConvProblem, padded: Array) -> Array:
    """Return the transpose of `_padded`: every padded position is added to the input that it showed."""
    for axis, n in enumerate(problem.spatial):
        p, q = problem.padding[axis]
        b = problem.input_dilation[axis]
        dilated = np.full((n - 1) * b + 1, -1)
        dilated[::b] = np.arange(n)
        crop, border = (max(-p, 0), max(-q, 0)), (max(p, 0), max(q, 0))
        if problem.padding_mode == "zeros":
            # An output padding may crop more than there is, and some of the border at the other end with it.
            source = np.pad(dilated, border, constant_values=-1)
            source = source[crop[0] : len(source) - crop[1]]
        else:
            mode: Any = _NUMPY_PAD[problem.padding_mode]
            source = np.pad(dilated[crop[0] : len(dilated) - crop[1]], border, mode=mode)
        moved = np.moveaxis(padded, axis - problem.rank, 0)
        folded = np.zeros((n, *moved.shape[1:]), padded.dtype)
        np.add.at(folded, source[source >= 0], moved[source >= 0])
        padded = np.moveaxis(folded, 0, axis - problem.rank)
    return padded


def _finish(
    problem: ConvProblem,
    grouped: Array,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bias: Array | None,
    activation: str,
) -> Array:
    """Return the grouped result with its bias and activation, in the caller's layout and dtype."""
    result = grouped.reshape(grouped.shape[0], grouped.shape[1] * grouped.shape[2], *grouped.shape[3:])
    if bias is not None:
        result = result + _wide(bias).reshape(-1, *(1,) * problem.rank)
    if activation:
        result = activated(activation, result)
    if problem.layout == "channels_last":
        result = np.moveaxis(result, 1, -1)
    return np.ascontiguousarray(result).reshape(shape).astype(result_dtype(dtype))
