"""A GPU's algorithms, on arrays in its memory: events on the GPU measure them, launches included, transfers not."""

from __future__ import annotations

from typing import ClassVar

from gpuconv import benchmark_cuda

from .common import GPU_ALGORITHMS, GRADIENTS, IMAGES, NETWORKS, SIGNALS, VOLUMES, OverProblems


class OnGpu(OverProblems):
    """Least time of one call. Skipped, with the reason, where no GPU can be used."""

    problems = NETWORKS | IMAGES | SIGNALS | VOLUMES | GRADIENTS
    params = (GPU_ALGORITHMS, list(problems))
    unit = "ms"
    seconds: ClassVar[float] = 0.2
    """To spend on one measurement."""

    def setup(self, algorithm: str, problem: str) -> None:
        """Bring the arrays to the GPU and compile, so that only the call is measured."""
        self.call = self.problems[problem].prepare(*algorithm.split("/"), benchmark_cuda.to_device)
        self.call()

    def track_call(self, *_: str) -> float:
        return 1e3 * benchmark_cuda.least_time(self.call, self.seconds)


class Transfers(OverProblems):
    """Wall time of one call on NumPy arrays, which go to the GPU and back in parts: it waits for its result."""

    problems: ClassVar = {name: (NETWORKS | IMAGES | VOLUMES)[name] for name in ("3x3 on 2048x2048", "3x3, batch 8")}
    params = (["cuda/direct", "cuda/stencil"], list(problems))

    def time_call(self, *_: str) -> None:
        self.call()
