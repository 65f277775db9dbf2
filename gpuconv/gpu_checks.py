"""Every raw CUDA kernel against the oracle, on a GPU; `gpuconv.gpu_report` writes down what comes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv import reference, tuning_cuda
from gpuconv.activation import NAMES
from gpuconv.backends.cuda import implicit_gemm_mma, named_device, raw_depthwise, raw_loader, raw_stencil
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dispatch import Call
from gpuconv.dtypes import to_numpy
from gpuconv.problem import ConvProblem

__all__ = ["KINDS", "arrays_of", "check", "compile_every_kernel", "compute", "every_kernel", "module_of"]

KINDS = (
    ("float32 strict", "float32", "high"),
    ("TF32", "float32", "tf32"),
    ("float16", "float16", "high"),
    ("bfloat16", "bfloat16", "high"),
)
"""What is timed: name, dtype, precision. Strict float32 is three TF32 products here, and CUDA cores in torch."""

_DTYPES = (*((dtype, precision) for _, dtype, precision in KINDS), ("int8", "high"), ("uint8", "high"))
_OPERATIONS = ("forward", "input_gradient", "weight_gradient")

_WORST = 1e9
"""The error that is written where a result is not finite, or an integer is wrong."""

# Problems that are checked, channels last: more steps than stages, several tiles, chunks that are not whole, groups,
# borders, each rank.
_CHECKED: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 13, 11, 160), (136, 160, 3, 3), {"padding": 1}),
    ((1, 14, 15, 19), (33, 19, 3, 3), {"stride": 2, "padding": 2}),
    ((2, 9, 9, 96), (48, 32, 3, 3), {"groups": 3, "dilation": 2, "padding": 1}),
    ((1, 5, 7, 6, 32), (16, 32, 2, 3, 3), {"padding": 1}),
    ((2, 300, 64), (40, 64, 7), {"stride": 3, "padding": 4}),
)
_DEPTHWISE: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 19, 21, 40), (40, 1, 3, 3), {"padding": 1}),
    ((1, 19, 21, 40), (40, 1, 7, 7), {"padding": 3}),
    ((1, 19, 21, 40), (40, 1, 5, 5), {"padding": 2, "stride": 2}),
    ((1, 9, 11, 12, 16), (16, 1, 3, 3, 3), {"dilation": 2, "padding": 2}),
)
_WINDOWS = ((3, 3, True), (3, 3, False), (5, 5, True), (7, 7, True), (0, 5, True), (0, 7, True), (0, 31, True))
"""Rows and columns of windows whose kernels are compiled, and whether rows of the input lie at sixteen bytes."""
_STENCILS: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 1, 37, 160), (1, 1, 3, 3), {"padding": 1}),
    ((1, 3, 21, 35), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
    ((1, 1, 37, 160), (1, 1, 5, 5), {"padding": 2, "padding_mode": "mirror"}),
    ((1, 1, 37, 160), (1, 1, 7, 7), {"padding": 3}),
    ((1, 1, 37, 160), (1, 1, 31, 31), {"padding": 15}),
)
_BORDERED = ((1, 12, 13, 32), (24, 32, 5, 5), {"padding": 2, "padding_mode": "mirror"})


def _kernels(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each kernel that a call can run on, and the arguments that choose it."""
    if module_of(call) is not implicit_gemm_mma:
        name = module_of(call).__name__.rpartition("raw_")[2]
        yield " ".join(filter(None, (name, call.dtype, call.activation))), {}
        return
    family = "weight_gradient" if call.operation == "weight_gradient" else "implicit_gemm"
    kind = (family, geometry.element_of(call), geometry.reads_of(call, (call.problem.layout,) * 2))
    for tile in geometry.tiles_of(*kind):
        yield geometry.Kernel(*kind, tile, call.activation).name, {"only": tile}


def every_kernel(activation: str = "") -> list[raw_loader.Instance]:
    """Return all kernels of an activation, but for windows and numbers of taps that nothing here has."""
    found: list[raw_loader.Instance] = [
        raw_depthwise.Kernel(element, taps, activation)
        for element in ("Float16", "BFloat16", "Float32")
        for taps in (0, 2, 3, 5, 7)
    ]
    found += [
        raw_stencil.Kernel(element, height, width, -(width // 2) % wide, aligned, activation)
        for element, wide in (("Float16", 8), ("BFloat16", 8), ("Float32", 4), ("Int8", 16), ("UInt8", 16))
        for height, width, aligned in _WINDOWS
        if not (activation and wide == 16)
        if (height == 0) == (max(height, width) > raw_stencil.IN_REGISTERS[16 // wide])
    ]
    ways = {"implicit_gemm": ("vector", "gather"), "weight_gradient": ("vector", "gather", "planes")}
    for element in tuning_cuda.TENSOR_TILES:
        for family, reads in ((one, reads) for one, all_reads in ways.items() for reads in all_reads):
            if family == "weight_gradient" and (activation or (reads == "vector" and element.endswith("Int8"))):
                continue
            if activation and element.endswith("Int8"):
                continue
            tiles = geometry.tiles_of(family, element, reads)
            found += [geometry.Kernel(family, element, reads, tile, activation) for tile in tiles]
    return found


def compile_every_kernel(runtime: raw_loader.CupyRuntime) -> None:
    """Compile every kernel into the cache, several at a time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(runtime.compile, every_kernel()))


def arrays_of(call: Call) -> tuple[Any, Any]:
    """Return what the call reads: floats within [-1, 1], integers of the whole range."""
    generator, kind = np.random.default_rng(0), to_numpy(call.dtype)
    first, second, _ = call.problem.shapes(call.operation)
    if kind.kind in "iu":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        return tuple(generator.integers(low, high, s, kind, endpoint=True) for s in (first, second))  # type: ignore[return-value]
    return tuple(generator.uniform(-1, 1, s).astype(kind) for s in (first, second))  # type: ignore[return-value]


def compute(runtime: Any, call: Call, first: Any, second: Any, out: Any, **more: Any) -> None:
    """Run the call on the arrays that it reads, in its callers' order."""
    module = module_of(call)
    if call.operation == "forward":
        module.compute(runtime, call, first, second, out, None, **more)
    elif call.operation == "weight_gradient":
        module.compute(runtime, call, first, out, second, None, **more)
    else:
        module.compute(runtime, call, out, second, first, None, **more)


def module_of(call: Call) -> Any:
    """Return the raw algorithm that is made for a call, on a GPU that serves any."""
    device = named_device("a100")
    for module in (raw_depthwise, raw_stencil):
        if module.supports(call, device) is None:
            return module
    return implicit_gemm_mma


def _bound(call: Call, wanted: Any) -> Any:
    """Return the error allowed of each element: a rounding of the result, and one of float32 for each product."""
    if wanted.dtype.kind in "iu":
        return np.zeros(wanted.shape)
    p = call.problem
    length = p.in_channels // p.groups * math.prod(p.kernel)
    if call.operation == "input_gradient":
        length = p.out_channels // p.groups * math.prod(p.kernel)
    elif call.operation == "weight_gradient":
        length = p.batch * math.prod(p.output)
    each = 2.0**-23 + (2.0**-10 if call.precision == "tf32" and call.dtype == "float32" else 0)
    rounding = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}[call.dtype]
    # No activation is steeper than 1.13.
    return rounding * np.abs(wanted.astype(np.float64)) + 1.13 * each * (length + 4)


def check(runtime: Any, show: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """Run every kernel against the oracle, and return a line for each kernel and problem.

    Parameters
    ----------
    runtime : raw_loader.CupyRuntime
    show : callable
        Told each line.

    Returns
    -------
    list of dict
        ``kernel``, ``problem``, ``error`` (the largest as a share of its bound, at most 1e9) and ``right``.
    """
    lines: list[dict[str, Any]] = []
    for x, w, arguments in (*_CHECKED, _BORDERED):
        for layout in ("channels_last", "channels_first"):
            shape = x if layout == "channels_last" else (x[0], x[-1], *x[1:-1])
            problem = ConvProblem.make(shape, w, layout=layout, **arguments)
            for operation in _OPERATIONS:
                if operation == "input_gradient" and problem.padding_mode != "zeros":
                    continue
                for dtype, precision in _DTYPES:
                    lines += _check_call(runtime, Call(problem, operation, dtype, precision))
                    show(f"{operation} {dtype} {shape}")
    for x, w, arguments in _DEPTHWISE:
        problem = ConvProblem.make(x, w, groups=x[-1], layout="channels_last", **arguments)
        for operation in _OPERATIONS[:2]:
            for _, dtype, precision in KINDS:
                lines += _check_call(runtime, Call(problem, operation, dtype, precision))
                show(f"depthwise {operation} {dtype} {x}")
    for call in (*_stencil_calls(), *_activated_calls()):
        lines += _check_call(runtime, call)
        show(" ".join(filter(None, (call.operation, call.dtype, str(call.problem.x_shape), call.activation))))
    return lines


def _stencil_calls() -> Iterator[Call]:
    """Yield filters of planes."""
    for x, w, arguments in _STENCILS:
        problem = ConvProblem.make(x, w, **arguments)
        for operation in _OPERATIONS[:2]:
            if operation == "forward" or problem.padding_mode == "zeros":
                for dtype, precision in _DTYPES:
                    yield Call(problem, operation, dtype, precision)


def _activated_calls() -> Iterator[Call]:
    """Yield a call of each algorithm with every activation."""
    (dense, *_), ((x, w, arguments), *_), (stencil, *_) = _CHECKED, _DEPTHWISE, _STENCILS
    problems = (
        ConvProblem.make(*dense[:2], layout="channels_last", **dense[2]),
        ConvProblem.make(x, w, groups=x[-1], layout="channels_last", **arguments),
        ConvProblem.make(*stencil[:2], **stencil[2]),
    )
    for problem in problems:
        for name in NAMES:
            for _, dtype, precision in KINDS:
                yield Call(problem, "forward", dtype, precision, activation=name)


def _check_call(runtime: Any, call: Call) -> Iterator[dict[str, Any]]:
    arrays = arrays_of(call)
    more_of_it = (None, call.activation) if call.activation else ()
    wanted = getattr(reference, call.operation)(call.problem, *arrays, *more_of_it)
    for kernel, more in _kernels(call):
        out = np.zeros(wanted.shape, wanted.dtype)
        compute(runtime, call, *arrays, out, **more)
        with np.errstate(all="ignore"):
            error = np.nan_to_num(np.abs(out.astype(np.float64) - wanted.astype(np.float64)), nan=np.inf)
            bound = _bound(call, wanted)
            share = min(float(np.max(error / np.maximum(bound, 1e-30))), _WORST)
        right = bool(np.all(error <= bound))
        problem = f"{call.operation} x {call.problem.x_shape} w {call.problem.w_shape} {call.activation}".strip()
        yield {"kernel": kernel, "problem": problem, "error": share, "right": right}
