"""Records of int64: what Python tells a compiled kernel of a call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

__all__ = ["record", "record_at"]


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
