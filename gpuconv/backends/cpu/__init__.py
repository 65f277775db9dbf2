"""The CPU backend: Numba kernels on the host's vector units, run by a pool of threads."""

from __future__ import annotations

import functools
from typing import NamedTuple

__all__ = ["ALGORITHMS", "Device", "device", "unavailable", "wait"]

ALGORITHMS = (
    "direct", "gemm", "blocked", "dense", "winograd", "winograd_narrow", "depthwise", "depthwise_strided", "stencil",
    "separable", "fir", "fft", "complex_planes", "merged_axes",
)  # fmt: skip


class Device(NamedTuple):
    """What kernels and cost models need to know of the host."""

    name: str
    vector_bits: int
    threads: int


def unavailable() -> str | None:
    """Return None: the CPU backend runs wherever Numba does."""
    return None


def wait() -> None:
    """Return at once: a call ends when its result is there."""


@functools.cache
def device() -> Device:
    """Return the host, as Numba compiles for it."""
    from gpuconv.backends.cpu import notice

    notice.register()  # before any module that compiles when it is imported
    from gpuconv.backends.cpu import simd, threads

    return Device(simd.cpu_name(), simd.vector_bits(), threads.count())
