"""Activations: their names, and their pass over the result of an algorithm that does not fuse them.

==========  ===============================================================
name        of a result y
==========  ===============================================================
relu        max(y, 0)
gelu        y * Phi(y), Phi the distribution function of the normal distribution
gelu_tanh   y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 * y**3)))
silu        y / (1 + exp(-y))
==========  ===============================================================

They are torch's, as is what they make of values that are not finite: NaN stays NaN, infinity stays itself, minus
infinity gives 0 by relu and NaN by the others. An algorithm names those that it applies itself in a tuple ``FUSES``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gpuconv.errors import DtypeError, UnsupportedError

if TYPE_CHECKING:
    from gpuconv.dispatch import Call

__all__ = ["NAMES", "check", "finish"]

NAMES = ("relu", "gelu", "gelu_tanh", "silu")
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check(name: Any, dtype: str) -> str:
    """Return the activation that an argument names for arrays of a dtype: "" for None.

    Raises
    ------
    UnsupportedError
        If it is unknown.
    DtypeError
        If it is not defined for the dtype.
    """
    if name is None:
        return ""
    if not isinstance(name, str) or name not in NAMES:
        raise UnsupportedError(f"activation={name!r} is unknown; valid are None, {', '.join(map(repr, NAMES))}")
    if dtype not in _DTYPES:
        raise DtypeError(f"activation={name!r} takes {', '.join(_DTYPES)}, not {dtype}")
    return name


def finish(call: Call, module: ModuleType, backend: str, result: Any) -> None:
    """Apply a call's activation, in place, to what an algorithm has written, unless the algorithm did so itself."""
    if call.activation not in getattr(module, "FUSES", ()):
        _pass(backend)(result, call.activation)


@functools.cache
def _pass(backend: str) -> Callable[[Any, str], None]:
    """Return a backend's function that applies an activation to an array."""
    applied: Callable[[Any, str], None] = importlib.import_module(f"gpuconv.backends.{backend}.activation").apply
    return applied
