"""The raw kernels on the host: their source files built by g++, run under its sanitizers in their own process."""

import os
import subprocess
import sys
from pathlib import Path

import host_build
import pytest

FOLDER = Path(__file__).parent / "emulated"
ROOT = FOLDER.parents[2]
pytestmark = pytest.mark.xdist_group("host emulation")  # one build serves all tests here

if host_build.compiler() is None:
    pytest.skip("no C++ compiler (g++) to build the raw kernels for the host with", allow_module_level=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    sanitize = host_build.sanitizer_library() is not None
    return host_build.build(host_build.BUILT, tmp_path_factory.mktemp("kernels"), sanitize=sanitize)


def environment(**variables):
    """Return the environment of a process that can load a library built with the sanitizers."""
    found = {**os.environ, **variables, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    sanitizer = host_build.sanitizer_library()
    if sanitizer is not None:
        found["LD_PRELOAD"] = sanitizer
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH")]))
    return found


def test_kernels_on_the_host(library):
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(FOLDER),
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    done = subprocess.run(
        command, env=environment(GPUCONV_HOST_KERNELS=str(library)), cwd=ROOT, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]


FAULTS = ("none", "no_wait", "no_barrier", "misaligned", "missed_barrier", "diverged", "beyond")
WORDS = {
    "misaligned": "not a multiple of 16",
    "missed_barrier": "wait for others that never come",
    "diverged": "meet in different instructions",
    "beyond": "AddressSanitizer",
}
RUN = """
import ctypes, sys
import numpy as np
run = ctypes.CDLL(sys.argv[1]).run
x, y = np.arange(256, dtype=np.float32), np.zeros(64, np.float32)
run(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), int(sys.argv[2]), int(sys.argv[3]))
print("right" if np.array_equal(y, np.roll(x[::4], -33)) else "wrong")
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    sanitize = host_build.sanitizer_library() is not None
    folder = tmp_path_factory.mktemp("faults")
    return host_build.compile_library(host_build.HERE / "faults.cu", folder / "faults.so", sanitize=sanitize)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_emulation_shows_a_fault(faults, fault):
    if fault == "beyond" and host_build.sanitizer_library() is None:
        pytest.skip("the compiler has no address sanitizer")
    outcomes = []
    for backwards in "01":
        command = [sys.executable, "-c", RUN, str(faults), str(FAULTS.index(fault)), backwards]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, check=False)
        outcomes.append(done)
    if fault in WORDS:
        assert all(done.returncode != 0 and WORDS[fault] in done.stderr for done in outcomes), outcomes
    else:
        # A missing barrier shows in at least one of the two orders.
        assert all(done.returncode == 0 for done in outcomes), outcomes
        assert all("right" in done.stdout for done in outcomes) == (fault == "none"), outcomes
