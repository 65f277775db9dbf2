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

Sums of short integers under whole weights that float32 holds exactly are kept in it: see `is_exact_in_single`.

``precision="highest"`` keeps sums in float64 and uses no transform: SciPy's results, to the rounding of float64. It
also gives exact zeros where all that a filter reaches is zero; of a transform rounding is left there.
``dtype="same"`` keeps sums in the input's precision, float32 for all of single precision, whatever their length, and
``dtype="float32"`` and ``"float64"`` are for any input. Results in integers are never computed by a transform, whose
error may fall short of a whole number.

Between the passes of a filter values have the output's dtype, as in SciPy, or float32 where that is float16 or
bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import arrays, dispatch
from gpuconv.dtypes import name_of
from gpuconv.errors import DtypeError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LARGEST_KERNEL", "LONGEST_PASS", "How", "between_passes", "bound", "is_exact_in_single"]

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


def is_exact_in_single(
    x: np.dtype[Any], output: np.dtype[Any], weights: NDArray[Any], divisor: float = 1.0, *, largest: float = 1.0
) -> bool:
    """Return whether sums of integers in float32 give what sums in float64 do.

    They do where the weights are whole numbers and no sum can reach 2**24, `largest` being the most by which earlier
    passes enlarge the input. A quotient of such a sum by a whole number that is not itself whole differs from the next
    whole number by more than float32 rounds.

    Examples
    --------
    >>> is_exact_in_single(np.dtype("uint8"), np.dtype("uint8"), np.ones(9), 9.0)
    True
    >>> is_exact_in_single(np.dtype("uint8"), np.dtype("uint8"), np.full(9, 1 / 9))
    False
    """
    if x.kind not in "iu" or x.itemsize > 2 or output == np.float64 or weights.dtype.kind == "c":
        return False
    if divisor != np.rint(divisor) or not (weights == np.rint(weights)).all():
        return False
    limits = np.iinfo(x)
    reach = float(np.abs(weights).sum()) * largest * max(limits.max, -limits.min)
    return reach < 2.0**24 and abs(divisor) < 2.0**24


def between_passes(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the values between the passes of a filter whose result has `dtype`."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if name_of(dtype) in ("float16", "bfloat16") else dtype


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

    def sums(self, x: np.dtype[Any], output: np.dtype[Any], *, is_long: bool) -> np.dtype[Any]:
        """Return the dtype of the sums of a filter; `is_long` says that they pass the limits above."""
        if self.dtype not in (None, "same"):
            return np.dtype(self.dtype)
        single = name_of(x) in _SINGLE
        if self.dtype is None:
            single = single and name_of(output) in _SINGLE and self.precision != "highest" and not is_long
        return np.dtype(np.float32 if single else np.float64)
