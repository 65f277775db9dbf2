"""Convolution as a matrix product whose second factor is never stored as a whole.

The inputs that a tile of outputs needs are copied, term by term of the sum, into a panel that stays in the
first-level cache, and multiplied by the weights where they lie. See docs/kernels.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import direct, memory, threads
from gpuconv.backends.cpu.axes import flattened, is_flat, offsets, strides_of
from gpuconv.backends.cpu.direct_kernels import ROWS
from gpuconv.backends.cpu.gemm_blocks import PANELS, PLANES
from gpuconv.backends.cpu.gemm_geometry import Geometry, geometry, reads_rows
from gpuconv.backends.cpu.gemm_kernels import GEMM, multiplication
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.simd import CODES
from gpuconv.backends.cpu.tasks import Ready
from gpuconv.backends.cpu.weight_packing import PACK_CYCLES
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_LEAST_PACKED = 50_000
"""Weights a thread, packed more often than once by the tasks, from which it is worth a stage of its own."""
_SMALL_MAP = 512
"""Places of a map, at most, whose last vector is a part of them worth filling with places of the next image."""
_FIELD = {name: i for i, name in enumerate(GEMM.names or ())}


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    if call.operation == "weight_gradient":
        return "it computes outputs and input gradients, not weight gradients"
    if call.dtype not in ("float32", "float64"):
        return f"it multiplies float32 and float64, not {call.dtype}"
    problem = call.problem
    if call.operation != "forward" and problem.padding_mode != "zeros":
        return "its input gradients have the 'zeros' border only"
    if any(s > 1 and b > 1 for s, b in zip(problem.stride, problem.input_dilation, strict=True)):
        return "an axis has both a stride and an input dilation"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["gemm"][device.vector_bits]
    operations = 4 * device.vector_bits // 8 / np.dtype(call.dtype).itemsize
    cycles: float = _geometry(call).cycles
    if not call.planned and _packs_first(call):
        cycles += PACK_CYCLES * math.prod(call.problem.w_shape) / device.threads
    return constants.overhead + cycles * operations / constants.flops + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    problem, flat = _problems(call)
    g = geometry(flat or problem, call.accumulator, True, call.problem.layout == "channels_first")
    return direct.packed_bytes(call) + g.scratch_bytes * min(g.tasks, threads.count())


def _lined_up(problem: ConvProblem, flat: ConvProblem) -> ConvProblem | None:
    """Return a flat problem with the images as lines of one map, so that a vector holds places of several.

    None where the places of an image fill vectors well enough, or where tiles read lines of x one by one.
    """
    if problem.batch == 1 or problem.groups > 1 or math.prod(problem.spatial) > _SMALL_MAP or reads_rows(problem):
        return None
    return dataclasses.replace(
        flat, batch=1, batched=True, spatial=(problem.batch, *flat.spatial), kernel=(1, 1), stride=(1, 1),
        dilation=(1, 1), input_dilation=(1, 1), padding=((0, 0), (0, 0)),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _problems(call: Call) -> tuple[ConvProblem, ConvProblem | None]:
    problem = call.problem if call.operation == "forward" else call.problem.adjoint()
    flat = flattened(problem)
    lined_up = None if flat is None else _lined_up(problem, flat)
    if flat is None or lined_up is None:
        return problem, flat
    return problem, min(flat, lined_up, key=lambda p: geometry(p, call.accumulator, True, True).cycles)


def _has_phases(call: Call) -> bool:
    """Whether the weights must be packed: those of a sum do not lie in the order of its terms."""
    return call.operation != "forward" or max(call.problem.input_dilation) > 1


@functools.lru_cache(maxsize=1024)
def _packs_first(call: Call) -> bool:
    """Whether all weights are packed before the first task: those of phases, and those that many tasks would pack."""
    if call.planned or _has_phases(call):
        return True
    problem, flat = _problems(call)
    g = geometry(flat or problem, call.accumulator, False, problem.layout == "channels_first")
    return (g.weight_uses - 1.5) * math.prod(problem.w_shape) / threads.count() > _LEAST_PACKED


def _geometry(call: Call) -> Geometry:
    problem, flat = _problems(call)
    return geometry(flat or problem, call.accumulator, _packs_first(call), call.problem.layout == "channels_first")


def pack(call: Call, w: Array) -> Array | None:
    """Return the weights as `direct` packs them, which this algorithm reads too."""
    return direct.pack(call, w)


@functools.lru_cache(maxsize=1024)
def _ready(call: Call, x_strides: tuple[int, ...], y_strides: tuple[int, ...], is_packed: bool) -> Ready:
    problem, flat = _problems(call)
    dtype = np.dtype(call.dtype)
    size = dtype.itemsize
    xn, xc, xs = strides_of(problem, x_strides)
    yn, yc, ys = strides_of(problem, y_strides)
    if flat is not None and is_flat(xs, problem.spatial, size) and is_flat(ys, problem.output, size):
        xs, ys = [0, 0, size], [0, 0, size]
        if flat.rank == 2:
            xs, ys = [0, xn, size], [0, yn, size]
        problem = flat
    g = geometry(problem, call.accumulator, is_packed, xs[2] == size)
    words = g.words.copy()
    fill = np.array([problem.padding_value, 0], dtype)
    lines_y, lines_z = g.lines
    kept: tuple[Any, ...] = (g, fill)
    if g.inside:
        addresses, tables = offsets(g.set_taps, g.channels, (xc, *xs))
        sets = g.sets.copy()
        sets["offsets"] = addresses
        words[_FIELD["sets"]] = address_of(sets)
        lines_y, lines_z = g.advances[1] * xs[1], g.advances[0] * xs[0]
        kept += (sets, tables)
    out = (1, 1, 1, *problem.output)[-3:]
    runs_of = int(words[_FIELD["runs_of"]])
    dense = len(g.keep[0]) == 1 and (ys[2] == size or out[2] == 1) and runs_of != PLANES
    if runs_of == PANELS:
        dense &= int(words[_FIELD["block_y"]]) == 1 or (g.whole_lines[0] and ys[1] == out[2] * size)
        dense &= int(words[_FIELD["block_z"]]) == 1 or (g.whole_lines[1] and ys[0] == out[1] * out[2] * size)
    in_rows = g.inside and math.prod(problem.kernel) == 1 and reads_rows(problem)
    groups, row = problem.groups, math.prod(problem.w_shape[1:]) * size
    values = {
        "xn": xn, "xc": xc, "xz": xs[0], "xy": xs[1], "xx": xs[2], "yn": yn, "yc": yc, "yz": ys[0], "yy": ys[1],
        "yx": ys[2], "fill": address_of(fill), "w_group": 0 if is_packed else row * (problem.out_channels // groups),
        "w_row": 0 if is_packed else row, "in_place": g.inside,
        "in_rows": in_rows, "pixel": g.advances[2] * size if g.inside else size, "patches": g.patches,
        "line_z": lines_z, "line_y": lines_y, "dense": dense,
    }  # fmt: skip
    for name, value in values.items():
        words[_FIELD[name]] = value
    code = CODES[call.dtype]
    no_bias = np.zeros(problem.out_channels + ROWS, dtype)
    return Ready(words, g.tasks, g.scratch_bytes, g.slice_tasks, no_bias, multiplication(code, code, code), kept)


_X, _Y, _W, _BIAS = (_FIELD[name] for name in ("x", "y", "w", "bias"))


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    if call.operation != "forward":
        x, y = y, x
    if packed is not None:
        _run(call, x, packed, y, bias, True)
    elif _packs_first(call):
        block = memory.take(direct.packed_bytes(call))
        _run(call, x, direct.pack_into(call, w, block[0]), y, bias, True)
        memory.give_back(block)
    else:
        _run(call, x, np.ascontiguousarray(w), y, bias, False)


def _run(call: Call, x: Array, weights: Array | None, y: Array, bias: Array | None, is_packed: bool) -> None:
    ready = _ready(call, x.strides, y.strides, is_packed)
    sums_bias = ready.no_bias
    if bias is not None:
        sums_bias = sums_bias.copy()
        sums_bias[: len(bias)] = bias
    words = ready.words.copy()
    words[_X], words[_Y], words[_BIAS] = address_of(x), address_of(y), address_of(sums_bias)
    words[_W] = 0 if weights is None else address_of(weights)
    threads.run(
        ready.kernel, words, ready.tasks, ready.scratch_bytes, ready.slice_tasks, alone=call.flops < threads.SMALL_FLOPS
    )
