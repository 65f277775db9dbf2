"""Records of int64: what Python tells a compiled kernel of a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

__all__ = ["KeptRecords", "record", "record_at"]

_MOST_KEPT = 8


def record(names: str) -> np.dtype[Any]:
    """Return the dtype of a record of int64 fields."""
    return np.dtype([(name, np.int64) for name in names.split()])


def record_at(dtype: np.dtype[Any]) -> Any:
    """Return the intrinsic that makes a pointer to a record of an address; to be called once, in a module."""

    @intrinsic
    def pointer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(from_dtype(dtype))(types.int64), codegen

    return pointer


class KeptRecords:
    """The records of one call, without addresses, for arrays of the strides that it met first.

    To fill a record in takes longer than a small convolution; to copy one and write the addresses does not.
    """

    def __init__(self, make: Callable[..., tuple[np.ndarray[Any, Any], int]]) -> None:
        self._make, self._kept = make, dict[Hashable, tuple[np.ndarray[Any, Any], int]]()

    def copy(self, key: Hashable, *arrays: Any) -> tuple[np.ndarray[Any, Any], int]:
        """Return what ``make(*arrays)`` does, a record and a kernel, the record to be completed by the caller.

        `key` holds all of the arrays that the record depends on.
        """
        found = self._kept.get(key)
        if found is None:
            found = self._make(*arrays)
            if len(self._kept) < _MOST_KEPT:
                self._kept[key] = found
        return found[0].copy(), found[1]
