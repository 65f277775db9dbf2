"""Stencils on CUDA: small windows over planes, each output channel from one input channel.

Filters of one-channel images, and depthwise layers of stride 1, forward and backward. The kernel is made for the
window's size (`stencil_kernels.correlation`), and compiles at the first use of one.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.activation import NAMES
from gpuconv.backends.cuda import batches
from gpuconv.backends.cuda.geometry import (
    axis_strides,
    bytes_of_a_sum,
    bytes_of_gathered,
    computed,
    refused,
    summed,
)
from gpuconv.dtypes import result_dtype, to_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.memory import Array, Job
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = ["FUSES", "TAKES", "Strips", "cost", "pack", "run", "strips_of", "supports", "workspace"]


FUSES = NAMES
TAKES = ("other dtypes",)


class Strips(NamedTuple):
    """How a block's tile is shared out: `lanes` threads along a row, each with every `lanes`-th column."""

    lanes: int
    strips: int
    columns: int
    """Columns of a thread."""
    rows: int
    """Rows of a thread, one after another."""
    tall: bool
    """Whether a thread keeps the sums of all its rows, not of as many as the window has."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.lanes * self.strips

    @property
    def tile_rows(self) -> int:
        """Rows of a block's tile."""
        return self.strips * self.rows

    @property
    def tile_columns(self) -> int:
        """Columns of a block's tile."""
        return self.lanes * self.columns


_SHARED = 44 << 10
"""Bytes of shared memory that a tile with its halo may take."""
_TALL = 8
"""Rows of a window from which on a thread keeps the sums of its strip, not of the window."""
_SIMULATED = Strips(2, 2, 2, 2, tall=False)


def strips_of(height: int, width: int, itemsize: int, *, simulated: bool = False) -> Strips:
    """Return how windows of a size are computed: with the largest tile that shared memory holds."""
    tall = height > _TALL
    if simulated:
        return _SIMULATED._replace(tall=tall)
    fitting = Strips(32, 1, 1, 1, tall)
    for columns, rows, strips in itertools.product((1, 2, 4), (8,) if tall else (4, 8, 16), (1, 2, 4)):
        if height <= 5 and rows == 16:
            continue
        found = Strips(32, strips, columns, rows, tall)
        needed = (found.tile_rows + height - 1) * (found.tile_columns + width - 1) + height * width
        tables = 8 * (found.tile_rows + found.tile_columns + height + width)
        if needed * itemsize + tables <= _SHARED:
            fitting = max(fitting, found, key=lambda s: (s.threads * s.columns * s.rows, s.rows))
    return fitting


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.operation == "weight_gradient":
        return "it computes no gradient by the weights"
    if call.operation != "forward" and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: it computes input gradients for the 'zeros' border only"
    if p.rank != 2:
        return f"it takes 2-d problems, not {p.rank}-d ones"
    if call.is_complex:
        return f"it does not take {call.dtype}"
    if any(s != 1 for s in (*p.stride, *p.dilation, *p.input_dilation)):
        return f"stride={p.stride}, dilation={p.dilation}: it takes 1 only"
    q = computed(call)
    if q.in_channels != q.groups:
        return f"{q.in_channels // max(q.groups, 1)} input channels of a group: it takes one"
    if p.layout == "channels_last" and q.out_channels != 1:
        return "layout='channels_last' with several channels: it takes planes"
    if q.kernel[0] > tuning_cuda.CUDA_STENCIL_LIMITS[0] or q.kernel[1] > tuning_cuda.CUDA_STENCIL_LIMITS[1]:
        return f"a window of {q.kernel}: it takes up to {tuning_cuda.CUDA_STENCIL_LIMITS}"
    return refused(call)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds, of all that the tiles compute: for idle threads, too, and dropped at a strip's ends."""
    p = computed(call)
    strips = strips_of(*_window(p), bytes_of_a_sum(call))
    tiles = -(-p.output[0] // strips.tile_rows) * -(-p.output[1] // strips.tile_columns) * p.batch * p.out_channels
    slid = (strips.rows + p.kernel[0] - 1) * p.kernel[1] * (strips.rows if strips.tall else p.kernel[0])
    flops = 2 * tiles * strips.threads * strips.columns * slid
    return tuning_cuda.cuda_cost("stencil", summed(call), flops, call.bytes, device.flops, device.bandwidth)


def workspace(call: Call) -> int:
    """Return the bytes of the gathered weights and of their index."""
    return bytes_of_gathered(call)


def pack(call: Call, w: Array) -> Any:
    """Return the weights on the GPU: (output channels, window), as numbers to compute with."""
    from gpuconv.backends.cuda import memory

    with memory.Job(w) as job:
        packed = _packed(call, w, job)
        job.synchronize()
    return packed


def _packed(call: Call, w: Array, job: Job) -> Any:
    return job.gather(w, summed(call), _order, call)


def _order(call: Call) -> NDArray[Any]:
    """Return where each packed number lies in w."""
    p = call.problem
    kernel = np.arange(p.out_channels * p.kernel[0] * p.kernel[1], dtype=np.int32).reshape(p.w_shape)
    return (kernel if call.operation == "forward" else np.flip(kernel, axis=(2, 3))).reshape(-1)


@batches.split
def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None, packed: Any = None) -> None:
    """Write y (forward) or x (transposed, input_gradient), every element of it."""
    from gpuconv.backends.cuda import device, launch, memory, scalars, stencil_kernels

    read, written = (x, y) if call.operation == "forward" else (y, x)
    if written.size == 0:
        return
    p, kinds = computed(call), scalars.of(summed(call))
    strips = strips_of(*_window(p), kinds.sums.itemsize, simulated=device().simulated)
    others = (call.dtype, call.result) if call.sums else None
    kernel = stencil_kernels.correlation(kinds.kind, *_window(p), strips, call.activation, others)
    with memory.Job(read, w, written, bias) as job:
        weights = _packed(call, w, job) if packed is None else packed
        source = job.read(read, call.dtype)
        target = job.write(written, call.result or call.dtype, exact=bool(call.result))
        offset = target.data
        if bias is not None:
            offset = job.read(bias, result_dtype(to_numpy(summed(call))).name, flat=True).data
        meta = job.resident(_numbers, p, strips.tile_columns, source.strides, target.strides, bias is not None)
        blocks = -(-p.output[0] // strips.tile_rows) * -(-p.output[1] // strips.tile_columns)
        fill, planes = kinds.sums.type(p.padding_value), p.batch * p.out_channels
        for first in range(0, planes, launch.GRID_Y):
            grid = blocks, min(launch.GRID_Y, planes - first)
            job.launch(kernel, grid, strips.threads, source.data, weights, offset, target.data, fill, meta, first)


def _window(p: ConvProblem) -> tuple[int, int]:
    return p.kernel[0], p.kernel[1]


def _numbers(
    p: ConvProblem, tile_columns: int, in_strides: tuple[int, ...], out_strides: tuple[int, ...], biased: bool
) -> NDArray[np.int64]:
    """Return what the kernel reads, in the order that `stencil_kernels` names."""
    from gpuconv.backends.cuda import stencil_kernels

    source, target = axis_strides(p, in_strides), axis_strides(p, out_strides)
    (low_row, high_row), (low_column, high_column) = p.cropped
    fields = {
        "tiles": -(-p.output[1] // tile_columns),
        "rows": p.output[0],
        "columns": p.output[1],
        "outputs": p.out_channels,
        "multiplier": p.out_channels // p.groups,
        "mode": p.mode_code,
        "biased": biased,
        "first_row": -p.padding[0][0],
        "first_column": -p.padding[1][0],
        "low_row": low_row,
        "low_column": low_column,
        "high_row": high_row,
        "high_column": high_column,
        "in_batch": source.batch,
        "in_channel": source.channel,
        "in_row": source.axes[1],
        "in_column": source.axes[2],
        "out_batch": target.batch,
        "out_channel": target.channel,
        "out_row": target.axes[1],
        "out_column": target.axes[2],
    }
    return np.array([fields[name] for name in stencil_kernels.FIELDS], np.int64)
