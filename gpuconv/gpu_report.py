"""``python -m gpuconv.gpu_report``: checks every raw CUDA kernel on this machine's GPU, and times them beside torch.

Writes a JSON file of the device, the driver, the date, each kernel's largest error as a share of its bound, and the
times. Needs CuPy; without torch, times stand alone. Whatever documentation says of a GPU's speed comes from that file.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpuconv import reference, tuning
from gpuconv.backends.cuda import implicit_gemm_mma, named_device, raw_depthwise, raw_loader
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dispatch import Call
from gpuconv.dtypes import result_dtype, to_numpy
from gpuconv.problem import ConvProblem

__all__ = ["check", "main", "measure"]

KINDS = (
    ("float32 strict", "float32", "high"),
    ("TF32", "float32", "tf32"),
    ("float16", "float16", "high"),
    ("bfloat16", "bfloat16", "high"),
)
"""What is timed: name, dtype, precision. Strict float32 is three TF32 products here, and CUDA cores in torch."""

_DTYPES = (*((dtype, precision) for _, dtype, precision in KINDS), ("int8", "high"), ("uint8", "high"))
_OPERATIONS = ("forward", "input_gradient", "weight_gradient")
_FILE = "docs/gpu_results.json"

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
_BORDERED = ((1, 12, 13, 32), (24, 32, 5, 5), {"padding": 2, "padding_mode": "mirror"})


class Layer(NamedTuple):
    """A call that is timed, channels last."""

    name: str
    operation: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    arguments: dict[str, Any]

    def call(self, dtype: str, precision: str, layout: str) -> Call:
        """Return it in a dtype and layout."""
        x = self.x if layout == "channels_last" else (self.x[0], self.x[-1], *self.x[1:-1])
        return Call(ConvProblem.make(x, self.w, layout=layout, **self.arguments), self.operation, dtype, precision)


LAYERS = (
    Layer("3x3, 64 channels, 56x56", "forward", (32, 56, 56, 64), (64, 64, 3, 3), {"padding": 1}),
    Layer("3x3, 128 channels, 28x28", "forward", (32, 28, 28, 128), (128, 128, 3, 3), {"padding": 1}),
    Layer("3x3, 256 channels, 14x14", "forward", (32, 14, 14, 256), (256, 256, 3, 3), {"padding": 1}),
    Layer("3x3, 512 channels, 7x7", "forward", (32, 7, 7, 512), (512, 512, 3, 3), {"padding": 1}),
    Layer("1x1, 256 to 1024 channels", "forward", (32, 14, 14, 256), (1024, 256, 1, 1), {}),
    Layer("stem 7x7 stride 2", "forward", (32, 224, 224, 3), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    Layer("3x3 stride 2", "forward", (32, 56, 56, 128), (128, 128, 3, 3), {"stride": 2, "padding": 1}),
    Layer("3x3 dilation 2", "forward", (32, 28, 28, 128), (128, 128, 3, 3), {"padding": 2, "dilation": 2}),
    Layer("4 groups of 64", "forward", (32, 28, 28, 256), (256, 64, 3, 3), {"padding": 1, "groups": 4}),
    Layer("depthwise 3x3", "forward", (32, 56, 56, 144), (144, 1, 3, 3), {"padding": 1, "groups": 144}),
    Layer("depthwise 7x7", "forward", (32, 56, 56, 96), (96, 1, 7, 7), {"padding": 3, "groups": 96}),
    Layer("signal, 7 taps", "forward", (32, 4096, 128), (128, 128, 7), {"padding": 3}),
    Layer("volume, 3x3x3", "forward", (2, 24, 48, 48, 64), (64, 64, 3, 3, 3), {"padding": 1}),
    Layer("transposed 4x4 stride 2", "input_gradient", (32, 56, 56, 64), (128, 64, 4, 4), {"stride": 2, "padding": 1}),
    Layer("3x3, input gradient", "input_gradient", (32, 28, 28, 128), (128, 128, 3, 3), {"padding": 1}),
    Layer("3x3, weight gradient", "weight_gradient", (32, 28, 28, 128), (128, 128, 3, 3), {"padding": 1}),
    Layer("volume, weight gradient", "weight_gradient", (2, 24, 48, 48, 64), (64, 64, 3, 3, 3), {"padding": 1}),
)


# Checking


def _kernels(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each kernel that a call can run on, and the arguments that choose it."""
    if _is_depthwise(call):
        yield f"depthwise {call.dtype}", {}
        return
    family = "weight_gradient" if call.operation == "weight_gradient" else "implicit_gemm"
    kind = (family, geometry.element_of(call), geometry.reads_of(call, (call.problem.layout,) * 2))
    for tile in geometry.tiles_of(*kind):
        yield geometry.Kernel(*kind, tile).name, {"only": tile}


def every_kernel(activation: str = "") -> list[raw_loader.Instance]:
    """Return all kernels of an activation, but for depthwise ones of a number of taps that nothing here has."""
    found: list[raw_loader.Instance] = [
        raw_depthwise.Kernel(element, taps, activation)
        for element in ("Float16", "BFloat16", "Float32")
        for taps in (0, 2, 3, 5, 7)
    ]
    ways = {"implicit_gemm": ("vector", "gather"), "weight_gradient": ("vector", "gather", "planes")}
    for element in tuning.TENSOR_TILES:
        for family, reads in ((one, reads) for one, all_reads in ways.items() for reads in all_reads):
            if family == "weight_gradient" and (activation or (reads == "vector" and element.endswith("Int8"))):
                continue
            if activation and element.endswith("Int8"):
                continue
            tiles = geometry.tiles_of(family, element, reads)
            found += [geometry.Kernel(family, element, reads, tile, activation) for tile in tiles]
    return found


def _compile(runtime: raw_loader.CupyRuntime) -> None:
    """Compile every kernel into the cache, several at a time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(runtime.compile, every_kernel()))


def _arrays(call: Call) -> tuple[Any, Any]:
    """Return what the call reads: floats within [-1, 1], integers of the whole range."""
    generator, kind = np.random.default_rng(0), to_numpy(call.dtype)
    first, second, _ = call.problem.shapes(call.operation)
    if kind.kind in "iu":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        return tuple(generator.integers(low, high, s, kind, endpoint=True) for s in (first, second))  # type: ignore[return-value]
    return tuple(generator.uniform(-1, 1, s).astype(kind) for s in (first, second))  # type: ignore[return-value]


def _compute(runtime: Any, call: Call, first: Any, second: Any, out: Any, **more: Any) -> None:
    """Run the call on the arrays that it reads, in its callers' order."""
    module: Any = raw_depthwise if _is_depthwise(call) else implicit_gemm_mma
    if call.operation == "forward":
        module.compute(runtime, call, first, second, out, None, **more)
    elif call.operation == "weight_gradient":
        module.compute(runtime, call, first, out, second, None, **more)
    else:
        module.compute(runtime, call, out, second, first, None, **more)


def _is_depthwise(call: Call) -> bool:
    """Whether the depthwise kernel serves the call, on a GPU that serves any."""
    return raw_depthwise.supports(call, named_device("a100")) is None


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
    return rounding * np.abs(wanted.astype(np.float64)) + each * (length + 4)


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
    return lines


def _check_call(runtime: Any, call: Call) -> Iterator[dict[str, Any]]:
    arrays = _arrays(call)
    wanted = getattr(reference, call.operation)(call.problem, *arrays)
    for kernel, more in _kernels(call):
        out = np.zeros(wanted.shape, wanted.dtype)
        _compute(runtime, call, *arrays, out, **more)
        with np.errstate(all="ignore"):
            error = np.nan_to_num(np.abs(out.astype(np.float64) - wanted.astype(np.float64)), nan=np.inf)
            bound = _bound(call, wanted)
            share = min(float(np.max(error / np.maximum(bound, 1e-30))), _WORST)
        right = bool(np.all(error <= bound))
        problem = f"{call.operation} x {call.problem.x_shape} w {call.problem.w_shape}"
        yield {"kernel": kernel, "problem": problem, "error": share, "right": right}


# Timing


def milliseconds(function: Callable[[], Any], synchronize: Callable[[], Any], least: float = 0.05) -> float:
    """Return the median time of a call, of five runs that each last at least `least` seconds."""
    calls = 1
    while True:
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        synchronize()
        spent = time.perf_counter() - start
        if spent >= least:
            break
        calls = max(2 * calls, math.ceil(1.2 * calls * least / max(spent, 1e-6)))
    runs = [spent]
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        synchronize()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs) / calls * 1e3


def measure(
    runtime: Any,
    layers: tuple[Layer, ...],
    torch: Any,
    clock: Callable[[Callable[[], Any], Callable[[], Any]], float] = milliseconds,
    show: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Time every layer in every kind, in both layouts, beside torch where it is given.

    Returns
    -------
    list of dict
        ``layer``, ``kind``, ``layout``, ``gpuconv_ms`` and ``gpuconv_tflops``; and ``torch_ms``, for arrays of the same
        layout, and ``ratio``, torch's time over ours.
    """
    lines = []
    for layer in layers:
        for kind, dtype, precision in KINDS:
            for layout in ("channels_last", "channels_first"):
                call = layer.call(dtype, precision, layout)
                ours = clock(_ours(runtime, call), runtime.synchronize)
                line = {
                    "layer": layer.name, "kind": kind, "layout": layout, "gpuconv_ms": ours,
                    "gpuconv_tflops": call.flops / ours / 1e9,
                }  # fmt: skip
                if torch is not None:
                    theirs = clock(_theirs(torch, call, kind), torch.cuda.synchronize)
                    line |= {"torch_ms": theirs, "ratio": theirs / ours}
                lines.append(line)
                show(f"{layer.name} {kind} {layout}")
    return lines


def _ours(runtime: Any, call: Call) -> Callable[[], Any]:
    """Return the call on arrays that lie on the GPU, with the weights packed, as `gpuconv.plan` does."""
    first, second = (runtime.adopt(array) for array in _arrays(call))
    shape = call.problem.shapes(call.operation)[2]
    size = result_dtype(to_numpy(call.dtype)).itemsize
    out = runtime.empty(math.prod(shape), np.dtype(f"u{size}")).reshape(shape)
    if call.operation == "weight_gradient":
        return lambda: _compute(runtime, call, first, second, out)
    module: Any = raw_depthwise if _is_depthwise(call) else implicit_gemm_mma
    packed = module.packed_for(runtime, call, second)
    return lambda: _compute(runtime, call, first, second, out, packed=packed)


def _theirs(torch: Any, call: Call, kind: str) -> Callable[[], Any]:
    """Return torch's call: cuDNN, which tries its algorithms at the first call."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = kind == "TF32"
    torch.backends.cuda.matmul.allow_tf32 = kind == "TF32"
    p, rank = call.problem, call.problem.rank
    x_shape = (p.batch, p.in_channels, *p.spatial)
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    last = formats.get(rank, torch.contiguous_format) if p.layout == "channels_last" else torch.contiguous_format

    def random(shape: tuple[int, ...]) -> Any:
        return torch.rand(shape, device="cuda").to(getattr(torch, call.dtype)).to(memory_format=last)

    x, w, dy = random(x_shape), random(p.w_shape), random((p.batch, p.out_channels, *p.output))
    geometry_of = (p.stride, tuple(before for before, _ in p.padding), p.dilation, p.groups)
    if call.operation == "forward":
        function = getattr(torch.nn.functional, f"conv{rank}d")
        return lambda: function(x, w, None, *geometry_of)
    if call.operation == "input_gradient":
        function = getattr(torch.nn.grad, f"conv{rank}d_input")
        return lambda: function(x_shape, w, dy, *geometry_of)
    function = getattr(torch.nn.grad, f"conv{rank}d_weight")
    return lambda: function(x, p.w_shape, dy, *geometry_of)


# The command


def _machine(cupy: Any, torch: Any) -> dict[str, Any]:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "torch": None if torch is None else torch.__version__,
        "cudnn": None if torch is None else torch.backends.cudnn.version(),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def main(arguments: list[str] | None = None) -> int:
    """Check, time and write; return 1 where a kernel is wrong, 2 where there is no GPU or no CuPy."""
    parser = argparse.ArgumentParser(prog="python -m gpuconv.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(_FILE), help=f"the file that is written ({_FILE})")
    parser.add_argument("--check-only", action="store_true", help="time nothing")
    options = parser.parse_args(arguments)
    missing = raw_loader.unavailable()
    if missing is None and _imported("ml_dtypes") is None:
        missing = 'ml_dtypes, for bfloat16, is not installed: pip install "gpuconv[bfloat16]"'
    if missing is None:
        import cupy

        try:
            runtime = raw_loader.runtime()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            missing = f"CuPy finds no GPU: {error}"
    if missing is not None:
        print(f"gpu_report: {missing}", file=sys.stderr)
        return 2
    torch = _imported("torch")
    if torch is not None and not torch.cuda.is_available():
        torch = None
    _show("compiling")
    _compile(runtime)
    checks = check(runtime, _show)
    times = [] if options.check_only else measure(runtime, LAYERS, torch, show=_show)
    found = {"machine": _machine(cupy, torch), "checks": checks, "times": times}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wrong = [line for line in checks if not line["right"]]
    print(f"{len(checks)} checks, {len(wrong)} wrong; {len(times)} times; {options.out}")
    for line in wrong[:20]:
        print(f"wrong: {line['kernel']}: {line['problem']}: {line['error']:.3g} times its bound")
    return 1 if wrong else 0


def _show(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
