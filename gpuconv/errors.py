"""What gpuconv raises. Every message names the argument, its value and what would be valid."""

from __future__ import annotations

__all__ = ["BackendUnavailableError", "DtypeError", "ShapeError", "UnsupportedError"]


class ShapeError(ValueError):
    """Shapes, strides, paddings or groups that do not fit together."""


class UnsupportedError(NotImplementedError):
    """A valid request that no algorithm, or not the one that was named, can serve."""


class DtypeError(UnsupportedError, TypeError):
    """A dtype, or a mixture of dtypes, that gpuconv does not compute in."""


class BackendUnavailableError(RuntimeError):
    """The backend that was named cannot run here; the message says what to install."""
