"""Direct convolution with vectors along blocks of output channels, inputs read wherever they lie.

A tile of places by two vectors of channels stays in registers over the whole sum; each input is broadcast to both. An
input's neighbours may lie as far apart as a stride, a dilation or a layout puts them. See docs/kernels_blocked.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import direct_kernels, gemm, memory, threads
from gpuconv.backends.cpu.axes import flattened, is_flat, offsets, strides_of
from gpuconv.backends.cpu.blocked_geometry import Geometry, geometry
from gpuconv.backends.cpu.blocked_kernels import BLOCKED, convolution
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.simd import CODES, lanes_of, registers
from gpuconv.backends.cpu.tasks import Ready
from gpuconv.backends.cpu.weight_packing import PACK_CYCLES, Packing
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["cost", "pack", "run", "supports", "workspace"]

_NEAR_BYTES = {16: 512 << 10, 32: 2 << 20}
"""Of x, a thread, that may wait in the second-level caches, by the number of registers."""
_FIELD = {name: i for i, name in enumerate(BLOCKED.names or ())}
_X, _Y, _W, _BIAS = (_FIELD[name] for name in ("x", "y", "w", "bias"))


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    if 0 in call.problem.x_shape or 0 in call.problem.y_shape:
        return "it takes no empty arrays"
    # The same sums in another order of loops.
    return gemm.supports(call, device)


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["blocked"][device.vector_bits]
    operations = 4 * device.vector_bits // 8 / np.dtype(call.dtype).itemsize
    g = _geometry(call)
    cycles = g.cycles
    if not call.planned:
        cycles += PACK_CYCLES * g.packed_elements / device.threads
    return constants.overhead + cycles * operations / constants.flops + call.bytes / constants.bandwidth


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    g, problem = _geometry(call), _problem(call)
    scratch = g.scratch_bytes * min(g.tasks, threads.count())
    if flattened(problem) is not None:
        # Arrays with gaps are not one line.
        other = geometry(problem, call.accumulator, _is_near(call))
        scratch = max(scratch, other.scratch_bytes * min(other.tasks, threads.count()))
    return g.packed_elements * np.dtype(call.dtype).itemsize + scratch


def _problem(call: Call) -> ConvProblem:
    """Return the forward problem that is computed."""
    return call.problem if call.operation == "forward" else call.problem.adjoint()


def _is_near(call: Call) -> bool:
    """Whether x may wait in the second-level caches: from further away, lines come faster one after the other."""
    size = math.prod(_problem(call).x_shape) * np.dtype(call.dtype).itemsize
    return size <= _NEAR_BYTES[registers()] * threads.count()


def _geometry(call: Call) -> Geometry:
    problem = _problem(call)
    return geometry(flattened(problem) or problem, call.accumulator, _is_near(call))


@functools.lru_cache(maxsize=1024)
def _packing(call: Call) -> Packing:
    g = _geometry(call)
    phases = np.zeros(len(g.phases), direct_kernels.PHASE)
    for own, phase, taps in zip(phases, g.phases, g.taps, strict=True):
        own["w_offset"], own["w_group_bytes"], own["tap_count"] = phase["w_offset"], phase["w_group"], len(taps)
    record = g.words.view(BLOCKED)[0]
    code = CODES[call.dtype]
    return Packing(call, record, phases, g.packed_elements, (code, code), lanes_of(code), True)


@functools.lru_cache(maxsize=1024)
def _ready(call: Call, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> Ready:
    problem = _problem(call)
    dtype = np.dtype(call.dtype)
    xn, xc, xs = strides_of(problem, x_strides)
    yn, yc, ys = strides_of(problem, y_strides)
    flat = flattened(problem)
    if (
        flat is not None
        and is_flat(xs, problem.spatial, dtype.itemsize)
        and is_flat(ys, problem.output, dtype.itemsize)
    ):
        xs = ys = [0, 0, dtype.itemsize]
        problem = flat
    g = geometry(problem, call.accumulator, _is_near(call))
    words, phases = g.words.copy(), g.phases.copy()
    fill = np.array([problem.padding_value, 0], dtype)
    kept: tuple[Any, ...] = (g, fill, phases)
    values = {
        "xn": xn, "xc": xc, "xz": xs[0], "xy": xs[1], "xx": xs[2], "yn": yn, "yc": yc, "yz": ys[0], "yy": ys[1],
        "yx": ys[2], "fill": address_of(fill), "phases": address_of(phases),
    }  # fmt: skip
    if g.inside:
        addresses, tables = offsets(g.taps, int(words[_FIELD["channels"]]), (xc, *xs))
        phases["offsets"] = addresses
        kept += (tables,)
        values |= {f"place_{name}": n * stride for name, n, stride in zip("zyx", g.advances, xs, strict=True)}
    for name, value in values.items():
        words[_FIELD[name]] = value
    no_bias = np.zeros((problem.groups, int(words[_FIELD["bias_group"]]) // dtype.itemsize), dtype)
    kernel = convolution(CODES[call.dtype])
    return Ready(words, g.tasks, g.scratch_bytes, g.slice_tasks, no_bias, kernel, kept)


def pack(call: Call, w: Array) -> Array:
    """Return the weights as the kernel reads them: [phase][group][vector of outputs][channel][tap][lane]."""
    packing = _packing(call)
    return packing.pack(w, memory.aligned(packing.elements * w.itemsize)[0])


def run(call: Call, x: Array, w: Array, y: Array, bias: Array | None = None, packed: Array | None = None) -> None:
    """Compute the operation into the array that it writes; see `gpuconv.dispatch`."""
    if call.operation != "forward":
        x, y = y, x
    if packed is not None:
        _run(call, x, packed, y, bias)
        return
    packing = _packing(call)
    block = memory.take(packing.elements * w.itemsize)
    _run(call, x, packing.pack(w, block[0]), y, bias)
    memory.give_back(block)


def _run(call: Call, x: Array, weights: Array, y: Array, bias: Array | None) -> None:
    ready = _ready(call, x.strides, y.strides)
    sums_bias = ready.no_bias
    if bias is not None:
        sums_bias = sums_bias.copy()
        sums_bias[:, : len(bias) // len(sums_bias)] = np.reshape(bias, (len(sums_bias), -1))
    words = ready.words.copy()
    words[_X], words[_Y], words[_BIAS], words[_W] = map(address_of, (x, y, sums_bias, weights))
    threads.run(
        ready.kernel, words, ready.tasks, ready.scratch_bytes, ready.slice_tasks, alone=call.flops < threads.SMALL_FLOPS
    )
