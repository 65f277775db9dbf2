"""Cost constants and tile sizes by device class: data only, each with its provenance.

A cost is ``overhead + flops / rate + bytes / bandwidth`` seconds. Rates are per core for the
CPU (the device's thread count multiplies them) and per device for CUDA.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "CPU_COSTS",
    "CPU_WINOGRAD",
    "CUDA_COSTS",
    "CUDA_DIRECT_TILES",
    "CUDA_SIMULATOR_TILES",
    "Cost",
    "CudaTile",
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
        512: Cost(30e-6, 100e9, 7e9),
        256: Cost(30e-6, 50e9, 7e9),
        128: Cost(30e-6, 20e9, 5e9),
    },
    "stencil": {
        # 2 cores of an Emerald Rapids Xeon, 2026-11-22: 83 to 112 GFLOP/s a core for kernels of 5 and 7 rows.
        512: Cost(10e-6, 90e9, 15e9),
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
        # `flops`: passes of radix 2 over one complex number a second. 512 measured (docs/kernels_fft.md), the others
        # scaled by the width.
        512: Cost(30e-6, 13e9, 20e9),
        256: Cost(30e-6, 7e9, 20e9),
        128: Cost(30e-6, 3e9, 20e9),
    },
    "gemm": {
        # Rates of the float32 inner kernel alone; the algorithm counts the cycles of all else.
        512: Cost(15e-6, 180e9, 12e9),
        256: Cost(15e-6, 90e9, 12e9),
        128: Cost(15e-6, 25e9, 8e9),
    },
    "separable": {
        # The same machine: sigma 1 to 8 on 2048 x 2048. The narrower widths are in proportion, not measured.
        512: Cost(10e-6, 130e9, 12e9),
        256: Cost(10e-6, 60e9, 12e9),
        128: Cost(10e-6, 24e9, 10e9),
    },
}


class WinogradCost(NamedTuple):
    """Constants of the Winograd algorithm on one class of core."""

    overhead: float
    """Seconds of a call that does nothing."""
    flops: float
    """Floating-point operations a second of the products."""
    traffic: float
    """Bytes of transformed weights read a second, where the tiles of a block are few."""
    exchange: float
    """Bytes of transformed inputs a second that one core writes and another reads."""
    transform: float
    """Seconds for each transformed input or output value."""
    weights: float
    """Seconds for each transformed weight that is used at once."""
    kept_weights: float
    """Seconds for each transformed weight that is written to memory."""
    cached: int
    """Bytes of transformed weights that a last-level cache may still hold when they are next read; beyond, memory's
    speed counts."""


CPU_WINOGRAD: dict[int, WinogradCost] = {
    # Vector width in bits -> constants. 512: measured on two cores of an Emerald Rapids Xeon, 2026-11-22; 256: rates of
    # products and weights on two cores of a Zen 3 EPYC, 2026-11-25, the rest in proportion, as for 128.
    512: WinogradCost(25e-6, 175e9, 45e9, 8e9, 0.25e-9, 0.12e-9, 0.22e-9, 24 << 20),
    256: WinogradCost(25e-6, 88e9, 45e9, 8e9, 0.4e-9, 0.25e-9, 0.35e-9, 12 << 20),
    128: WinogradCost(25e-6, 30e9, 20e9, 5e9, 1.0e-9, 0.6e-9, 0.8e-9, 12 << 20),
}

CUDA_COSTS: dict[str, Cost] = {
    # Not measured: no GPU has run this backend yet. Orders of magnitude only, so that the order of the rows is sane.
    "direct": Cost(50e-6, 2e12, 300e9),
}


class CudaTile(NamedTuple):
    """Compile-time constants of the tiled CUDA kernels."""

    positions: int
    """Output positions of a block."""
    outputs: int
    """Output channels of a block."""
    positions_per_thread: int
    outputs_per_thread: int
    depth: int
    """Products of a sum whose weights are staged at a time."""
    staged: int
    """Elements of shared memory for inputs; at least depth * positions."""
    axis_table: int
    """Rows of a halo, all three axes together, that the border may be worked out for."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.positions // self.positions_per_thread * (self.outputs // self.outputs_per_thread)


CUDA_DIRECT_TILES: dict[str, tuple[CudaTile, ...]] = {
    # Not measured: chosen so that 128 threads, the registers of the compile gate (docs/kernels.md) and less than 48 KiB
    # of shared memory make a block. One tile for many output channels, one for few, one for a single one.
    "float32": (
        CudaTile(128, 64, 8, 8, 16, 4096, 512),
        CudaTile(512, 8, 8, 4, 8, 4096, 768),
        CudaTile(512, 1, 4, 1, 8, 4096, 768),
    ),
    "float64": (
        CudaTile(128, 32, 8, 4, 16, 3584, 512),
        CudaTile(512, 8, 8, 4, 7, 3584, 768),
        CudaTile(512, 1, 4, 1, 7, 3584, 768),
    ),
}

CUDA_SIMULATOR_TILES: tuple[CudaTile, ...] = (
    # The simulator pays for threads and barriers, not for registers: few threads with many outputs each.
    CudaTile(32, 4, 8, 2, 16, 1024, 128),
    CudaTile(32, 1, 8, 1, 16, 1024, 128),
)
