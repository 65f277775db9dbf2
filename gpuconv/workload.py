"""Calls to be timed or compiled: a public function, shapes and arguments, without arrays."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.dispatch import Call
from gpuconv.dtypes import to_numpy
from gpuconv.problem import ConvProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.dispatch import Explanation

__all__ = ["Workload", "random_array"]

Shape = tuple[int, ...]


def random_array(shape: Shape, dtype: str, seed: int = 0) -> NDArray[Any]:
    """Return numbers within [-1, 1], or integers from 0 to 7."""
    generator, kind = np.random.default_rng(seed), to_numpy(dtype)
    if kind.kind in "iu":
        return generator.integers(0, 8, shape).astype(kind)
    if kind.kind == "c":
        return (generator.uniform(-1, 1, shape) + 1j * generator.uniform(-1, 1, shape)).astype(kind)
    return generator.uniform(-1, 1, shape).astype(kind)


class Workload(NamedTuple):
    """A call of one of gpuconv's functions on arrays of given shapes.

    Examples
    --------
    >>> work = Workload("grad.conv2d_weight", (1, 2, 8, 8), (4, 2, 3, 3), {"padding": 1})
    >>> work.prepare("float32")().shape
    (4, 2, 3, 3)
    """

    function: str
    """`conv1d` ... `conv_transpose3d`, or a gradient such as `grad.conv2d_weight`."""
    x: Shape
    """The shape of x; of a gradient, x of the forward call."""
    w: Shape
    arguments: dict[str, Any]

    def positional(self, dtype: str) -> tuple[Any, ...]:
        """Return the positional arguments: arrays, and the shape of what a gradient writes."""
        if not self.function.startswith("grad."):
            return random_array(self.x, dtype), random_array(self.w, dtype, 1)
        dy = random_array(self.problem.y_shape, dtype, 2)
        if self.function.endswith("_input"):
            return self.x, random_array(self.w, dtype, 1), dy
        return random_array(self.x, dtype), self.w, dy

    @property
    def problem(self) -> ConvProblem:
        """The forward problem of which the call is an operation."""
        make = ConvProblem.make_transposed if "transpose" in self.function else ConvProblem.make
        return make(self.x, self.w, **self.arguments)

    def prepare(self, dtype: str, **more: Any) -> Callable[[], Any]:
        """Return the call with its arrays made; `more` are further keyword arguments."""
        return functools.partial(self._resolved(), *self.positional(dtype), **self.arguments, **more)

    def explain(self, dtype: str) -> Explanation:
        """Return what `gpuconv.explain` says of the call."""
        from gpuconv.api import explain

        return explain(self._resolved(), *self.positional(dtype), **self.arguments)

    def call(self, dtype: str) -> Call:
        """Return the call as algorithms know it."""
        found = self.explain(dtype)
        return Call(found.problem, found.operation, found.dtype, found.precision)

    def _resolved(self) -> Callable[..., Any]:
        module, _, name = self.function.rpartition(".")
        home = importlib.import_module(f"gpuconv.{module or 'api'}")
        function: Callable[..., Any] = getattr(home, name)
        return function

    def __str__(self) -> str:
        words = [self.function, "x".join(map(str, self.x)), "*", "x".join(map(str, self.w))]
        return " ".join([*words, *(f"{name}={value}" for name, value in self.arguments.items())])
