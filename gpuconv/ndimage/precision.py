"""The precision policy of `gpuconv.ndimage`: what sums are kept in, and how far a result may be from SciPy's.

SciPy multiplies and adds in float64, whatever the dtypes of input and output. So does gpuconv, with one exception:
where input and output are both of single precision (float16, bfloat16, float32, complex64) and `precision` is "high",
its default, sums are kept in float32

- for up to `LONGEST_PASS` weights along one axis, in the filters that work axis by axis,
- for up to `LARGEST_KERNEL` weights of `correlate` and `convolve`,
- for more of them where a transform is the fastest algorithm: its error does not grow with their number.

Longer sums are kept in float64. Weights are rounded to the precision of the sums. With S for the sum of the weights'
magnitudes times the largest magnitude of the input, a result of n weights then lies within `bound(n)` * S of SciPy's;
the bounds of filters that work axis by axis add up. The bound is that of the worst order of signs and sizes. Of the
images that the tests try, those of equal numbers come nearest, to 6 % of it.

``precision="highest"`` keeps sums in float64 and uses no transform: SciPy's results, to the rounding of float64. It
also gives exact zeros where all that a filter reaches is zero; of a transform rounding is left there.
Where every sum is a whole number that float32 holds, as of 8-bit integers with few whole weights, the two are one, and
float32 is what computes it. Means and Gaussians of bytes that become bytes are computed in integers on the CPU: means
exactly, Gaussians to the whole part of the float64 sum, but for one sum in 2**29 that comes out whole by accident.
``dtype="same"`` keeps sums in the input's precision, float32 for all of single precision, whatever their length, and
``dtype="float32"`` and ``"float64"`` are for any input. Results in integers are never computed by a transform, whose
error may fall short of a whole number.

Between the passes of a filter values have the output's dtype, as in SciPy, or float32 where that is float16 or
bfloat16.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpuconv import arrays, dispatch
from gpuconv.dtypes import name_of
from gpuconv.errors import DtypeError, UnsupportedError

__all__ = ["LARGEST_KERNEL", "LONGEST_PASS", "How", "between_passes", "bound", "is_exact"]

LONGEST_PASS = 128
LARGEST_KERNEL = 1024

_SINGLE = ("float16", "bfloat16", "float32", "complex64")


def bound(terms: int, limit: int = LARGEST_KERNEL) -> float:
    """Return how far from SciPy's a single-precision result may be, relative to S (see above).

    Each of n additions rounds to half a unit in the last place at most, as do each weight and the result.

    Examples
    --------
    >>> bound(9)
    1.0132789611816406e-06
    """
    return (min(terms, limit) / 2 + 4) * 2.0**-23


def between_passes(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the values between the passes of a filter whose result has `dtype`."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if name_of(dtype) in ("float16", "bfloat16") else dtype


def is_exact(x: np.dtype[Any], output: np.dtype[Any], weights: Any, fill: float) -> bool:
    """Return whether sums in float32 give what sums in float64 do: all are whole, and less than 2**24.

    A quotient that is not whole is further from the next whole number than rounding could take it.

    Examples
    --------
    >>> is_exact(np.dtype("u1"), np.dtype("i2"), np.array([-1.0, 0.0, 1.0]), 0.0)
    True
    """
    if x.kind not in "iu" or x.itemsize > 2 or weights.dtype.kind == "c":
        return False
    if output.kind not in "iu" and output != np.float32:
        return False
    largest = 1 << 8 * x.itemsize - (x.kind == "i")
    if not abs(fill) <= largest or fill != math.floor(fill):
        return False
    return bool((weights == np.rint(weights)).all() and np.abs(weights).sum() * largest < 1 << 24)


class How(NamedTuple):
    """How a filter is computed: what its `dtype`, `precision` and `backend` mean."""

    dtype: str | None = None
    precision: str = "high"
    backend: str = "cpu"

    @classmethod
    def make(cls, x: Any, dtype: Any, precision: str, backend: str, *others: Any) -> How:
        """Return the meaning of a caller's arguments for the input `x` and other arrays that a filter reads.

        Raises
        ------
        UnsupportedError
            For an unknown name, or `backend="cpu"` and an array in a GPU's memory.
        """
        if dtype is not None and dtype != "same":
            try:
                name = np.dtype(dtype).name
            except TypeError:
                name = ""
            if name not in ("float32", "float64"):
                raise DtypeError(f"dtype={dtype!r} is not a dtype of sums; valid are None, 'same', float32 and float64")
            dtype = name
        if precision not in dispatch.PRECISIONS:
            valid = ", ".join(map(repr, dispatch.PRECISIONS))
            raise UnsupportedError(f"precision={precision!r} is unknown; valid are {valid}")
        if backend == "auto":
            return cls(dtype, precision, arrays.home(x, *others))
        dispatch.backend(backend)
        arrays.check_home(backend, x, *others)
        return cls(dtype, precision, backend)

    def sums(self, x: np.dtype[Any], output: np.dtype[Any], *, is_long: bool, is_exact: bool = False) -> np.dtype[Any]:
        """Return the dtype of a filter's sums; `is_long` says that they pass the limits above, `is_exact` see there."""
        if self.dtype not in (None, "same"):
            return np.dtype(self.dtype)
        single = name_of(x) in _SINGLE
        if self.dtype is None:
            single = single and name_of(output) in _SINGLE and self.precision != "highest" and not is_long
        return np.dtype(np.float32 if single or is_exact else np.float64)
