"""Weight gradients by Winograd's algorithm: tiles of the outputs' gradients take the part of the kernel.

The gradient of k taps is k outputs of a correlation whose kernel are the gradients of a tile's t outputs: F(k, t) makes
them from k + t - 1 inputs in as many products. The transformed tiles of all images are summed, and transformed back
once. See docs/kernels_winograd.md.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import direct, memory, threads
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.winograd_call import CALL
from gpuconv.backends.cpu.winograd_forms import OUTPUTS, along_axes, parts_of, tiles_of
from gpuconv.backends.cpu.winograd_geometry import odd_lines, operand, spans
from gpuconv.backends.cpu.winograd_gradient_kernels import GRADIENT, GRADIENTS, INPUTS, PRODUCTS, TAPS, kernel
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_tiles import forms
from gpuconv.tuning import CPU_WINOGRAD

if TYPE_CHECKING:
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "possible", "weight_gradient", "workspace"]

_WINDOW_BYTES = 128 << 10
"""Pixels of a band of tiles; with its transformed columns they stay in a second-level cache."""
_PASS_BYTES = 24 << 20
"""Transformed tiles of a pass."""
_TASK_VECTORS = 4
"""Vectors of output channels of a task: with three of input channels their tiles fill a first-level cache."""
_TASK_FLOPS = 100e6
_MOST_PARTS = 64
_FIELD = {name: i for i, name in enumerate(GRADIENT.names or ())}
_CALL = {name: i for i, name in enumerate(CALL.names or ())}


class _Sizes(NamedTuple):
    """A weight gradient in tiles of one form."""

    form: int
    positions: int
    parts: list[tuple[int, int, int]]
    vectors: int
    output_vectors: int
    images: int
    tiles_y: int
    tiles_x: int
    dilation: tuple[int, int]

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.images * self.tiles_y * self.tiles_x


def possible(problem: ConvProblem) -> tuple[int, ...]:
    """Return the forms F(k, t) that compute a weight gradient; empty where none does."""
    (ky, kx), (sy, sx), (dy, dx) = along_axes(problem)
    if any(k > 1 and s > 1 and d > 1 for k, s, d in ((ky, sy, dy), (kx, sx, dx))):
        return ()
    longest = max(-(-ky // sy), -(-kx // sx))
    if longest == 1:
        return ()
    found = []
    for k in (longest,) if longest in (2, 3, 4, 5) else (4, 3):
        for t in (t for t, outputs in OUTPUTS.items() if k in outputs):
            form = 1100 + 10 * k + t if ky == 1 else 1000 * k + 100 * t + 11 if kx == 1 else 1010 * k + 101 * t
            if len(_parts(problem, form)) <= _MOST_PARTS:
                found.append(form)
    return tuple(found)


def _parts(problem: ConvProblem, form: int) -> list[tuple[int, int, int]]:
    """Return the first taps of the parts of the kernel: the form's outputs are taps."""
    return parts_of(problem, form // 1000, form // 10 % 10)


def _sizes(problem: ConvProblem, form: int) -> _Sizes:
    down, across = forms(form)
    out_z, out_y, out_x = (1, 1, *problem.output)[-3:]
    (ky, kx), _, (dy, dx) = along_axes(problem)
    # A kernel of one row or column has no inputs between it and the next.
    dy, dx = dy if ky > 1 else 1, dx if kx > 1 else 1
    parts = _parts(problem, form)
    return _Sizes(
        form, len(down.input) * len(across.input), parts,
        len(parts) * -(-problem.in_channels // problem.groups // LANES),
        -(-problem.out_channels // problem.groups // LANES), problem.batch * out_z,
        tiles_of(out_y, dy, len(down.weights[0])), tiles_of(out_x, dx, len(across.weights[0])), (dy, dx),
    )  # fmt: skip


def _seconds(problem: ConvProblem, s: _Sizes) -> float:
    """Return the estimated seconds of one thread."""
    rates = CPU_WINOGRAD[8 * VECTOR]
    inputs, outputs = s.vectors * LANES * problem.groups, s.output_vectors * LANES
    products = 2.0 * s.positions * s.tiles * inputs * outputs / rates.flops
    # Sums of few tiles are bound by reading and writing them.
    sums = s.positions * inputs * outputs * (rates.weights + 2 * rates.transform)
    transforms = s.positions * s.tiles * (inputs + outputs * problem.groups) * 1.5 * rates.transform
    return products + sums + transforms


@functools.lru_cache(maxsize=1024)
def _best(problem: ConvProblem) -> _Sizes:
    return min((_sizes(problem, form) for form in possible(problem)), key=lambda s: _seconds(problem, s))


def cost(problem: ConvProblem, workers: int) -> float:
    """Return the estimated seconds."""
    return 2 * CPU_WINOGRAD[8 * VECTOR].overhead + _seconds(problem, _best(problem)) / workers


class _Geometry(NamedTuple):
    """A call's records as plain integers, to be copied and completed, and its stages."""

    form: int
    words: Array
    x_words: Array
    y_words: Array
    passes: tuple[tuple[int, int, int, int], ...]
    """First band, bands, first tile row and tiles of each."""
    groups: int
    outputs: int
    vectors: int
    output_vectors: int
    product_tasks: int
    product_slice: int
    scratch_bytes: int
    x_bytes: int
    y_bytes: int
    u_bytes: int
    keep: tuple[Array, ...]


@functools.lru_cache(maxsize=1024)
def _geometry(problem: ConvProblem) -> _Geometry:
    s = _best(problem)
    down, across = forms(s.form)
    (ny, ty), (nx, tx) = ((len(m.input), len(m.weights[0])) for m in (down, across))
    dy, dx = s.dilation
    width = spans(s.tiles_x, s.tiles_x, dx, tx, nx)
    pitch = odd_lines(width * VECTOR)
    band = s.tiles_y
    while band > 1 and spans(s.tiles_y, band, dy, ty, ny) * pitch > _WINDOW_BYTES:
        band = -(-band // 2)
    bands = -(-s.tiles_y // band)
    row_bytes = s.tiles_x * s.positions * (s.vectors + s.output_vectors) * problem.groups * VECTOR
    together = max(1, _PASS_BYTES // max(band * row_bytes, 1))

    def first_row(number: int) -> int:
        return number // bands * s.tiles_y + number % bands * band

    passes = []
    for first in range(0, s.images * bands, together):
        last = min(first + together, s.images * bands)
        passes.append((first, last - first, first_row(first), (first_row(last) - first_row(first)) * s.tiles_x))
    most = max((tiles for *_, tiles in passes), default=0)

    record = np.zeros((), GRADIENT)
    u_row = s.vectors * VECTOR
    u_step = odd_lines(s.output_vectors * LANES * u_row)
    x_step, y_step = odd_lines(s.vectors * most * VECTOR), odd_lines(s.output_vectors * most * VECTOR)
    window = -(-(spans(s.tiles_y, band, dy, ty, ny) * pitch + LANES * VECTOR) // 64) * 64
    for name, value in (
        ("vectors", s.vectors), ("outputs_vectors", s.output_vectors), ("task_vectors", _TASK_VECTORS),
        ("groups", problem.groups), ("band", band), ("bands", bands), ("tiles_y", s.tiles_y), ("tiles_x", s.tiles_x),
        ("columns_offset", window), ("x_step", x_step), ("x_group", s.positions * x_step), ("y_step", y_step),
        ("y_group", s.positions * y_step), ("u_row", u_row), ("u_step", u_step), ("u_group", s.positions * u_step),
    ):  # fmt: skip
        record[name] = value
    first_taps, origin = np.array(s.parts, np.int64), np.zeros(3, np.int64)
    output = (1, 1, *problem.output)[-3:]
    x_call, y_call = np.zeros((), CALL), np.zeros((), CALL)
    kernel_sizes, strides = (1, 1, *problem.kernel)[-3:], (1, 1, *problem.stride)[-3:]
    for call, channels, vectors, taps in (
        (x_call, problem.in_channels, s.vectors // len(s.parts), first_taps),
        (y_call, problem.out_channels, s.output_vectors, origin),
    ):
        call["channels"], call["part_vectors"] = channels // problem.groups, vectors
        call["first_taps"], call["in_pitch"], call["out_z"] = taps.ctypes.data, pitch, output[0]
        call["dilation_z"], call["dilation_y"], call["dilation_x"] = (1, 1, *problem.dilation)[-3], dy, dx
    x_call["mode"] = problem.mode_code
    limits = [(0, 1)] * (3 - problem.rank) + list(problem.cropped)
    padding = [(0, 0)] * (3 - problem.rank) + list(problem.padding)
    for name, (low, high), (before, _), stride, k, out in zip(
        "zyx", limits, padding, strides, kernel_sizes, output, strict=True
    ):
        x_call[f"low_{name}"], x_call[f"size_{name}"] = low, high - low
        # Negative padding has cropped already.
        x_call[f"pad_{name}"], x_call[f"stride_{name}"], x_call[f"kernel_{name}"] = max(before, 0), stride, k
        y_call[f"size_{name}"], y_call[f"stride_{name}"] = out, 1
    tasks = problem.groups * -(-s.output_vectors // _TASK_VECTORS) * s.positions
    flops = 2.0 * most * s.vectors * LANES * _TASK_VECTORS * LANES
    return _Geometry(
        s.form, record.reshape(1).view(np.int64), x_call.reshape(1).view(np.int64), y_call.reshape(1).view(np.int64),
        tuple(passes), problem.groups, problem.out_channels // problem.groups, s.vectors, s.output_vectors, tasks,
        max(1, int(2 * _TASK_FLOPS / max(flops, 1))), -(-(window + ny * pitch + LANES * VECTOR) // 64) * 64,
        problem.groups * s.positions * x_step, problem.groups * s.positions * y_step,
        problem.groups * s.positions * u_step, (first_taps, origin),
    )  # fmt: skip


def workspace(problem: ConvProblem) -> int:
    """Return the bytes of transformed tiles, their sums and all threads' scratch memory."""
    g = _geometry(problem)
    return g.x_bytes + g.y_bytes + g.u_bytes + g.scratch_bytes * threads.count()


def weight_gradient(call: Call, x: Array, w: Array, y: Array) -> None:
    """Write the weight gradient into w."""
    problem = call.problem
    g = _geometry(problem)
    if not g.passes:
        w[...] = 0
        return
    taken = [memory.take(size) for size in (g.x_bytes, g.y_bytes, g.u_bytes)]
    fill, zero, not_finite = (
        np.array([problem.padding_value], np.float32),
        np.zeros(1, np.float32),
        np.zeros(1, np.int64),
    )
    words, x_words, y_words = g.words.copy(), g.x_words.copy(), g.y_words.copy()
    x_words[:6], x_words[_CALL["fill"]] = (address_of(x), *operand(problem, x.strides)), address_of(fill)
    y_words[:6], y_words[_CALL["fill"]] = (address_of(y), *operand(problem, y.strides)), address_of(zero)
    outputs, channels, *spatial = w.strides
    words[: _FIELD["stage"]] = (
        address_of(x_words), address_of(y_words), *(address for _, address in taken), address_of(w),
        outputs * g.outputs, outputs, channels, *(0,) * (3 - problem.rank), *spatial, address_of(not_finite),
    )  # fmt: skip
    code = kernel(g.form)

    def run(stage: int, tasks: int, scratch: int, slice_tasks: int) -> None:
        words[_FIELD["stage"]] = stage
        threads.run(code, words, tasks, scratch, slice_tasks)

    for number, (first, count, first_unit, tiles) in enumerate(g.passes):
        for name, value in (
            ("first_band", first), ("band_count", count), ("first_unit", first_unit), ("tiles", tiles),
            ("is_first", number == 0),
        ):  # fmt: skip
            words[_FIELD[name]] = value
        run(INPUTS, count * g.groups * g.vectors, g.scratch_bytes, 256)
        run(GRADIENTS, count * g.groups * g.output_vectors, g.scratch_bytes, 256)
        run(PRODUCTS, g.product_tasks, 64, g.product_slice)
    run(TAPS, g.groups * g.outputs, g.scratch_bytes, 1024)
    memory.give_back(*taken)
    if not_finite[0]:
        # A transform spreads what is not finite over the taps.
        direct.run(call, x, w, y)
