"""The dtypes that gpuconv computes in: what each accumulates in and what it gives."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.errors import DtypeError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["ACCUMULATORS", "SUPPORTED", "check_pair", "name_of", "result_dtype", "to_numpy"]

ACCUMULATORS = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
    "int8": "int32",
    "uint8": "int32",
    "int16": "int64",
    "uint16": "int64",
    "int32": "int64",
    "uint32": "int64",
    "int64": "int64",
    "uint64": "int64",
}
"""Input dtype to the real dtype of its sums. A complex sum is two real ones."""

SUPPORTED = tuple(ACCUMULATORS)


@functools.lru_cache(maxsize=64)
def name_of(dtype: np.dtype[Any]) -> str:
    """Return the dtype's name, which NumPy works out anew at every call."""
    return dtype.name


@functools.lru_cache(maxsize=64)
def result_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a convolution of two arrays of `dtype`: int32 for 8-bit integers, else `dtype`."""
    dtype = np.dtype(dtype)
    return np.dtype(np.int32) if dtype.name in ("int8", "uint8") else dtype


def to_numpy(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype called `name`, "bfloat16" included."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def check_pair(x: np.dtype[Any], w: np.dtype[Any], names: tuple[str, str] = ("x", "w")) -> str:
    """Return the name of the dtype that `x` and `w` share.

    Raises
    ------
    DtypeError
        If they differ, or if gpuconv does not compute in that dtype.
    """
    if x is w and name_of(x) in ACCUMULATORS:
        return name_of(x)
    for dtype, argument in ((x, names[0]), (w, names[1])):
        if name_of(dtype) not in ACCUMULATORS:
            raise DtypeError(f"{argument} has dtype {dtype.name}; supported are {', '.join(SUPPORTED)}")
    name = name_of(x)
    if name != name_of(w):
        raise DtypeError(
            f"{names[0]} has dtype {name} and {names[1]} has dtype {w.name}; both must have the same dtype: "
            f"convert one, for example {names[1]}.astype({name!r})"
        )
    return name
