"""Cost constants and tile sizes by device class: data only, each with its provenance.

A cost is ``overhead + flops / rate + bytes / bandwidth`` seconds. Rates are per core for the
CPU (the device's thread count multiplies them) and per device for CUDA.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "CPU_COSTS",
    "CPU_STENCIL_HIGH",
    "CPU_STENCIL_SHARE",
    "CPU_WINOGRAD",
    "CUDA_BALANCE",
    "CUDA_COSTS",
    "CUDA_DEVICES",
    "CUDA_DIRECT_TILES",
    "CUDA_FFT_TEMPORARY",
    "CUDA_GEMM_TILES",
    "CUDA_GRADIENT_BLOCKS",
    "CUDA_GRADIENT_TILES",
    "CUDA_LARGEST_SUMS",
    "CUDA_SIMULATOR_GEMM_TILES",
    "CUDA_SIMULATOR_GRADIENT_TILES",
    "CUDA_SIMULATOR_TILES",
    "CUDA_STENCIL_LIMITS",
    "CUDA_WINOGRAD_TEMPORARY",
    "TENSOR_FLOPS",
    "TENSOR_TILES",
    "Cost",
    "CudaCost",
    "CudaDevice",
    "CudaTile",
    "GemmTile",
    "GradientTile",
    "TensorTile",
    "WinogradCost",
    "cuda_cost",
    "cuda_lanes",
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
        512: Cost(12e-6, 185e9, 60e9),
        256: Cost(12e-6, 109e9, 40e9),
        128: Cost(15e-6, 25e9, 8e9),
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
    cached: int
    """Bytes of transformed weights that a cache still holds when they are next read: more are read at half the rate."""


CPU_WINOGRAD: dict[int, WinogradCost] = {
    # Vector width in bits -> constants. 256: fitted to 472 divisions of 19 layers, weights in the call and planned, on
    # two cores of a Zen 3 EPYC, 2026-11-25: estimates are 6 % off on average, what is chosen is 0.4 % slower than the
    # fastest, 4 % at most. 512: the same of 31 layers on an Emerald Rapids Xeon, 2026-11-29, whose clock and neighbours
    # changed by a third meanwhile: 12 % off, what is chosen 4 % slower. 128: in proportion.
    512: WinogradCost(20e-6, 165e9, 90e9, 43e9, 10.5e9, 0.345e-9, 0.155e-9, 0.65e-9, 1 << 20),
    256: WinogradCost(25e-6, 90e9, 45e9, 266e9, 28e9, 0.18e-9, 0.19e-9, 0.3e-9, 18 << 20),
    128: WinogradCost(25e-6, 30e9, 20e9, 20e9, 5e9, 1.0e-9, 0.6e-9, 0.8e-9, 12 << 20),
}


class CudaDevice(NamedTuple):
    """A class of GPU, from its data sheet."""

    compute_capability: tuple[int, int]
    multiprocessors: int
    clock: float
    """Cycles a second, boosted."""
    bandwidth: float
    """Bytes a second of its memory."""


CUDA_DEVICES: dict[str, CudaDevice] = {
    "t4": CudaDevice((7, 5), 40, 1.59e9, 320e9),
    "a100": CudaDevice((8, 0), 108, 1.41e9, 2.04e12),
    "rtx4090": CudaDevice((8, 9), 128, 2.52e9, 1.01e12),
    "h100": CudaDevice((9, 0), 132, 1.98e9, 3.35e12),
    "h200": CudaDevice((9, 0), 132, 1.98e9, 4.8e12),
    "b200": CudaDevice((10, 0), 148, 1.97e9, 8.0e12),
}
"""Classes that choices can be explained for without one: the larger memory variant of each."""


def cuda_lanes(capability: tuple[int, int]) -> int:
    """Return the float32 multiply-adds a cycle of one multiprocessor."""
    return 64 if capability in ((7, 0), (7, 2), (7, 5), (8, 0)) else 128


class CudaCost(NamedTuple):
    """Constants of one algorithm on any GPU, as shares of what its data sheet promises."""

    overhead: float
    """Seconds of a call that does nothing."""
    flops: float
    """Share of the peak arithmetic that a large float32 problem reaches."""
    bandwidth: float
    """Share of the peak bandwidth that a problem that computes little reaches."""


CUDA_COSTS: dict[str, CudaCost] = {
    # Computed, not measured: no GPU has run this backend yet. `flops` is of all that the tiles compute, and of
    # `implicit_gemm` and `stencil` the share of multiply-adds in the inner loop (docs/kernels_cuda.md) less waiting, by
    # estimate; `direct` counts its other instructions itself.
    "direct": CudaCost(30e-6, 0.5, 0.4),
    "implicit_gemm": CudaCost(30e-6, 0.55, 0.5),
    "winograd": CudaCost(50e-6, 0.55, 0.6),
    "stencil": CudaCost(30e-6, 0.4, 0.7),
    # Two numbers of shared memory are read for eight products.
    "separable": CudaCost(30e-6, 0.35, 0.7),
    # Its arithmetic is counted in cycles: TENSOR_FLOPS are operations of a cycle and multiprocessor.
    "implicit_gemm_mma": CudaCost(60e-6, 1.0, 0.5),
    "raw_depthwise": CudaCost(60e-6, 0.3, 0.6),
    # The share of multiply-adds in the code (docs/kernels_cuda_raw.md), less waiting, by estimate.
    "raw_stencil": CudaCost(40e-6, 0.5, 0.8),
    "gemm": CudaCost(60e-6, 0.75, 0.7),
    "fft": CudaCost(300e-6, 0.4, 0.6),
}

CUDA_FFT_TEMPORARY = 1 << 30
"""Bytes that the transforms of a part of a call, and the transformed weights, may take. Not measured."""

CUDA_BALANCE = 12.0
"""Operations that a GPU does in the time of a byte of memory traffic, by which sizes of tiles are weighed: an A100
does 10, an H200 14, computed from their data sheets."""

CUDA_STENCIL_LIMITS = (32, 32)
"""The largest window, rows and columns, that the CUDA stencil takes: its sums are in registers."""

CUDA_WINOGRAD_TEMPORARY = 2 << 30
"""Bytes that the CUDA backend's transformed arrays may take."""

CUDA_ARITHMETIC: dict[str, float] = {"float64": 2.0, "complex128": 2.0, "int64": 4.0, "uint64": 4.0}
"""Cycles of one product for one of float32, by dtype; 2 is for GPUs made for computing."""


def cuda_cost(algorithm: str, dtype: str, flops: float, traffic: float, peak: float, bandwidth: float) -> float:
    """Return the estimated seconds of so many operations and bytes on a GPU of such a peak."""
    constants = CUDA_COSTS[algorithm]
    slower = CUDA_ARITHMETIC.get(dtype, 1.0)
    return constants.overhead + slower * flops / (constants.flops * peak) + traffic / (constants.bandwidth * bandwidth)


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


CUDA_DIRECT_TILES: dict[int, tuple[CudaTile, ...]] = {
    # Bytes of a sum -> tiles.
    # Not measured: chosen so that 128 threads, the registers of the compile gate (docs/kernels_cuda.md) and less than
    # 48 KiB of shared memory make a block. One tile for many output channels, one for few, one for a single one.
    4: (
        CudaTile(128, 64, 8, 8, 16, 4096, 512),
        CudaTile(512, 8, 8, 4, 8, 4096, 768),
        CudaTile(512, 1, 4, 1, 8, 4096, 768),
    ),
    8: (
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


class GradientTile(NamedTuple):
    """Compile-time constants of the kernel of the gradient by the weights."""

    rows: int
    """Output channels of a block."""
    columns: int
    """Pairs (input channel, tap) of a block."""
    rows_per_thread: int
    columns_per_thread: int
    depth: int
    """Terms of the sum that are staged at a time."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.rows_per_thread * (self.columns // self.columns_per_thread)


CUDA_GRADIENT_TILES: dict[int, tuple[GradientTile, ...]] = {
    # Bytes of a sum -> tiles for many output channels of a group, for few, for one or two. Not measured.
    4: (GradientTile(64, 64, 8, 8, 16), GradientTile(8, 128, 4, 4, 32), GradientTile(2, 32, 1, 1, 64)),
    8: (GradientTile(64, 32, 8, 4, 16), GradientTile(8, 64, 4, 2, 32), GradientTile(2, 32, 1, 1, 32)),
}

CUDA_SIMULATOR_GRADIENT_TILES: tuple[GradientTile, ...] = (
    GradientTile(4, 6, 2, 3, 5),
    GradientTile(2, 4, 1, 4, 3),
)

CUDA_GRADIENT_BLOCKS = 1024
"""Blocks that a gradient is cut into, by slices of its sum, where its own elements make fewer. Not measured."""


class GemmTile(NamedTuple):
    """Compile-time constants of the kernel of the implicit matrix product."""

    rows: int
    """Output channels of a block."""
    columns: int
    """Output positions of a block."""
    depth: int
    """Input channels of one tap that are staged at a time."""
    rows_per_thread: int
    """A multiple of 4, and so are the columns: a thread has them in fours."""
    columns_per_thread: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.rows_per_thread * (self.columns // self.columns_per_thread)


CUDA_GEMM_TILES: dict[int, tuple[GemmTile, ...]] = {
    # Bytes of a sum -> tiles for many outputs, for fewer, for few output channels. Not measured.
    4: (GemmTile(128, 128, 8, 8, 8), GemmTile(64, 64, 8, 4, 4), GemmTile(32, 128, 8, 4, 4)),
    8: (GemmTile(64, 64, 8, 4, 4), GemmTile(32, 128, 8, 4, 4)),
}

CUDA_LARGEST_SUMS: dict[str, int] = {
    # Sums of a thread: of as many as the largest tiles have, the rounding to bfloat16 is not unrolled, and they lie in
    # memory (compile gate).
    "bfloat16": 32,
}

CUDA_SIMULATOR_GEMM_TILES: tuple[GemmTile, ...] = (GemmTile(8, 8, 2, 4, 4), GemmTile(4, 8, 2, 4, 4))


class TensorTile(NamedTuple):
    """Compile-time constants of the tensor-core kernels: a block's tile of a matrix product."""

    rows: int
    columns: int
    warp_rows: int
    """Warps that share the rows."""
    warp_columns: int
    bytes: int
    """Bytes of the summed axis that a stage holds of each row and column."""
    stages: int
    blocks: int
    """Blocks that a multiprocessor should have room for, which bounds a thread's registers."""
    efficiency: float
    """Share of the tensor cores' rate. Computed from the tile's loads for each product, not measured."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warp_rows * self.warp_columns

    @property
    def stage_bytes(self) -> int:
        """Bytes of shared memory of all stages."""
        return (self.rows + self.columns) * self.bytes * self.stages

    @property
    def constants(self) -> str:
        """The arguments of ``Tile`` in raw/tile.cuh."""
        return ", ".join(map(str, self[:6]))


_TENSOR_TILES = (
    TensorTile(128, 128, 2, 2, 64, 4, 2, 0.6),
    TensorTile(128, 64, 2, 2, 64, 4, 2, 0.5),
    TensorTile(64, 64, 2, 2, 64, 4, 3, 0.4),
    TensorTile(128, 32, 4, 1, 64, 4, 3, 0.3),
)

TENSOR_TILES: dict[str, tuple[TensorTile, ...]] = {
    # Not measured: chosen by the registers and shared memory of the compile gate (docs/kernels_cuda_raw.md). Factors in
    # float32 are rounded in registers, which the largest tile has not got to spare.
    "Float16": _TENSOR_TILES,
    "BFloat16": _TENSOR_TILES,
    "Int8": _TENSOR_TILES,
    "UInt8": _TENSOR_TILES,
    "TF32": _TENSOR_TILES[1:],
    "TF32x3": _TENSOR_TILES[1:],
}

TENSOR_FLOPS: dict[str, float] = {
    # Operations of a cycle and multiprocessor of compute capability 8.0, computed from the data sheet of the A100.
    "Float16": 2048,
    "BFloat16": 2048,
    "Int8": 4096,
    "UInt8": 4096,
    "TF32": 1024,
    "TF32x3": 1024 / 3,
}
