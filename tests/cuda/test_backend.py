"""What holds of the CUDA backend without a GPU and outside the simulator."""

import os
import subprocess
import sys

import numpy as np
import pytest
from problems import CASES
from support import DTYPES, OPERATIONS, reachable

import gpuconv
from gpuconv import benchmark_cuda, cli, dispatch, tuning_cuda
from gpuconv.backends import cuda
from gpuconv.backends.cuda import direct
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

NO_GPU = cuda.unavailable() is not None
needs_no_gpu = pytest.mark.skipif(not NO_GPU, reason="this process can run CUDA kernels")


@needs_no_gpu
def test_backend_without_a_gpu_raises_and_says_what_to_install():
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    with pytest.raises(gpuconv.BackendUnavailableError, match=r"NVIDIA driver") as error:
        gpuconv.conv1d(x, w, backend="cuda")
    assert "NUMBA_ENABLE_CUDASIM=1" in str(error.value)


@needs_no_gpu
def test_explain_gives_the_reason():
    rows = gpuconv.explain(gpuconv.conv1d, np.ones((1, 1, 4)), np.ones((1, 1, 2))).rows
    assert {row.reason for row in rows if row.backend == "cuda"} == {cuda.unavailable()}


@pytest.mark.parametrize("name", tuning_cuda.CUDA_DEVICES)
def test_explain_for_a_named_gpu_needs_none(name):
    x, w = np.ones((1, 8, 20, 20), np.float32), np.ones((8, 8, 3, 3), np.float32)
    explanation = gpuconv.explain(gpuconv.conv2d, x, w, padding=1, device=name)
    rows = [row for row in explanation.rows if row.backend == "cuda"]
    assert [row.algorithm for row in rows] == list(cuda.ALGORITHMS)
    assert rows[0].reason is None
    assert explanation.chosen.backend == "cuda"
    assert 0 < explanation.chosen.seconds < 1


def test_a_faster_gpu_takes_less_time():
    x, w = np.ones((8, 64, 56, 56), np.float32), np.ones((64, 64, 3, 3), np.float32)
    seconds = [
        gpuconv.explain(gpuconv.conv2d, x, w, padding=1, algorithm="direct", device=name).chosen.seconds
        for name in ("h200", "a100", "t4")
    ]
    assert seconds == sorted(seconds)


CHOICES = (
    ("implicit_gemm", (8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, "float32"),
    ("implicit_gemm", (8, 64, 56, 56), (128, 64, 3, 3), {"padding": 1, "stride": 2}, "float64"),
    ("stencil", (1, 1, 2048, 2048), (1, 1, 3, 3), {"padding": 1}, "uint8"),
    ("raw_stencil", (1, 1, 2048, 2048), (1, 1, 31, 31), {"padding": 15}, "float32"),
    ("raw_stencil", (8, 96, 56, 56), (96, 1, 7, 7), {"padding": 3, "groups": 96}, "float32"),
    ("direct", (8, 96, 56, 56), (96, 1, 3, 3), {"stride": 2, "groups": 96}, "float32"),
    ("direct", (8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, "complex64"),
)


@pytest.mark.parametrize(("algorithm", "x", "w", "arguments", "dtype"), CHOICES)
def test_choices_for_an_h200(algorithm, x, w, arguments, dtype):
    call = Call(ConvProblem.make(x, w, **arguments), "forward", dtype)
    assert dispatch.explain(call, "cuda", device_name="h200").chosen.algorithm == algorithm


def test_explain_refuses_unknown_gpus():
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    with pytest.raises(gpuconv.UnsupportedError, match="device='h300' is unknown; valid are 't4'"):
        gpuconv.explain(gpuconv.conv1d, x, w, device="h300")
    with pytest.raises(gpuconv.UnsupportedError, match="device='h200' names a GPU; backend 'cpu' has none"):
        gpuconv.explain(gpuconv.conv1d, x, w, backend="cpu", device="h200")


@pytest.mark.parametrize(
    ("devices", "package", "expected"),
    [
        (None, True, 'pip install "gpuconv[cuda12]"'),
        (0, True, "reports no GPU"),
        (1, False, '"gpuconv[cuda13]"'),
        (1, True, None),
    ],
)
def test_unavailable(monkeypatch, devices, package, expected):
    monkeypatch.setattr(cuda, "_simulated", lambda: False)
    monkeypatch.setattr(cuda, "_count_devices", lambda: devices)
    monkeypatch.setattr(cuda, "_import_failure", lambda: None)
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: object() if package else None)
    reason = cuda.unavailable()
    assert reason is None if expected is None else expected in reason


def test_unavailable_where_numba_cuda_lacks_its_libraries(monkeypatch):
    def fail(name):
        raise RuntimeError("no libcudart")

    monkeypatch.setattr(cuda.importlib, "import_module", fail)
    assert "no libcudart" in cuda._import_failure.__wrapped__()


def test_asking_for_the_backend_imports_no_numba():
    code = "import sys; from gpuconv.backends import cuda; cuda.unavailable(); sys.exit('numba' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("tile", [*sum(tuning_cuda.CUDA_DIRECT_TILES.values(), ()), *tuning_cuda.CUDA_SIMULATOR_TILES])
def test_tiles_are_consistent(tile):
    assert tile.positions % tile.positions_per_thread == 0
    assert tile.outputs % tile.outputs_per_thread == 0
    assert tile.staged >= tile.depth * tile.positions


@pytest.mark.parametrize("tiles", tuning_cuda.CUDA_DIRECT_TILES.values(), ids=tuning_cuda.CUDA_DIRECT_TILES)
def test_every_problem_gets_a_tile_that_fits(tiles):
    rng = np.random.default_rng(0)
    for _ in range(60):
        rank = int(rng.integers(1, 4))
        kernel = tuple(int(k) for k in rng.integers(1, 12, rank))
        dilation = tuple(int(d) for d in rng.integers(1, 40, rank))
        spatial = tuple(int(n) for n in rng.integers(1, 60, rank))
        arguments = {
            "stride": int(rng.integers(1, 5)),
            "padding": [d * k for d, k in zip(dilation, kernel, strict=True)],
        }
        problem = ConvProblem.make((2, 4, *spatial), (8, 4, *kernel), dilation=dilation, **arguments)
        for computed in (problem, problem.on_padded().adjoint()):
            for phase in computed.all_phases:
                counts, advances = tuple(a.count for a in phase), tuple(a.advance for a in phase)
                spans = tuple(a.taps[-1][1] - a.taps[0][1] if a.taps else 0 for a in phase)
                taps = int(np.prod([len(a.taps) for a in phase]))
                tiling = direct._tiling(counts, advances, spans, taps, 8, tiles)
                assert np.prod(tiling.size) <= tiling.tile.positions
                assert not tiling.halo or np.prod(tiling.extent) <= tiling.tile.staged
                assert not tiling.halo or sum(tiling.extent) <= tiling.tile.axis_table


def test_tiling_stages_a_dense_halo_once_and_a_sparse_one_tap_by_tap():
    tiles = tuning_cuda.CUDA_DIRECT_TILES[4]
    assert direct._tiling((1, 56, 56), (1, 1, 1), (0, 2, 2), 9, 64, tiles).halo
    assert not direct._tiling((1, 56, 56), (1, 1, 1), (0, 200, 200), 9, 64, tiles).halo


@pytest.mark.parametrize("case", benchmark_cuda.CASES, ids=lambda case: f"{case.group} {case.name}")
def test_benchmark_cases_are_served(case):
    call = case.work.problem
    assert case.flops > 0
    assert len(case.name) <= 34
    operation = {"grad.conv2d_input": "input_gradient", "grad.conv2d_weight": "weight_gradient"}.get(case.work.function)
    operation = operation or ("transposed" if "transpose" in case.work.function else "forward")
    found = dispatch.explain(Call(call, operation, "float32"), "cuda", device_name="h200")
    assert found.chosen is not None


@needs_no_gpu
def test_the_benchmark_says_why_it_cannot_run(capsys):
    assert cli.main(["bench", "--backend", "cuda"]) == 2
    assert cuda.unavailable() in capsys.readouterr().err
    assert cli.main(["bench", "--backend", "cuda", "--group", "signals"]) == 2
    assert "valid are 3x3, 1x1" in capsys.readouterr().err


def test_direct_takes_everything_that_can_be_asked():
    device = cuda.named_device("a100")
    for case in CASES:
        for operation in OPERATIONS:
            if case.public and reachable(case.problem(), operation):
                for dtype in DTYPES:
                    assert direct.supports(Call(case.problem(), operation, dtype), device) is None
