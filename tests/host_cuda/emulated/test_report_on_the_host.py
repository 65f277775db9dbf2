"""The GPU's report, with the host in the GPU's place: what it checks is right, and what it writes is complete."""

import pytest

from gpuconv import gpu_checks, gpu_report
from gpuconv.backends.cuda import raw_loader


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Problems that the host computes at once."""
    monkeypatch.setattr(gpu_checks, "_CHECKED", (((1, 6, 5, 16), (16, 16, 3, 2), {"stride": 2}),))
    monkeypatch.setattr(gpu_checks, "_DEPTHWISE", (((1, 4, 5, 8), (8, 1, 3, 3), {"padding": 1}),))
    monkeypatch.setattr(raw_loader, "unavailable", lambda: None)
    wrapped = ((1, 4, 5, 9), (8, 9, 3, 3), {"padding": 1, "padding_mode": "wrap"})
    monkeypatch.setattr(gpu_checks, "_BORDERED", wrapped)
    # Kernels of one window and of one activation are built for the host.
    stencils, activated = list(gpu_checks._stencil_calls()), list(gpu_checks._activated_calls())
    built = [call for call in stencils if call.dtype == "float32" and call.problem.kernel == (3, 3)]
    monkeypatch.setattr(gpu_checks, "_stencil_calls", lambda: built)
    gelu = [call for call in activated if call.activation == "gelu" and call.dtype == "float16"]
    assert len(gelu) == 3
    monkeypatch.setattr(gpu_checks, "_activated_calls", lambda: gelu[:1])


def test_checks_pass_on_the_host(runtime):
    lines = gpu_checks.check(runtime)
    assert all(line["right"] and line["error"] <= 1 for line in lines)
    kernels = {line["kernel"] for line in lines}
    assert len(kernels) > 20
    for word in ("vector", "gather", "planes", "depthwise", "stencil", "gelu"):
        assert any(word in kernel for kernel in kernels)


def test_a_wrong_kernel_shows(runtime, monkeypatch):
    deliver = runtime.deliver

    def deliver_wrong(result, array):
        deliver(result ^ result.dtype.type(1 << (8 * result.itemsize - 2)), array)

    monkeypatch.setattr(runtime, "deliver", deliver_wrong)
    lines = gpu_checks.check(runtime)
    assert lines
    assert not any(line["right"] for line in lines)


def test_times(runtime):
    layers = (
        gpu_report.Layer("small", "forward", (1, 5, 5, 8), (8, 8, 3, 3), {}),
        gpu_report.Layer("small", "weight_gradient", (1, 5, 5, 8), (8, 8, 3, 3), {}),
        gpu_report.Layer("small", "input_gradient", (1, 5, 5, 8), (8, 8, 3, 3), {}),
    )

    def clock(function, synchronize):
        function()
        synchronize()
        return 2.0

    lines = gpu_report.measure(runtime, layers, None, clock)
    assert len(lines) == 3 * 4 * 2
    assert all(line["gpuconv_ms"] == 2.0 and line["gpuconv_tflops"] > 0 for line in lines)
    assert runtime.launched
