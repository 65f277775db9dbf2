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
    return host_build.build(host_build.KERNELS, tmp_path_factory.mktemp("kernels"), sanitize=sanitize)


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
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
