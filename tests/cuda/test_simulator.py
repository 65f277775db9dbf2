"""The simulator's tests, in a process of their own: Numba chooses between simulator and GPU when it is imported."""

import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent / "sim"
ROOT = FOLDER.parents[2]


def test_kernels_in_the_simulator():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "--no-header", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
