"""Cost constants and tile sizes of the CUDA algorithms by class of GPU: data only, each with its provenance.

A cost is ``overhead + flops / rate + bytes / bandwidth`` seconds, rates those of the whole device.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
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
    "CudaCost",
    "CudaDevice",
    "CudaTile",
    "GemmTile",
    "GradientTile",
    "TensorTile",
    "cuda_cost",
    "cuda_lanes",
]


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
