"""The raw kernels compile for real GPUs, into the instructions that they are about."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment

pytestmark = pytest.mark.xdist_group("raw compile gate")  # one compilation serves all tests here


@pytest.fixture(scope="module")
def compiled():
    command = [sys.executable, str(Path(__file__).with_name("raw_gate.py"))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500, check=False)
    if done.returncode == 3:
        pytest.skip(f"{done.stdout.strip()} (the package nvidia-cuda-nvrtc-cu12 brings one)")
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernels_fit_the_machine(compiled):
    assert {row["target"] for row in compiled} == {"sm_80", "sm_90"}
    for row in compiled:
        assert row["spilled"] == 0, row
        assert row["registers"] <= 255, row
        # What compute capability 8.6, the smallest, gives a block.
        assert row["shared"] <= 99 * 1024, row


def test_kernels_use_the_tensor_cores(compiled):
    if "HMMA" not in compiled[0]:
        pytest.skip("no nvdisasm (the package nvidia-cuda-nvdisasm brings one)")
    for row in compiled:
        assert row["DFMA"] == 0, row
        if row["kernel"].startswith(("depthwise", "stencil")):
            assert row["wide_loads"] >= 4, row
            continue
        assert row["IMMA" if row["integer"] else "HMMA"] >= 8, row
        if row["reads"] == "vector":
            assert row["wide_loads"] >= 4, row
            assert row["LDGSTS"] >= 4, row
        if not row["kernel"].startswith("weight_gradient_TF32"):
            assert row["LDSM"] >= 4, row
