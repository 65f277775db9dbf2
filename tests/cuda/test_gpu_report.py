"""What holds of the GPU's report without a GPU."""

import json

import numpy as np
import pytest

from gpuconv import gpu_checks, gpu_report
from gpuconv.backends.cuda import implicit_gemm_mma, raw_depthwise, raw_loader, raw_stencil
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.reference import forward, input_gradient, weight_gradient


def test_without_cupy_it_says_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(raw_loader, "unavailable", lambda: "CuPy is not installed")
    assert gpu_report.main(["--out", str(tmp_path / "results.json")]) == 2
    assert "CuPy is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_kernels_are_those_that_calls_can_choose():
    names = [kernel.name for kernel in (*gpu_checks.every_kernel(), *gpu_checks.every_kernel("relu"))]
    assert len(names) == len(set(names)) > 100
    for layer in gpu_report.LAYERS:
        for _, dtype, precision in gpu_report.KINDS:
            for layout in ("channels_last", "channels_first"):
                call = layer.call(dtype, precision, layout)
                reads = geometry.reads_of(call, (layout, layout))
                for part in geometry.launches(call, 132, reads, (layout, layout)):
                    assert part.kernel.name in names


def test_each_call_goes_to_the_algorithm_made_for_it(monkeypatch):
    monkeypatch.setattr(raw_loader, "unavailable", lambda: None)
    layers = {layer.name: layer.call("float32", "high", "channels_last") for layer in gpu_report.LAYERS}
    for name, module in (
        ("image, 7x7", raw_stencil),
        ("depthwise 3x3", raw_depthwise),
        ("3x3 stride 2", implicit_gemm_mma),
        ("3x3, weight gradient", implicit_gemm_mma),
    ):
        assert gpu_checks.module_of(layers[name]) is module


def test_the_table_is_made_of_the_file(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert gpu_report.main(["--table", "--out", str(path)]) == 2
    assert "there is no" in capsys.readouterr().err
    machine = {"device": "a GPU", "driver": 1, "date": "2026-01-31", "torch": "2", "cudnn": 9}
    line = {"layer": "3x3", "kind": "float16", "layout": "channels_last", "gpuconv_ms": 2.0, "gpuconv_tflops": 40.0}
    times = [{**line, "torch_ms": 3.0}, {**line, "layout": "channels_first", "gpuconv_ms": 4.0, "torch_ms": 2.5}]
    path.write_text(json.dumps({"machine": machine, "checks": [{"right": False}], "times": times}))
    assert gpu_report.main(["--table", "--out", str(path)]) == 0
    written = path.with_suffix(".md").read_text()
    assert "| 3x3 | float16 | 2.000 | 40.0 | 2.500 | 1.25 |" in written
    assert "1 checks, 1 wrong" in written


def test_a_time_is_of_one_call():
    calls = []
    assert 0 < gpu_report.milliseconds(lambda: calls.append(1), lambda: None, least=1e-4) < 10
    assert len(calls) > 5


def test_every_layer_can_be_posed():
    for layer in gpu_report.LAYERS:
        for layout in ("channels_last", "channels_first"):
            assert layer.call("float16", "high", layout).flops > 0


@pytest.mark.parametrize("operation", ["forward", "input_gradient", "weight_gradient"])
def test_torch_is_asked_for_the_same(torch, operation, monkeypatch):
    """The call that torch is timed on, made on the CPU, gives what the oracle gives."""
    made = []

    def rand(shape, device):
        made.append(torch.from_numpy(np.random.default_rng(len(made)).uniform(-1, 1, shape).astype(np.float32)))
        return made[-1]

    monkeypatch.setattr(torch, "rand", rand)
    for attribute in ("allow_tf32", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, attribute, False)
    arguments = {"stride": 2, "padding": 1, "groups": 2}
    call = gpu_report.Layer("", operation, (2, 7, 9, 4), (6, 2, 3, 3), arguments).call(
        "float32", "high", "channels_first"
    )
    found = gpu_report._theirs(torch, call, "float32 strict")().numpy()
    x, w, dy = (array.numpy() for array in made)
    wanted = {
        "forward": lambda: forward(call.problem, x, w),
        "input_gradient": lambda: input_gradient(call.problem, dy, w),
        "weight_gradient": lambda: weight_gradient(call.problem, x, dy),
    }[operation]()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
