"""The GPU's benchmark runs in the simulator, on cases of a size for it, with stand-ins for its peers."""

import sys
import time
import types

import numpy as np
import scipy.ndimage
from numba import cuda

from gpuconv import benchmark_cuda
from gpuconv.benchmark_cuda import Case
from gpuconv.workload import Workload

CASES = (
    Case("a", "layer", Workload("conv2d", (1, 2, 4, 4), (2, 2, 3, 3), {"padding": 1})),
    Case("a", "by x", Workload("grad.conv1d_input", (1, 2, 6), (2, 2, 3), {})),
    Case("filters", "image", Workload("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"padding": 1, "padding_mode": "mirror"})),
)


def timer(function, seconds):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_the_table(monkeypatch):
    monkeypatch.setattr(benchmark_cuda, "_found", lambda module: False)
    monkeypatch.setattr(benchmark_cuda, "_TURNS", 1)
    report = benchmark_cuda.run(("a",), 0.0, CASES, timer)
    assert [row.name for row in report.rows] == ["layer", "by x"]
    assert all(list(row.seconds) == ["gpuconv"] and not row.wrong for row in report.rows)
    assert str(report).startswith("Numba CUDA simulator; gpuconv ")


def test_peers_are_compared(monkeypatch):
    cupy = types.SimpleNamespace(asarray=np.asarray, __version__="0")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(benchmark_cuda, "to_device", cuda.to_device)
    for call, wrong in ((scipy.ndimage.correlate, ()), (scipy.ndimage.convolve, ("cupyx",))):
        row = benchmark_cuda._row(CASES[2], {"cupyx": types.SimpleNamespace(correlate=call)}, 0.0, timer)
        assert list(row.seconds) == ["gpuconv", "cupyx"]
        assert row.wrong == wrong
