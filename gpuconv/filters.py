"""The image filters of the command line and the demonstration: one table of names and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.api import conv2d
from gpuconv.errors import ShapeError
from gpuconv.ndimage.smoothing import gaussian_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["FILTERS", "LARGEST_SIGMA", "LARGEST_SIZE", "Filter", "apply", "from_kernel", "make", "parse_kernel"]

LARGEST_SIGMA = 1000.0
LARGEST_SIZE = 4095


class Filter(NamedTuple):
    """What happens to each channel of an image.

    Each branch is a chain of 2-d kernels, correlated one after the other. The result is the one branch's, or, for a
    filter that measures edges, the root of the sum of the branches' squares: never negative.
    """

    branches: tuple[tuple[Array, ...], ...]
    is_magnitude: bool = False


def _separable(weights: Array) -> tuple[Array, ...]:
    return (weights[:, None], weights[None, :])


def _box(size: int | None, sigma: float | None) -> Filter:
    del sigma
    count = 5 if size is None else size
    return Filter((_separable(np.full(count, 1.0 / count)),))


def _gaussian(size: int | None, sigma: float | None) -> Filter:
    width = 2.0 if sigma is None else sigma
    radius = int(4.0 * width + 0.5) if size is None else size // 2
    return Filter((_separable(gaussian_weights(width, 0, radius)),))


def _fixed(*rows: list[list[float]], is_magnitude: bool = False) -> Callable[[int | None, float | None], Filter]:
    def make(size: int | None, sigma: float | None) -> Filter:
        del size, sigma
        return Filter(tuple((np.array(kernel),) for kernel in rows), is_magnitude)

    return make


class _Entry(NamedTuple):
    make: Callable[[int | None, float | None], Filter]
    takes: tuple[str, ...] = ()


FILTERS: dict[str, _Entry] = {
    "identity": _Entry(_fixed([[1.0]])),
    "box": _Entry(_box, ("size",)),
    "gaussian": _Entry(_gaussian, ("size", "sigma")),
    "sharpen": _Entry(_fixed([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])),
    "emboss": _Entry(_fixed([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])),
    "sobel": _Entry(
        _fixed(
            [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]],
            [[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]],
            is_magnitude=True,
        )
    ),
    "laplace": _Entry(_fixed([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], is_magnitude=True)),
}
"""Each name with the function that makes the filter from a size and a sigma, and which of the two it takes."""


def make(name: str, *, size: int | None = None, sigma: float | None = None) -> Filter:
    """Return the filter called `name`.

    Parameters
    ----------
    name : str
        A key of `FILTERS`.
    size : int, optional
        Width of the box, by default 5, or of the Gaussian's weights, odd.
    sigma : float, optional
        The Gaussian's standard deviation, by default 2.

    Raises
    ------
    ShapeError
        If the filter does not take the argument, or not this value.

    Examples
    --------
    >>> make("box", size=3).branches[0][1]
    array([[0.33333333, 0.33333333, 0.33333333]])
    """
    entry = FILTERS[name]
    for argument, value in (("size", size), ("sigma", sigma)):
        if value is not None and argument not in entry.takes:
            able = " and ".join(sorted(other for other in FILTERS if argument in FILTERS[other].takes))
            raise ShapeError(f"{argument}={value} has no meaning for the filter {name!r}; it belongs to {able}")
    if size is not None and not 1 <= size <= LARGEST_SIZE:
        raise ShapeError(f"size={size} must be from 1 to {LARGEST_SIZE}")
    if size is not None and name == "gaussian" and size % 2 == 0:
        raise ShapeError(f"size={size} must be odd for the filter 'gaussian'")
    if sigma is not None and not 0.0 < sigma <= LARGEST_SIGMA:
        raise ShapeError(f"sigma={sigma} must be more than 0 and at most {LARGEST_SIGMA:g}")
    return entry.make(size, sigma)


def from_kernel(kernel: Array) -> Filter:
    """Return the filter that correlates with one 2-d kernel."""
    return Filter(((kernel,),))


def parse_kernel(text: str) -> Array:
    """Return the kernel written as rows parted by ";" of numbers or fractions parted by spaces or commas.

    Raises
    ------
    ShapeError
        If it is not a rectangle of finite numbers.

    Examples
    --------
    >>> parse_kernel("0 -1 0; -1 5 -1; 0 -1 0")
    array([[ 0., -1.,  0.],
           [-1.,  5., -1.],
           [ 0., -1.,  0.]])
    >>> parse_kernel("1/4, 1/2, 1/4")
    array([[0.25, 0.5 , 0.25]])
    """
    rows = [row.replace(",", " ").split() for row in text.strip().removesuffix(";").split(";")]
    if not all(rows):
        raise ShapeError(
            f'kernel={text!r} has an empty row; write rows parted by ";", for example "0 1 0; 1 -4 1; 0 1 0"'
        )
    if len({len(row) for row in rows}) > 1:
        lengths = ", ".join(str(len(row)) for row in rows)
        raise ShapeError(f"kernel={text!r} has rows of {lengths} numbers; all must have the same")
    if max(len(rows), len(rows[0])) > LARGEST_SIZE:
        raise ShapeError(
            f"kernel has shape {(len(rows), len(rows[0]))}; it may have {LARGEST_SIZE} rows and columns at most"
        )
    return np.array([[_number(word, text) for word in row] for row in rows])


def _number(word: str, text: str) -> float:
    try:
        value = float(Fraction(word)) if "/" in word else float(word)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ShapeError(f"kernel={text!r}: {word!r} is not a finite number or fraction")
    return value


def apply(filter_: Filter, planes: Array, *, padding_mode: str = "mirror", backend: str = "auto") -> Array:
    """Return the filtered planes of an image.

    Parameters
    ----------
    filter_ : Filter
    planes : array, shape (channels, height, width)
        float32 or float64.
    padding_mode, backend : str
        As in `gpuconv.conv2d`.

    Returns
    -------
    array, shape (channels, height, width)

    Examples
    --------
    >>> apply(make("laplace"), np.arange(9.0).reshape(1, 3, 3) ** 2, padding_mode="nearest")[0, 1, 1]
    np.float64(20.0)
    """
    results = []
    for chain in filter_.branches:
        y = planes[:, None]
        for kernel in chain:
            pairs = tuple((k // 2, k - 1 - k // 2) for k in kernel.shape)
            w = kernel.astype(planes.dtype)[None, None]
            y = conv2d(y, w, padding=pairs, padding_mode=padding_mode, backend=backend)
        results.append(y[:, 0])
    if not filter_.is_magnitude:
        return results[0]
    if len(results) == 1:
        return np.abs(results[0])
    # In place: to touch new memory takes longer than these operations.
    for y in results:
        np.square(y, out=y)
    squares = results[0]
    for y in results[1:]:
        squares += y
    return np.sqrt(squares, out=squares)
