"""How the Winograd kernel divides a call, settled once for each: form, blocks of tiles, stages and scratch memory."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import threads
from gpuconv.backends.cpu.winograd_call import CALL
from gpuconv.backends.cpu.winograd_division import best_division
from gpuconv.backends.cpu.winograd_forms import (
    first_output,
    parts_of_form,
    possible_forms,
    runs_of,
    sizes_of,
    tap_steps,
)
from gpuconv.backends.cpu.winograd_parts import SECTION_FIELDS
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_weights import MOST_SPAN

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

__all__ = [
    "Geometry", "geometry", "is_worth_packing", "odd_lines", "operand", "spans",
]  # fmt: skip

_RESTART = 64
"""Channels after which the sums of products start anew: the error then hardly grows with the channels."""
_WRITTEN_PIXELS = 256
_TASK_FLOPS = 200e6


class Geometry(NamedTuple):
    """A call's record as plain integers, to be copied and completed, and its stages."""

    words: Any
    form: int
    split: bool
    weight_tasks: int
    weight_scratch_bytes: int
    input_tasks: int
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    weight_bytes: int
    input_bytes: int
    """Of transformed inputs in memory, where the stages are split."""
    transforms_inside: bool
    """Whether the tasks transform the weights that they use."""
    seconds: float
    tables: Any
    """Kept alive: `words` holds their addresses."""


def operand(problem: ConvProblem, strides: tuple[int, ...]) -> list[int]:
    """Return the bytes between neighbours of x or y: batch, channel, z, y, x."""
    batch, *rest = strides if problem.batched else (0, *strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return [batch, channel, *(0,) * (3 - problem.rank), *rest]


def spans(tiles: int, block: int, dilation: int, m: int, n: int) -> int:
    """Return the most inputs along an axis that a block of neighbouring tiles reads."""
    block = min(block, tiles)
    starts = range(min(dilation, tiles - block + 1))
    ends = max(first_output(first + block - 1, dilation, m) - first_output(first, dilation, m) for first in starts)
    return ends + dilation * (n - 1) + 1


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def odd_lines(n: int) -> int:
    """Return at least n bytes that are an odd number of cache lines, or of vectors beyond a line."""
    line = max(64, VECTOR)
    return (-(-n // line) | 1) * line


def _make(problem: ConvProblem, form: int, packed: bool, workers: int) -> Geometry:
    s = sizes_of(problem, form)
    my, mx, ny, nx, ty, tx, out_y, out_x, dy, dx = s[:10]
    products, vectors, blocks_k, tiles_y, tiles_x = s.products, s.vectors, s.blocks, s.tiles_y, s.tiles_x
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    chosen = best_division(s, packed, workers)
    seconds, unit, blocks, split, inside = chosen
    number, tiles = s.groups * blocks, chosen.tiles(s)
    c = np.zeros((), CALL)
    parts = parts_of_form(problem, form)
    kz, ky, kx = (1, 1, *problem.kernel)[-3:]
    part_vectors = -(-channels // LANES)
    together = kz * part_vectors
    # Parts that lack some products are not summed together with others.
    chunk = next(n for n in range(min(vectors, _RESTART // LANES), 0, -1) if together == vectors or together % n == 0)
    first_taps, sections = np.array(parts, np.int64), np.array(s.sections, np.int64).reshape(-1, SECTION_FIELDS)
    fields = {
        "products_y": ny, "products_x": nx, "channels": channels, "outputs": outputs, "vectors": vectors,
        "part_vectors": part_vectors,
        "chunk": chunk, "groups": problem.groups, "parts": len(parts),
        "first_taps": first_taps.ctypes.data, "parts_together": kz,
        "sections": sections.ctypes.data, "kernel_z": kz, "kernel_y": ky, "kernel_x": kx,
        "tap_step_y": tap_steps(problem)[0], "tap_step_x": tap_steps(problem)[1],
        "mode": problem.mode_code, "dilation_y": dy, "dilation_x": dx, "out_y": out_y, "out_x": out_x,
        "runs_y": s.runs_y, "runs_x": s.runs_x, "wide_y": out_y, "wide_x": out_x, "skipped_y": 0, "skipped_x": 0,
        "tiles_y": tiles_y, "tiles_x": tiles_x, "blocks": blocks, "units": s.units(unit), "unit": unit,
        "units_x": -(-tiles_x // unit), "size_y": 1, "size_z": 1,
    }  # fmt: skip
    for name, size, stride, dilation in zip(
        "zyx", (1, 1, *problem.output)[-3:], (1, 1, *problem.stride)[-3:], (1, 1, *problem.dilation)[-3:], strict=True
    ):
        fields |= {f"stride_{name}": stride}
        if name == "z":
            fields |= {"dilation_z": dilation, "out_z": size}
    for name, axis in zip("xyz", reversed(range(problem.rank)), strict=False):
        (low, high), runs = problem.cropped[axis], runs_of(problem, axis)
        # Negative padding has cropped already.
        before = runs.before if runs.length > 1 else max(runs.before, 0)
        fields |= {f"low_{name}": low, f"size_{name}": high - low, f"pad_{name}": before}
        if name != "z":
            fields |= {f"wide_{name}": problem.output[axis], f"skipped_{name}": runs.skipped}
    # The largest rectangles of a block: whole rows, or a share of one.
    rows, columns = max(min(tiles // tiles_x, tiles_y), 1), min(tiles, tiles_x)
    height, width = spans(tiles_y, rows, dy, my, ny), spans(tiles_x, columns, dx, mx, nx)
    written = 1 if dy > 1 else max(1, min(rows, _WRITTEN_PIXELS // (my * out_x * s.runs_x)))
    pixels = written * my * spans(tiles_x, columns, dx, mx, mx) * s.runs_x
    fields |= {"written": written, "in_pitch": odd_lines(width * VECTOR), "columns_pitch": odd_lines(width * VECTOR)}
    offset = 0

    def place(size: int) -> int:
        nonlocal offset
        start = offset
        offset += _round(size + LANES * VECTOR, 64)
        return start

    place(height * fields["in_pitch"])
    fields["columns_offset"] = place(ny * fields["columns_pitch"])
    fields["v_step"] = odd_lines(tiles * vectors * VECTOR)
    fields["v_block"] = products * fields["v_step"]
    fields["v_offset"] = place(0 if split else fields["v_block"])
    fields["m_step"] = odd_lines(tiles * 2 * VECTOR)
    fields["m_phase"] = products * fields["m_step"]
    fields["m_offset"] = place(s.runs_x * fields["m_phase"])
    fields["pixels_offset"] = place(pixels * VECTOR)
    fields["edge_offset"] = place((my * mx + 2) * VECTOR)
    taps_bytes = (ty * tx + 1 + MOST_SPAN + 1) * LANES * VECTOR
    fields["taps_offset"] = place(taps_bytes)
    fields["u_step"] = odd_lines(together * LANES * 2 * VECTOR)
    fields["u_block"] = s.kept * fields["u_step"]
    fields["u_group"] = blocks_k * fields["u_block"]
    fields["u_scratch_step"] = odd_lines(chunk * LANES * 2 * VECTOR)
    fields["u_offset"] = place(products * fields["u_scratch_step"] if inside else 0)
    for name, value in fields.items():
        c[name] = value
    # Each takes one phase along y, or all.
    tasks = number * (blocks_k * s.runs_y if split else 1)
    flops = 2.0 * s.made * tiles * vectors * LANES * 2 * LANES * s.runs_x * (1 if split else blocks_k * s.runs_y)
    return Geometry(
        c.reshape(1).view(np.int64), form, split, problem.groups * blocks_k * -(-together // chunk), taps_bytes,
        number * vectors if split else 0, tasks, _round(offset, 64), max(1, int(_TASK_FLOPS / max(flops, 1))),
        problem.groups * fields["u_group"], number * fields["v_block"] if split else 0, inside, seconds,
        (first_taps, sections),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def is_worth_packing(problem: ConvProblem) -> bool:
    """Whether transformed weights, which are larger, are read sooner than the plain ones are transformed in a call.

    It is judged on two threads, as the form is.
    """
    packed, plain = (
        min(best_division(sizes_of(problem, form), packed, 2).seconds for form in possible_forms(problem))
        for packed in (True, False)
    )
    return packed < plain


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, packed: bool) -> Geometry:
    """Return the tables of a correlation, of the form that is the fastest by estimate on two threads.

    The number of threads at hand divides the work but does not choose the form: results have the same bits on any.
    """
    form = min(possible_forms(problem), key=lambda f: best_division(sizes_of(problem, f), packed, 2).seconds)
    return _make(problem, form, packed, threads.count())
