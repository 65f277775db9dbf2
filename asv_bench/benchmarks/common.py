"""The problems, and the set-up that every benchmark over (algorithm, problem) shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

import gpuconv
from gpuconv import dispatch

if TYPE_CHECKING:
    from collections.abc import Callable

ALGORITHMS = [f"cpu/{algorithm}" for algorithm in dispatch.backend("cpu").ALGORITHMS]
"""What wall time measures; a GPU's algorithms are measured by events (gpu.py)."""
GPU_ALGORITHMS = [f"cuda/{algorithm}" for algorithm in dispatch.backend("cuda").ALGORITHMS]


class Problem(NamedTuple):
    """One call of a public function on random arrays."""

    function: str
    """A name in `gpuconv` or, with a dot, in a module of it."""
    first: tuple[int, ...]
    """The shape of the first argument; the argument itself where a gradient takes a shape."""
    second: tuple[int, ...]
    arguments: dict[str, Any]
    third: tuple[int, ...] | None = None
    """The shape of dy."""
    dtype: str = "float32"

    def prepare(self, backend: str, algorithm: str, place: Callable[[Any], Any] | None = None) -> Callable[[], Any]:
        """Return the call, with its arrays made; NotImplementedError, asv's word for a skip, where it cannot run.

        `place` brings each array to where the call is to find it.
        """
        home: Any = gpuconv
        for part in self.function.split("."):
            home = getattr(home, part)
        function, positional = home, self._positional()
        rows = gpuconv.explain(function, *positional, **self.arguments).rows
        (reason,) = (row.reason for row in rows if (row.backend, row.algorithm) == (backend, algorithm))
        if reason is not None:
            raise NotImplementedError(reason)
        if place is not None:
            positional = tuple(a if isinstance(a, tuple) else place(a) for a in positional)
        return lambda: function(*positional, **self.arguments, backend=backend, algorithm=algorithm)

    def _positional(self) -> tuple[Any, ...]:
        if self.third is None:
            return self._array(self.first), self._array(self.second)
        if self.function.endswith("_input"):
            return self.first, self._array(self.second), self._array(self.third)
        return self._array(self.first), self.second, self._array(self.third)

    def _array(self, shape: tuple[int, ...]) -> Any:
        return np.random.default_rng(0).uniform(-4, 4, shape).astype(self.dtype)


class OverProblems:
    """A benchmark over algorithms x `problems`; a subclass sets `problems` and `params` and says what is measured."""

    param_names = ("algorithm", "problem")
    timeout = 300
    problems: ClassVar[dict[str, Problem]]

    def setup(self, algorithm: str, problem: str) -> None:
        """Make the arrays and compile, so that only the call is measured."""
        self.call = self.problems[problem].prepare(*algorithm.split("/"))
        self.call()


NETWORKS = {
    "stem 7x7 stride 2": Problem("conv2d", (1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "3x3, 64 channels, 56x56": Problem("conv2d", (1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "3x3, 256 channels, 14x14": Problem("conv2d", (1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    "3x3, 64 channels, channels last": Problem(
        "conv2d", (1, 56, 56, 64), (64, 64, 3, 3), {"padding": 1, "layout": "channels_last"}
    ),
    "3x3, batch 8": Problem("conv2d", (8, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    "1x1, 256 to 1024 channels": Problem("conv2d", (1, 256, 14, 14), (1024, 256, 1, 1), {}),
    "3x3 stride 2": Problem("conv2d", (1, 128, 56, 56), (128, 128, 3, 3), {"stride": 2, "padding": 1}),
    "3x3 stride 2, 256 channels": Problem("conv2d", (1, 256, 28, 28), (256, 256, 3, 3), {"stride": 2, "padding": 1}),
    "as large as the map": Problem("conv2d", (16, 64, 7, 7), (128, 64, 7, 7), {}),
    "3x3 dilation 2": Problem("conv2d", (1, 128, 28, 28), (128, 128, 3, 3), {"padding": 2, "dilation": 2}),
    "32 groups": Problem("conv2d", (1, 128, 56, 56), (128, 4, 3, 3), {"padding": 1, "groups": 32}),
    "depthwise 3x3": Problem("conv2d", (1, 144, 56, 56), (144, 1, 3, 3), {"padding": 1, "groups": 144}),
    "depthwise 3x3, 7x7": Problem("conv2d", (1, 960, 7, 7), (960, 1, 3, 3), {"padding": 1, "groups": 960}),
    "depthwise 3x3/2": Problem(
        "conv2d", (2, 144, 112, 112), (144, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 144}
    ),
    "depthwise 7x7": Problem("conv2d", (1, 96, 56, 56), (96, 1, 7, 7), {"padding": 3, "groups": 96}),
    "transposed 4x4 stride 2": Problem(
        "conv_transpose2d", (1, 64, 28, 28), (64, 32, 4, 4), {"stride": 2, "padding": 1}
    ),
    "transposed 2x2 stride 2": Problem("conv_transpose2d", (1, 128, 28, 28), (128, 64, 2, 2), {"stride": 2}),
}

IMAGES = {
    "3x3 on 2048x2048": Problem("conv2d", (1, 2048, 2048), (1, 1, 3, 3), {"padding": "same", "padding_mode": "mirror"}),
    "5x5 on 3 x 1024x1024": Problem(
        "conv2d", (3, 1024, 1024), (3, 1, 5, 5), {"padding": "same", "padding_mode": "nearest", "groups": 3}
    ),
    "15x15 on 1024x1024": Problem(
        "conv2d", (1, 1024, 1024), (1, 1, 15, 15), {"padding": "same", "padding_mode": "symmetric"}
    ),
    "1x31 on 1024x1024": Problem("conv2d", (1, 1024, 1024), (1, 1, 1, 31), {"padding": "same", "padding_mode": "wrap"}),
}

SIGNALS = {
    "101 taps on 1e6 samples": Problem("conv1d", (1, 1_000_000), (1, 1, 101), {"padding": "same"}),
    "64 channels, batch 8": Problem("conv1d", (8, 64, 4096), (64, 64, 3), {"padding": 1}),
    "causal, dilation 8": Problem("conv1d", (1, 64, 16_000), (64, 64, 2), {"padding": "causal", "dilation": 8}),
    "transposed 16 stride 8": Problem("conv_transpose1d", (1, 64, 2000), (64, 32, 16), {"stride": 8, "padding": 4}),
}

VOLUMES = {
    "3x3x3, 16 to 32 channels": Problem("conv3d", (1, 16, 16, 56, 56), (32, 16, 3, 3, 3), {"padding": 1}),
    "3x1x1, 64 channels": Problem("conv3d", (1, 64, 8, 56, 56), (64, 64, 3, 1, 1), {"padding": (1, 0, 0)}),
    "3x3x3 on 128x128x128": Problem("conv3d", (1, 128, 128, 128), (1, 1, 3, 3, 3), {"padding": "same"}),
    "transposed 2x2x2 stride 2": Problem("conv_transpose3d", (1, 32, 8, 28, 28), (32, 16, 2, 2, 2), {"stride": 2}),
}

GRADIENTS = {
    f"{kind}, {label}": Problem(f"grad.conv2d_{kind}", x_shape, w_shape, arguments, dy_shape)
    for kind in ("input", "weight")
    for label, x_shape, w_shape, arguments, dy_shape in (
        ("3x3", (4, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, (4, 64, 28, 28)),
        ("3x3 stride 2", (4, 64, 56, 56), (64, 64, 3, 3), {"stride": 2, "padding": 1}, (4, 64, 28, 28)),
        ("depthwise", (4, 96, 28, 28), (96, 1, 3, 3), {"padding": 1, "groups": 96}, (4, 96, 28, 28)),
    )
}

DTYPES = {
    dtype: Problem("conv2d", (1, 32, 28, 28), (32, 32, 3, 3), {"padding": 1}, dtype=dtype)
    for dtype in ("float16", "float32", "float64", "complex64", "complex128", "int8", "int16", "int32", "int64")
}

TINY = {
    "1x1 of one element": Problem("conv2d", (1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3x3 on 8x8": Problem("conv2d", (1, 8, 8), (1, 1, 3, 3), {"padding": 1}),
}
