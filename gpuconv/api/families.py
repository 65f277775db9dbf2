"""What a public function means: its operation and rank, its docstring, and its arguments by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["bind", "geometry_of", "public"]

_AXES = {1: ("W", "k"), 2: ("H, W", "kh, kw"), 3: ("D, H, W", "kd, kh, kw")}

_MEANING: dict[Callable[..., Any], tuple[str, int]] = {}


def public(
    operation: str, rank: int, template: str, example: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a public function's operation and rank, and fill its docstring from its family's template."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        axes, kernel = _AXES[rank]
        function.__doc__ = template.format(n=rank, axes=axes, kernel=kernel, example=example)
        _MEANING[function] = operation, rank
        return function

    return decorate


def bind(function: Callable[..., Any], *args: Any, **arguments: Any) -> tuple[str, int, dict[str, Any]]:
    """Return the operation, the rank and all arguments, defaults included, of a call of a public function."""
    if function not in _MEANING:
        names = ", ".join(sorted(f.__name__ for f in _MEANING))
        raise TypeError(f"function={function!r} must be one of gpuconv's: {names}")
    bound = inspect.signature(function).bind(*args, **arguments)
    bound.apply_defaults()
    operation, rank = _MEANING[function]
    return operation, rank, bound.arguments


def geometry_of(a: dict[str, Any]) -> tuple[Any, ...]:
    """Return the geometry that `run` takes from a public function's bound arguments."""
    return (
        a["stride"], a["padding"], a.get("output_padding", 0), a["dilation"], a["groups"],
        a["padding_mode"], a["layout"],
    )  # fmt: skip
