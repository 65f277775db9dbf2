"""Every kind of convolution, forward and backward, on the CPU and on NVIDIA GPUs, behind one call.

>>> import numpy as np, gpuconv
>>> gpuconv.conv2d(np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3)), stride=2)
array([[[[9., 9.],
         [9., 9.]]]])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuconv.errors import BackendUnavailableError, DtypeError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from gpuconv import errors, grad, ndimage, signal
    from gpuconv.api import (
        Plan,
        conv1d,
        conv2d,
        conv3d,
        conv_transpose1d,
        conv_transpose2d,
        conv_transpose3d,
        explain,
        plan,
    )
    from gpuconv.config import backends, show_config

__version__ = "0.1.0"

# Loaded when first used, so that importing gpuconv costs little more than importing NumPy.
_HOMES = {
    "api": (
        "Plan",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "explain",
        "plan",
    ),
    "config": ("show_config",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = ("backends", "errors", "grad", "ndimage", "signal")

__all__ = [
    "BackendUnavailableError",
    "DtypeError",
    "Plan",
    "ShapeError",
    "UnsupportedError",
    "backends",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "errors",
    "explain",
    "grad",
    "ndimage",
    "plan",
    "show_config",
    "signal",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"gpuconv.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"gpuconv.{name}")
    raise AttributeError(f"module 'gpuconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
