"""The benchmarks for asv have a GPU's algorithms, which are skipped with a reason where there is no GPU."""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

from gpuconv import dispatch
from gpuconv.backends import cuda

ROOT = Path(__file__).parents[2] / "asv_bench"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    names = [found.name for found in pkgutil.iter_modules([str(ROOT / "benchmarks")])]
    yield {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def benchmarks(modules):
    """Yield each class of benchmarks over problems."""
    base = modules["common"].OverProblems
    for module in modules.values():
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, base) and found is not base and found.__module__ == module.__name__:
                yield found


def test_every_algorithm_is_measured_by_the_clock_of_its_device(modules):
    measured = {}
    for found in benchmarks(modules):
        kinds = {name.partition("_")[0] for name in dir(found) if name.startswith(("time_", "track_", "peakmem_"))}
        for algorithm in found.params[0]:
            measured.setdefault(algorithm, set()).update(kinds)
    for backend in dispatch.BACKENDS:
        for name in dispatch.backend(backend).ALGORITHMS:
            assert ("track" if backend == "cuda" else "time") in measured[f"{backend}/{name}"]
    assert modules["gpu"].OnGpu.unit == "ms"


@pytest.mark.skipif(cuda.unavailable() is None, reason="this process can run CUDA kernels")
def test_without_a_gpu_the_reason_is_given(modules):
    benchmark = modules["gpu"].OnGpu()
    for algorithm in modules["common"].GPU_ALGORITHMS:
        with pytest.raises(NotImplementedError) as skipped:
            benchmark.setup(algorithm, "3x3 on 2048x2048")
        assert str(skipped.value) == cuda.unavailable()


def test_the_call_that_is_timed_has_its_arrays_on_the_gpu(modules, monkeypatch):
    problem = modules["common"].Problem("grad.conv1d_input", (1, 1, 6), (1, 1, 3), {}, (1, 1, 4))
    placed = []
    call = problem.prepare("cpu", "direct", lambda array: placed.append(array.shape) or array)
    assert placed == [(1, 1, 3), (1, 1, 4)]
    benchmark = modules["gpu"].OnGpu()
    benchmark.call = call
    monkeypatch.setattr(
        modules["gpu"].benchmark_cuda, "least_time", lambda function, seconds: function().size * seconds
    )
    assert benchmark.track_call() == pytest.approx(1e3 * 6 * benchmark.seconds)
