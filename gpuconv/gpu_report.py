"""``python -m gpuconv.gpu_report``: checks every raw CUDA kernel on this machine's GPU, and times them beside torch.

Writes a JSON file of the device, the driver, the date, each kernel's largest error as a share of its bound, and the
times, and beside it a table of them for people. Needs CuPy; without torch, times stand alone. Whatever documentation
says of a GPU's speed comes from that file; ``--table`` makes the table of a file again, with or without a GPU.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpuconv.backends.cuda import raw_loader
from gpuconv.dispatch import Call
from gpuconv.dtypes import result_dtype, to_numpy
from gpuconv.gpu_checks import KINDS, arrays_of, check, compile_every_kernel, compute, module_of
from gpuconv.problem import ConvProblem

__all__ = ["LAYERS", "Layer", "main", "measure", "table"]

_FILE = "docs/gpu_results.json"


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
    Layer("image, 3x3", "forward", (1, 4096, 4096, 1), (1, 1, 3, 3), {"padding": 1}),
    Layer("image, 7x7", "forward", (1, 4096, 4096, 1), (1, 1, 7, 7), {"padding": 3}),
    Layer("image, 15x15", "forward", (1, 4096, 4096, 1), (1, 1, 15, 15), {"padding": 7}),
    Layer("depthwise 3x3", "forward", (32, 56, 56, 144), (144, 1, 3, 3), {"padding": 1, "groups": 144}),
    Layer("depthwise 7x7", "forward", (32, 56, 56, 96), (96, 1, 7, 7), {"padding": 3, "groups": 96}),
    Layer("signal, 7 taps", "forward", (32, 4096, 128), (128, 128, 7), {"padding": 3}),
    Layer("volume, 3x3x3", "forward", (2, 24, 48, 48, 64), (64, 64, 3, 3, 3), {"padding": 1}),
    Layer("transposed 4x4 stride 2", "input_gradient", (32, 56, 56, 64), (128, 64, 4, 4), {"stride": 2, "padding": 1}),
    Layer("3x3, input gradient", "input_gradient", (32, 28, 28, 128), (128, 128, 3, 3), {"padding": 1}),
    Layer("3x3, weight gradient", "weight_gradient", (32, 28, 28, 128), (128, 128, 3, 3), {"padding": 1}),
    Layer("volume, weight gradient", "weight_gradient", (2, 24, 48, 48, 64), (64, 64, 3, 3, 3), {"padding": 1}),
)


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
    first, second = (runtime.adopt(array) for array in arrays_of(call))
    shape = call.problem.shapes(call.operation)[2]
    size = result_dtype(to_numpy(call.dtype)).itemsize
    out = runtime.empty(math.prod(shape), np.dtype(f"u{size}")).reshape(shape)
    if call.operation == "weight_gradient":
        return lambda: compute(runtime, call, first, second, out)
    packed = module_of(call).packed_for(runtime, call, second)
    return lambda: compute(runtime, call, first, second, out, packed=packed)


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
    parser.add_argument("--table", action="store_true", help="only write the table of an existing file again")
    options = parser.parse_args(arguments)
    if options.table:
        return _write_table(options.out)
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
    compile_every_kernel(runtime)
    checks = check(runtime, _show)
    times = [] if options.check_only else measure(runtime, LAYERS, torch, show=_show)
    found = {"machine": _machine(cupy, torch), "checks": checks, "times": times}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _write_table(options.out)
    wrong = [line for line in checks if not line["right"]]
    print(f"{len(checks)} checks, {len(wrong)} wrong; {len(times)} times; {options.out}")
    for line in wrong[:20]:
        print(f"wrong: {line['kernel']}: {line['problem']}: {line['error']:.3g} times its bound")
    return 1 if wrong else 0


def table(found: dict[str, Any]) -> str:
    """Return the times of a file as Markdown: the better layout of each layer and kind, beside torch's better one.

    Examples
    --------
    >>> line = {"layer": "3x3", "kind": "TF32", "layout": "channels_last", "gpuconv_ms": 2.0, "gpuconv_tflops": 40.0}
    >>> machine = {"device": "a GPU", "driver": 12080, "date": "2026-01-31", "torch": None, "cudnn": None}
    >>> print(table({"machine": machine, "checks": [{"right": True}], "times": [line]}))
    Measured on a GPU, driver 12080, 2026-01-31. 1 checks, 0 wrong.
    <BLANKLINE>
    | layer | kind | ms | TFLOP/s | torch, ms | torch / gpuconv |
    |---|---|---|---|---|---|
    | 3x3 | TF32 | 2.000 | 40.0 | - | - |
    """
    machine, checks = found["machine"], found["checks"]
    beside = f", torch {machine['torch']} with cuDNN {machine['cudnn']}" if machine["torch"] else ""
    lines = [
        f"Measured on {machine['device']}, driver {machine['driver']}{beside}, {machine['date']}. "
        f"{len(checks)} checks, {sum(not line['right'] for line in checks)} wrong.",
        "",
        "| layer | kind | ms | TFLOP/s | torch, ms | torch / gpuconv |",
        "|---|---|---|---|---|---|",
    ]
    for layer, kind in dict.fromkeys((line["layer"], line["kind"]) for line in found["times"]):
        ours = [line for line in found["times"] if (line["layer"], line["kind"]) == (layer, kind)]
        best = min(ours, key=lambda line: line["gpuconv_ms"])
        theirs = min((line["torch_ms"] for line in ours if "torch_ms" in line), default=None)
        words = ("-", "-") if theirs is None else (f"{theirs:.3f}", f"{theirs / best['gpuconv_ms']:.2f}")
        lines.append(
            f"| {layer} | {kind} | {best['gpuconv_ms']:.3f} | {best['gpuconv_tflops']:.1f} | {' | '.join(words)} |"
        )
    return "\n".join(lines)


def _write_table(path: Path) -> int:
    """Write the table of a file beside it; return 2 where there is no such file."""
    if not path.is_file():
        print(f"gpu_report: there is no {path}", file=sys.stderr)
        return 2
    path.with_suffix(".md").write_text(table(json.loads(path.read_text(encoding="utf-8"))) + "\n", encoding="utf-8")
    return 0


def _show(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
