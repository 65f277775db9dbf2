"""Narrower vectors than the host's: kernels are compiled for what Numba's environment variables name."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment

from gpuconv.backends.cpu import simd

pytestmark = pytest.mark.xdist_group("targets")  # one after the other: each compiles every kernel

_AVX2 = "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
TARGETS = {"haswell": (_AVX2, 256), "x86-64": ("+sse,+sse2", 128)}

# Cases that reach each algorithm's remainders, borders and strides.
_CASES = "channels-17-to-17-1d or width-33-stride-2 or width-33-2d or width-63-image or depthwise or resnet-3x3-down"


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_registry_on(target: str) -> None:
    features, bits = TARGETS[target]
    if platform.machine() != "x86_64":
        pytest.skip(f"the target {target} is of x86_64, and this machine's processor is not")
    if simd.vector_bits() <= bits:
        pytest.skip(f"the whole suite runs with vectors of {simd.vector_bits()} bits here")
    variables = {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": features, "PYTHONPATH": str(Path(__file__).parent)}
    check = f"from gpuconv.backends.cpu import simd; raise SystemExit(simd.vector_bits() != {bits})"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
        str(Path(__file__).with_name("test_registry.py")), "-k", f"test_every_problem and cpu and ({_CASES})",
    ]  # fmt: skip
    surroundings = environment(**variables)
    subprocess.run([sys.executable, "-c", check], env=surroundings, check=True)
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 20
