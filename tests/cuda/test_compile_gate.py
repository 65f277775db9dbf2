"""Every kernel compiles for real GPUs: the simulator has no types, and accepts what a compiler refuses."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.xdist_group("compile gate")  # one compilation serves all tests here


def environment():
    """Return the environment of a process whose Numba finds the NVVM library of the wheel nvidia-cuda-nvcc-cu12."""
    found = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parents[1]), found.get("PYTHONPATH")]))
    spec = importlib.util.find_spec("nvidia")
    for folder in map(pathlib.Path, spec.submodule_search_locations or () if spec else ()):
        library = folder / "cuda_nvcc" / "nvvm" / "lib64"
        if library.is_dir():
            found["CUDA_HOME"] = str(folder / "cuda_nvcc")
            found["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(library), found.get("LD_LIBRARY_PATH")]))
    return found


@pytest.fixture(scope="session")
def compiled():
    if "CUDA_HOME" not in environment():
        pytest.skip("nvidia-cuda-nvcc-cu12 is not installed (gpuconv[gate] brings it, a compiler of its own version)")
    command = [sys.executable, str(HERE / "compile_gate.py")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 3:
        pytest.skip(f"{done.stdout.strip()} (gpuconv[gate] brings what it needs)")
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_compiles(compiled):
    assert len(compiled) > 30
    assert [row["kernel"] for row in compiled if not row["entry"]] == []


def test_only_kernels_of_doubles_compute_in_double(compiled):
    assert {row["kernel"] for row in compiled if row["double"] and "float64" not in row["kernel"]} == set()
    assert {row["double"] for row in compiled if "float64" in row["kernel"]} == {True}


def test_kernels_fit_the_machine(compiled):
    if not compiled[0]["targets"]:
        pytest.skip("no ptxas (gpuconv[gate] brings one)")
    for row in compiled:
        for found in row["targets"].values():
            assert "error" not in found, row
            assert found["spilled"] == 0, row
            assert found["shared"] <= 48 * 1024, row
            assert found["registers"] * row["threads"] <= 65536, row
