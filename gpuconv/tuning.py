"""Cost constants of the CPU's algorithms by class of core: data only, each with its provenance.

A cost is ``overhead + flops / rate + bytes / bandwidth`` seconds, rates those of one core, which the device's
threads multiply. The GPU's are in `tuning_cuda`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "CPU_COSTS",
    "CPU_STENCIL_HIGH",
    "CPU_STENCIL_PLANE",
    "CPU_STENCIL_SHARE",
    "CPU_WINOGRAD",
    "Cost",
    "WinogradCost",
]


class Cost(NamedTuple):
    """Constants of one algorithm on one class of device."""

    overhead: float
    """Seconds of a call that does nothing."""
    flops: float
    """Floating-point operations a second that a large problem reaches."""
    bandwidth: float
    """Bytes a second read and written by a problem that computes little."""


CPU_COSTS: dict[str, dict[int, Cost]] = {
    "direct": {
        # vector width in bits -> constants
        512: Cost(30e-6, 110e9, 25e9),
        256: Cost(30e-6, 50e9, 7e9),
        128: Cost(30e-6, 20e9, 5e9),
    },
    "depthwise": {
        # The algorithm counts cycles: 27 layers on the Xeon of `stencil`, also with 256 bits; 128 in proportion.
        512: Cost(12e-6, 164e9, 150e9),
        256: Cost(12e-6, 104e9, 150e9),
        128: Cost(12e-6, 23e9, 50e9),
    },
    "depthwise_strided": {
        # The algorithm counts cycles.
        512: Cost(6e-6, 164e9, 52e9),
        256: Cost(6e-6, 104e9, 30e9),
        128: Cost(6e-6, 23e9, 15e9),
    },
    "stencil": {
        # 2 cores of an Emerald Rapids Xeon, 2026-11-29: depthwise layers of 3x3 to 7x7.
        512: Cost(10e-6, 90e9, 45e9),
        256: Cost(10e-6, 45e9, 15e9),
        128: Cost(10e-6, 18e9, 12e9),
    },
    "fir": {
        # 512 measured (docs/kernels_fft.md), the others scaled by the width.
        512: Cost(9e-6, 45e9, 28e9),
        256: Cost(9e-6, 25e9, 28e9),
        128: Cost(9e-6, 12e9, 20e9),
    },
    "fft": {
        # `flops`: passes of radix 2 over one complex number a second. 512 measured (docs/kernels_fft.md), 256 on a
        # Zen 3 (2048 x 2048, kernels of 33 to 257), 128 scaled by the width.
        512: Cost(30e-6, 13e9, 20e9),
        256: Cost(30e-6, 10e9, 20e9),
        128: Cost(30e-6, 3e9, 20e9),
    },
    "gemm": {
        # Rates of the float32 inner kernel alone; the algorithm counts the cycles of all else. 256: fitted to 39 layers
        # on a Zen 3 EPYC, 2026-11-25, 11 % off on average; its cycles, counted on other machines, are a little many.
        # 512: eight layers on an Emerald Rapids Xeon, 2026-11-29.
        512: Cost(12e-6, 185e9, 60e9),
        256: Cost(12e-6, 109e9, 40e9),
        128: Cost(15e-6, 25e9, 8e9),
    },
    "blocked": {
        # The algorithm counts cycles; 512: 78 layers on that Xeon, beside `gemm`; 256: 50 layers there with AVX2.
        512: Cost(12e-6, 170e9, 60e9),
        256: Cost(12e-6, 109e9, 40e9),
        128: Cost(15e-6, 25e9, 8e9),
    },
    "dense": {
        # The overhead of views, and NumPy's products of few rows (2 cores of that Xeon); other products are `gemm`'s.
        512: Cost(6e-6, 0.0, 40e9),
        256: Cost(6e-6, 0.0, 40e9),
        128: Cost(6e-6, 0.0, 40e9),
    },
    "merged_axes": {
        # The overhead of views; what they are passed to is counted by itself.
        512: Cost(6e-6, 0.0, 0.0),
        256: Cost(6e-6, 0.0, 0.0),
        128: Cost(6e-6, 0.0, 0.0),
    },
    "winograd_narrow": {
        # The algorithm counts cycles; 256: fitted beside `gemm`, 512: to four layers with it, 128 in proportion.
        512: Cost(20e-6, 164e9, 60e9),
        256: Cost(22e-6, 104e9, 60e9),
        128: Cost(25e-6, 23e9, 8e9),
    },
    "complex_planes": {
        # NumPy takes the arrays apart and puts them together, on one thread (measured on a Zen 3); the real convolution
        # is counted by itself.
        512: Cost(40e-6, 0.0, 10e9),
        256: Cost(40e-6, 0.0, 10e9),
        128: Cost(40e-6, 0.0, 10e9),
    },
    "separable": {
        # 9 to 25 taps on 2048 x 2048: 512 on that Xeon, 256 on a Zen 3; 128 is in proportion, not measured.
        512: Cost(10e-6, 134e9, 20e9),
        256: Cost(10e-6, 90e9, 20e9),
        128: Cost(10e-6, 24e9, 10e9),
    },
}


CPU_STENCIL_PLANE = 160e-9
"""Seconds of a channel's plane besides its products: its border, and calls of the functions that pack and compute."""
CPU_STENCIL_HIGH = {512: 1.1, 256: 1.6, 128: 1.6}
"""What kernels of eight rows or more make of the stencil's rate: they share loads, of which wide vectors need fewer."""
CPU_STENCIL_SHARE = {512: 0.9, 256: 0.3, 128: 0.3}
"""Of the stencil's rate, what several input channels leave: a load feeds one output, which 32 registers make up for."""


class WinogradCost(NamedTuple):
    """Constants of the Winograd algorithm on one class of core."""

    overhead: float
    """Seconds of a call that does nothing."""
    flops: float
    """Floating-point operations a second of the products."""
    traffic: float
    """Bytes of transformed weights read a second, where the tiles of a block are few."""
    inputs: float
    """Bytes of transformed inputs read a second, where they are more than a second-level cache holds."""
    exchange: float
    """Bytes of transformed inputs a second that one core writes and another reads."""
    transform: float
    """Seconds for each transformed input or output value."""
    weights: float
    """Seconds for each transformed weight that is used at once."""
    kept_weights: float
    """Seconds for each transformed weight that is written to memory."""
    taps: float
    """Seconds for each weight that is read and transposed, before it is transformed."""
    cached: int
    """Bytes of transformed weights that a cache still holds when they are next read: more are read at a lower rate."""


CPU_WINOGRAD: dict[int, WinogradCost] = {
    # Vector width in bits -> constants. 256: fitted to 472 divisions of 19 layers, weights in the call and planned, on
    # two cores of a Zen 3 EPYC, 2026-11-25: estimates are 6 % off on average, what is chosen is 0.4 % slower than the
    # fastest, 4 % at most. 512: the same of 31 layers on an Emerald Rapids Xeon, 2026-11-29, whose clock and neighbours
    # changed by a third meanwhile: 12 % off, what is chosen 4 % slower; `taps` by 26 layers more that day, kept weights
    # and transformed by the tasks. 128, and `taps` of 256: in proportion.
    512: WinogradCost(20e-6, 165e9, 90e9, 43e9, 10.5e9, 0.345e-9, 0.155e-9, 0.65e-9, 0.1e-9, 1 << 20),
    256: WinogradCost(25e-6, 90e9, 45e9, 266e9, 28e9, 0.18e-9, 0.19e-9, 0.3e-9, 0.05e-9, 18 << 20),
    128: WinogradCost(25e-6, 30e9, 20e9, 20e9, 5e9, 1.0e-9, 0.6e-9, 0.8e-9, 0.15e-9, 12 << 20),
}
