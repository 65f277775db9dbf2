"""What the stencil kernels are told of a call: blocks, tasks and the parts of the kernel, from shapes alone."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.axes import odd_lines
from gpuconv.backends.cpu.stencil_kernels import CALL
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "Support", "stencil_geometry"]

Support = tuple[tuple[tuple[int, int], tuple[int, int]], ...]
"""The rows and columns of the rectangles of a kernel outside of which it is 0; () where it may be nowhere."""

_SCRATCH_BYTES = 384 << 10
"""Packed input of a task: it stays in a second-level cache."""
_TOGETHER_BYTES = 24 << 10
"""Packed rows that are packed before the first tile of them is computed: they stay in a first-level cache."""
_TASK_FLOPS = 100e6
"""Most work of a task, so that a slice of tasks ends soon after a signal."""
_LONGEST_ROW_BYTES = 8192


class Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    words: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    slices: tuple[tuple[Any, ...], ...]
    """Where each part's weights stand in w: (channel, z, rows, columns); () where they are all of w in its order."""
    parts: Array
    """Kept alive: `words` holds its address."""


def _three(values: tuple[int, ...], missing: int) -> list[int]:
    return [missing] * (3 - len(values)) + list(values)


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@functools.lru_cache(maxsize=1024)
def stencil_geometry(problem: ConvProblem, accumulator: str, tasks: int = 0, support: Support = ()) -> Geometry:
    """Return the tables of a forward problem; at least `tasks` tasks are wanted, by default some for each thread.

    With a `support` there is one input channel and neither strides nor dilation.
    """
    wanted = 1 if problem.flops < threads.SMALL_FLOPS else tasks or 4 * threads.count()
    size = np.dtype(accumulator).itemsize
    lanes = simd.vector_bits() // 8 // size
    kernel, stride, dilation = (_three(values, 1) for values in (problem.kernel, problem.stride, problem.dilation))
    output = _three(problem.output, 1)
    padding = [(0, 0)] * (3 - problem.rank) + list(problem.padding)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    channels, groups = problem.in_channels // problem.groups, problem.groups
    # Along rows and columns, taps fall into classes whose inputs are `common` apart from output to output.
    shared = [math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    classes = [s // g for s, g in zip(stride, shared, strict=True)]
    row_gap = dilation[1] // shared[1]
    least_rows = min(-(-(kernel[1] - c) // classes[1]) for c in range(min(classes[1], kernel[1])))
    rows = 8 if least_rows >= 8 and simd.registers() == 32 else 4
    residues, place_reach = stride[2], reach[2] // stride[2]

    def layout(blocks: list[int]) -> tuple[int, int, int, int]:
        """Return the pitch in elements, and the bytes of a row, a plane and a channel."""
        pitch = _round(_round(blocks[2], lanes) + place_reach + lanes, lanes)
        row = odd_lines(pitch * residues * size)
        plane = ((blocks[1] - 1) * stride[1] + reach[1] + 1) * row
        return pitch, row, plane, ((blocks[0] - 1) * stride[0] + reach[0] + 1) * plane

    each = 2.0 * channels * (problem.out_channels // groups) * math.prod(kernel)
    images = problem.batch * groups
    blocks = _blocks(
        output, reach, rows * row_gap, lanes, images, each, size, wanted, lambda b: channels * layout(b)[3]
    )
    pitch, row_bytes, plane, channel_bytes = layout(blocks)
    counts = [-(-n // b) for n, b in zip(output, blocks, strict=True)]
    per_group = each * math.prod(blocks)
    chunk = max(
        1, min(groups, int(_TASK_FLOPS / max(per_group, 1)), groups * problem.batch * math.prod(counts) // wanted)
    )

    slices = [
        (c, t, slice(a, kernel[1], classes[1]), slice(b, kernel[2], classes[2]))
        for c, t, a, b in itertools.product(
            range(channels), range(kernel[0]), range(min(classes[1], kernel[1])), range(min(classes[2], kernel[2]))
        )
    ]
    if support:
        slices = [(0, 0, slice(*rows, 1), slice(*columns, 1)) for rows, columns in support]
    parts, weights = [], 0
    for c, t, down, across in slices:
        part_rows, columns = (-(-(each.stop - each.start) // each.step) for each in (down, across))
        residue, place = across.start * dilation[2] % stride[2], across.start * dilation[2] // stride[2]
        offset = c * channel_bytes + t * dilation[0] * plane + down.start * dilation[1] * row_bytes
        parts.append((offset + (residue * pitch + place) * size, part_rows, columns, weights * size))
        weights += part_rows * columns
    if classes[1] == classes[2] == 1 and not support:
        slices = []
    table = np.array(parts, np.int64)

    call = np.zeros((), CALL)
    for name, value in (
        ("channels", channels), ("outputs", problem.out_channels // groups), ("groups", groups),
        ("group_chunk", chunk), ("group_chunks", -(-groups // chunk)), ("w_bytes", weights * size),
        ("parts", table.ctypes.data), ("part_count", len(parts)), ("mode", MODES.index(problem.padding_mode)),
        ("rows", rows), ("row_gap", row_gap), ("row_step", math.lcm(stride[1], dilation[1]) * row_bytes),
        ("column_step", dilation[2] // shared[2] * size), ("residues", residues), ("used", pitch - lanes),
        ("pitch", pitch),
        ("row_bytes", row_bytes), ("plane", plane), ("channel_bytes", channel_bytes),
    ):  # fmt: skip
        call[name] = value
    limits = [(0, 1)] * (3 - problem.rank) + list(problem.cropped)
    for axis, name in enumerate("zyx"):
        call[f"low_{name}"], call[f"high_{name}"] = limits[axis]
        call[f"advance_{name}"], call[f"offset_{name}"] = stride[axis], -padding[axis][0]
        call[f"count_{name}"], call[f"block_{name}"], call[f"blocks_{name}"] = output[axis], blocks[axis], counts[axis]
        call[f"reach_{name}"] = reach[axis]
    call["reach_x"] = place_reach
    call["tiles_together"] = max(1, _TOGETHER_BYTES // (channels * rows * stride[1] * row_bytes))
    number = problem.batch * -(-groups // chunk) * math.prod(counts)
    call["lead"] = -(max(padding[2][0], 0) // stride[2] * size) % 64
    call["sums_offset"] = _round(channels * channel_bytes + 16 * lanes * size, 64) + 64
    call["sums_step"] = odd_lines((blocks[2] + lanes) * size)
    scratch = int(call["sums_offset"]) + 8 * int(call["sums_step"])
    slice_tasks = max(1, int(2 * _TASK_FLOPS / max(per_group * chunk, 1)))
    return Geometry(call.reshape(1).view(np.int64), number, _round(scratch, 64), slice_tasks, tuple(slices), table)


def _blocks(
    output: list[int], reach: list[int], rows: int, lanes: int, images: int, each: float, size: int, wanted: int,
    scratch: Any,
) -> list[int]:  # fmt: skip
    """Choose the block of outputs that a task takes.

    The whole output is divided, its first axis first, until the packed input fits its bound and there are enough
    tasks; an axis is not divided so far that its halo outweighs it.
    """
    blocks = list(output)

    def divide(axis: int) -> None:
        pieces = -(-output[axis] // blocks[axis]) + 1
        block = -(-output[axis] // pieces)
        multiple = (1, rows, lanes)[axis]
        block = _round(block, multiple) if block > multiple else block
        blocks[axis] = min(block, blocks[axis] - 1)

    def number() -> int:
        return images * math.prod(-(-n // b) for n, b in zip(output, blocks, strict=True))

    while blocks[2] * size > _LONGEST_ROW_BYTES and blocks[2] > 2 * reach[2]:
        divide(2)
    least = [max(2 * reach[0], 1), max(4 * reach[1], 2 * rows), max(4 * reach[2], 16 * lanes)]
    while True:
        heavy = each * math.prod(blocks) > _TASK_FLOPS
        large = scratch(blocks) > _SCRATCH_BYTES
        if not (large or heavy or number() < wanted):
            return blocks
        axis = next((axis for axis in (0, 1, 2) if blocks[axis] > least[axis]), None)
        if axis is None and (heavy or scratch(blocks) > 4 * _SCRATCH_BYTES):
            axis = next((axis for axis, floor in ((0, 1), (1, rows), (2, lanes)) if blocks[axis] > floor), None)
        if axis is None:
            return blocks
        divide(axis)
