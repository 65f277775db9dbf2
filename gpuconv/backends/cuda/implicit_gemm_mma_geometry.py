"""What a call's shapes settle for the tensor-core kernels: phases, tiles, and the numbers that a launch reads."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.dtypes import to_numpy
from gpuconv.problem import AxisPhase, ConvProblem

if TYPE_CHECKING:
    from gpuconv.dispatch import Call

__all__ = [
    "FIELDS",
    "Kernel",
    "Launch",
    "as_struct",
    "computed",
    "element_of",
    "launches",
    "numbers_of",
    "packed",
    "reads_of",
    "slices",
]

_AXES = ("taps", "count", "advance", "first", "delta", "length")

FIELDS = (
    "x", "w", "bias", "y", "partial",
    "rows", "outputs", "groups", "first_group", "splits", "channels", "padded",
    *(f"{name}{axis}" for name in _AXES for axis in range(3)),
    "mode",
    "x_start", "x_batch", "x_channel", "x_axis0", "x_axis1", "x_axis2",
    "y_start", "y_batch", "y_channel", "y_axis0", "y_axis1", "y_axis2",
    "paired",
)  # fmt: skip
"""The members of ``Problem`` in raw/problem.cuh, each of 64 bits, in their order."""

_WHOLE_AXIS = AxisPhase(0, 1, 1, 1, ((0, 0),))
"""The phase of an axis that a problem of lower rank has not got."""

_MOST_PARTIAL_SUMS = 1 << 24
"""Sums that a split weight gradient keeps in all: 64 MiB."""
_LEAST_TILES = 8
"""Tiles of the summed axis that a part of a split sum has at least."""

Ints = tuple[int, ...]


def element_of(call: Call) -> str:
    """Return the kind of element, a type of element.cuh, that computes a call."""
    if call.dtype == "float32":
        return "TF32" if call.precision == "tf32" else "TF32x3"
    return {"float16": "Float16", "bfloat16": "BFloat16", "int8": "Int8", "uint8": "UInt8"}[call.dtype]


class Kernel(NamedTuple):
    """One instance of a source file in raw."""

    family: str
    """Of kernels: "implicit_gemm" or "weight_gradient"."""
    element: str
    reads: str
    """How inputs are read, one of `Reads` in tile.cuh."""
    tile: tuning_cuda.TensorTile
    activation: str = ""

    @property
    def name(self) -> str:
        """Name of the kernel, which says what it is."""
        words = [self.family, self.element, self.reads, f"{self.tile.rows}x{self.tile.columns}", self.activation]
        return "_".join(filter(None, words))

    @property
    def second_pass(self) -> str:
        """Name of the kernel that adds the parts of a split sum."""
        return f"{self.name}_add_splits"

    @property
    def source(self) -> str:
        """The file that it is compiled from."""
        return f"{self.family}.cu"

    @property
    def constants(self) -> dict[str, str]:
        """The constants of its compilation."""
        return {
            "ELEMENT": self.element,
            "READS": self.reads,
            "TILE": self.tile.constants,
            "BLOCKS": str(self.tile.blocks),
            "ACTIVATION": self.activation or "none",
            "NAME": self.name,
            "NAME_OF_SECOND_PASS": self.second_pass,
        }

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory: the stages, and a table of positions."""
        positions = self.tile.rows if self.family == "implicit_gemm" else 2 * self.tile.bytes // _SIZES[self.element]
        return self.tile.stage_bytes + 32 * positions


_SIZES = {"Float16": 2, "BFloat16": 2, "TF32": 4, "TF32x3": 4, "Int8": 1, "UInt8": 1}


class Launch(NamedTuple):
    """One phase of a call."""

    kernel: Kernel
    grid: tuple[int, int]
    """Tiles, and parts of the sum; the groups are between them."""
    numbers: dict[str, int]
    """The fields, but for pointers."""
    weights: int
    """Where the phase's weights begin, in elements."""
    weights_count: int
    """How many they are, with those that fill up chunks."""
    sums: int
    """Sums that the parts of a split sum are in all; 0 where it is not split."""
    cycles: float
    """Estimated clock cycles of its products. Computed, not measured."""


def computed(call: Call) -> ConvProblem:
    """Return the problem whose forward convolution the call is; a weight gradient stays with its own."""
    return call.problem if call.operation in ("forward", "weight_gradient") else call.problem.adjoint()


def reads_of(call: Call, layouts: tuple[str, str]) -> str:
    """Return how the kernel reads arrays of these layouts: those of the arrays read and written, or both of x and y."""
    problem, wide = computed(call), 16 // to_numpy(call.dtype).itemsize
    channels = [problem.in_channels // problem.groups]
    if call.operation != "weight_gradient":
        return "vector" if layouts[0] == "channels_last" and channels[0] % wide == 0 else "gather"
    channels.append(problem.out_channels // problem.groups)
    if layouts[0] != "channels_last" or layouts[1] != "channels_last":
        return "planes"
    return "gather" if wide == 16 or any(n % wide for n in channels) else "vector"


@functools.lru_cache(maxsize=512)
def launches(
    call: Call,
    multiprocessors: int,
    reads: str,
    layouts: tuple[str, str],
    only: tuning_cuda.TensorTile | None = None,
) -> tuple[Launch, ...]:
    """Return a launch for each phase.

    The layouts are those of the array read and of the one written; of a weight gradient those of x and y. A tile that
    is named in `only` is taken whatever the estimates.
    """
    problem, element = computed(call), element_of(call)
    gradient = call.operation == "weight_gradient"
    found, weights = [], 0
    for phase in problem.all_phases:
        numbers = numbers_of(call, problem, phase, layouts)
        product = _gradient_product(numbers) if gradient else _product(numbers)
        family = "weight_gradient" if gradient else "implicit_gemm"
        tiles = tiles_of(family, element, reads) if only is None else (only,)
        kernel, splits, cycles = _kernel((family, element, reads), tiles, product, multiprocessors)
        kernel, numbers["splits"] = kernel._replace(activation=call.activation), splits
        blocks = -(-product.rows // kernel.tile.rows) * -(-product.columns // kernel.tile.columns)
        sums = splits * product.groups * product.rows * product.columns if splits > 1 else 0
        count = product.groups * product.columns * product.depth
        found.append(Launch(kernel, (blocks, splits), numbers, weights, count, sums, cycles))
        weights += count
    return tuple(found)


class _Product(NamedTuple):
    """The matrix products of a launch: rows x depth times depth x columns, one for each group."""

    rows: int
    columns: int
    depth: int
    groups: int
    most_splits: int


def _product(numbers: dict[str, int]) -> _Product:
    depth = numbers["taps0"] * numbers["taps1"] * numbers["taps2"] * numbers["padded"]
    return _Product(numbers["rows"], numbers["outputs"], depth, numbers["groups"], 16)


def _gradient_product(numbers: dict[str, int]) -> _Product:
    columns = numbers["taps0"] * numbers["taps1"] * numbers["taps2"] * numbers["channels"]
    sums = max(numbers["outputs"] * columns * numbers["groups"], 1)
    splits = min(max(_MOST_PARTIAL_SUMS // sums, 1), 1024)
    return _Product(numbers["outputs"], columns, numbers["rows"], numbers["groups"], splits)


def _kernel(
    kind: tuple[str, str, str], tiles: tuple[tuning_cuda.TensorTile, ...], product: _Product, multiprocessors: int
) -> tuple[Kernel, int, float]:
    """Return the kernel of least estimated time, in how many parts it sums, and its clock cycles."""
    size, found = _SIZES[kind[1]], []
    for tile in tiles:
        steps = -(-product.depth * size // tile.bytes)
        blocks = -(-product.rows // tile.rows) * -(-product.columns // tile.columns) * product.groups
        room = multiprocessors * tile.blocks
        splits = max(min(room // max(blocks, 1), steps // _LEAST_TILES, product.most_splits), 1)
        # Blocks that share a multiprocessor share its tensor cores: time goes in turns of a block on each.
        turns = -(-blocks * splits // multiprocessors)
        products = turns * -(-steps // splits) * tile.rows * tile.columns * (tile.bytes // size)
        cycles = 2 * products / (tuning_cuda.TENSOR_FLOPS[kind[1]] * tile.efficiency)
        found.append((cycles, Kernel(*kind, tile), splits))
    cycles, kernel, splits = min(found, key=lambda one: one[0])
    return kernel, splits, cycles


def tiles_of(family: str, element: str, reads: str) -> tuple[tuning_cuda.TensorTile, ...]:
    """Return the tiles that there are kernels of."""
    tiles = tuning_cuda.TENSOR_TILES[element]
    if family == "implicit_gemm":
        return tiles
    if reads == "vector":
        return tuple(tile for tile in tiles if tile.columns >= 64)
    # Both operands are read one by one and held in registers beside the sums: those of a small tile, and fewer blocks.
    small = next(tile for tile in tiles if tile.rows == 64)._replace(blocks=2)
    if _SIZES[element] == 1:
        small = small._replace(columns=32, warp_rows=4, warp_columns=1)
    return (small,)


def numbers_of(
    call: Call, problem: ConvProblem, phase: tuple[AxisPhase, ...], layouts: tuple[str, str]
) -> dict[str, int]:
    """Return the fields that a phase settles, for arrays of two layouts: of x and of y."""
    missing = 3 - problem.rank
    axes = (*(_WHOLE_AXIS,) * missing, *phase)
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    wide = 16 // to_numpy(call.dtype).itemsize
    x_batch, x_channel, x_axes = channel_strides(problem.in_channels, problem.spatial, layouts[0])
    y_batch, y_channel, y_axes = channel_strides(problem.out_channels, problem.output, layouts[1])
    cropped = (*((0, 1),) * missing, *problem.cropped)
    empty = not channels or any(not axis.taps for axis in axes)
    found = {
        "rows": problem.batch * math.prod(axis.count for axis in axes),
        "outputs": outputs,
        "groups": problem.groups,
        "channels": channels,
        "padded": max(-(-channels // wide), 1) * wide,
        "mode": problem.mode_code,
        "x_start": sum(low * stride for (low, _), stride in zip(cropped, x_axes, strict=True)),
        "x_batch": x_batch,
        "x_channel": x_channel,
        "y_start": sum(axis.start * stride for axis, stride in zip(axes, y_axes, strict=True)),
        "y_batch": y_batch,
        "y_channel": y_channel,
    }
    for i, axis in enumerate(axes):
        low, high = cropped[i]
        offsets = [offset for _, offset in axis.taps] or [0]
        per_axis = {
            "taps": len(axis.taps),
            "count": axis.count,
            "advance": axis.advance,
            "first": offsets[0] - low,
            "delta": offsets[1] - offsets[0] if len(offsets) > 1 else 0,
            "length": high - low,
            "x_axis": x_axes[i],
            "y_axis": axis.step * y_axes[i],
        }
        found |= {f"{name}{i}": value for name, value in per_axis.items()}
    if empty:
        found |= {"taps0": 0, "taps1": 1, "taps2": 1}
    return found


def channel_strides(channels: int, spatial: Ints, layout: str) -> tuple[int, int, Ints]:
    """Return the strides, in elements, of a contiguous array's batch, channel and three spatial axes."""
    first = layout == "channels_first"
    axes = [1 if first else channels]
    for n in reversed(spatial[1:]):
        axes.insert(0, axes[0] * n)
    volume = math.prod(spatial)
    return channels * volume, volume if first else 1, (*(0,) * (3 - len(spatial)), *axes)


def packed(xp: Any, call: Call, w: Any) -> Any:
    """Return the weights, phase after phase, each (groups, outputs, taps, channels) with the channels rounded up.

    Parameters
    ----------
    xp : module
        numpy or cupy, of which `w` is an array.
    """
    problem, groups = computed(call), call.problem.groups
    kernel = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    if call.operation != "forward":
        kernel = xp.flip(kernel.swapaxes(1, 2), axis=tuple(range(3, kernel.ndim)))
    channels, wide = kernel.shape[2], 16 // w.dtype.itemsize
    phases = []
    for phase in problem.all_phases:
        taken = xp.moveaxis(kernel[(slice(None),) * 3 + slices(phase)], 2, -1)
        padded = xp.zeros((*taken.shape[:-1], -(-channels // wide) * wide), w.dtype)
        padded[..., :channels] = taken
        phases.append(padded.reshape(-1))
    return xp.concatenate(phases)


def slices(phase: tuple[AxisPhase, ...]) -> tuple[slice, ...]:
    """Return a phase's taps, which are evenly spaced on each axis, as slices of the kernel."""
    return tuple(_as_slice([t for t, _ in axis.taps]) for axis in phase)


def _as_slice(taps: list[int]) -> slice:
    if not taps:
        return slice(0, 0)
    return slice(taps[0], taps[-1] + 1, taps[1] - taps[0] if len(taps) > 1 else 1)


def as_struct(numbers: dict[str, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the numbers of a launch as the kernel's one argument."""
    return np.array([numbers[name] for name in FIELDS], np.int64)
