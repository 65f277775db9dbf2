"""How each dtype lies in memory, and what kernels make of it: what is loaded, summed and stored.

Kernels know real numbers only. A complex array is one of twice as many real numbers, and its channels are pairs of real
ones. bfloat16 is known by its bits. Unsigned integers of 16 bits and more are taken for signed ones: the low bits
of wrapping sums are the same.
"""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from gpuconv.backends.cuda import launch

__all__ = ["Scalars", "loader", "of", "storer"]

u16, u32, u64, f32 = np.uint16, np.uint32, np.uint64, np.float32


class Scalars(NamedTuple):
    """The real numbers of one dtype's arrays."""

    kind: str
    """The name that kernels are made by: a real dtype."""
    storage: np.dtype[Any]
    """What kernels see of an array."""
    sums: np.dtype[Any]
    result: str
    """The `kind` of results."""
    result_storage: np.dtype[Any]
    parts: int
    """Real numbers of an element."""


_SUMS = {
    "float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64",
    "int8": "int32", "uint8": "int32", "int16": "int32", "int32": "int32", "int64": "int64",
}  # fmt: skip
_SEEN = {
    "complex64": "float32", "complex128": "float64", "uint16": "int16", "uint32": "int32", "uint64": "int64",
}  # fmt: skip


@functools.cache
def of(dtype: str) -> Scalars:
    """Return how kernels see arrays of a dtype.

    Examples
    --------
    >>> of("complex64").parts, of("uint8").result, of("bfloat16").storage.name
    (2, 'int32', 'uint16')
    """
    kind = _SEEN.get(dtype, dtype)
    result = "int32" if kind in ("int8", "uint8") else kind
    parts = 2 if dtype.startswith("complex") else 1
    return Scalars(kind, _storage(kind), np.dtype(_SUMS[kind]), result, _storage(result), parts)


def _storage(kind: str) -> np.dtype[Any]:
    return np.dtype("uint16" if kind == "bfloat16" else kind)


if launch.SIMULATED:

    def _float_of(bits):  # type: ignore[no-untyped-def]
        return u32(bits).view(f32)

    def _bits_of(value):  # type: ignore[no-untyped-def]
        return f32(value).view(u32)

else:
    from numba.cuda import libdevice

    def _float_of(bits):  # type: ignore[no-untyped-def]
        return libdevice.int_as_float(np.int32(bits))

    def _bits_of(value):  # type: ignore[no-untyped-def]
        return u32(libdevice.float_as_int(value))


_float_of_bits = launch.compile_device_function(_float_of)
_bits_of_float = launch.compile_device_function(_bits_of)


@functools.cache
def loader(kind: str) -> Any:
    """Return the device function that makes a number to compute with of a stored one."""
    if kind == "bfloat16":

        def load(stored):  # type: ignore[no-untyped-def]
            return _float_of_bits(u32(u32(stored) << u32(16)))

    else:
        sums = np.dtype(_SUMS[kind]).type

        def load(stored):  # type: ignore[no-untyped-def]
            return sums(stored)

    return launch.compile_device_function(load)


@functools.cache
def storer(kind: str) -> Any:
    """Return the device function that makes a number to store of a sum, rounding to the nearest, ties to even."""
    if kind == "bfloat16":

        def store(value):  # type: ignore[no-untyped-def]
            # Without a branch: a kernel that stores many sums would not keep them in registers. Rounding could carry
            # the payload of a NaN into infinity.
            bits = _bits_of_float(value)
            high = u32(bits >> u32(16))
            rounded = u32(u64(u64(bits) + u64(u32(u32(32767) + u32(high & u32(1))))) >> u64(16))
            special = u32(u32(bits & u32(0x7FFFFFFF)) > u32(0x7F800000))
            return u16(u32(u32(rounded * u32(u32(1) - special)) + u32(u32(high | u32(64)) * special)))

    else:
        stored = np.dtype(kind).type

        def store(value):  # type: ignore[no-untyped-def]
            return stored(value)

    return launch.compile_device_function(store)


def numba_type(dtype: np.dtype[Any]) -> Any:
    """Return Numba's type, for shared and local memory."""
    return getattr(numba, dtype.name)
