"""The line that says that kernels are compiled: once, on a cold cache only, and not where it is not wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import environment

_CALL = "import numpy as np, gpuconv; gpuconv.conv1d(np.ones((1, 9), np.int16), np.ones((2, 1, 3), np.int16))"


def errors(**variables: str) -> list[str]:
    """Return the lines on stderr of a process that computes."""
    done = subprocess.run(
        [sys.executable, "-c", _CALL], env=environment(**variables), capture_output=True, text=True, check=True,
        timeout=200,
    )  # fmt: skip
    return done.stderr.splitlines()


def test_a_cold_process_says_where_kernels_are_kept_and_a_warm_one_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    (line,) = errors(NUMBA_CACHE_DIR=str(folder), GPUCONV_QUIET="0")
    assert line.startswith("gpuconv: compiling kernels, once for this machine")
    assert line.endswith(f"kept in {folder}")
    assert errors(NUMBA_CACHE_DIR=str(folder), GPUCONV_QUIET="0") == []


def test_the_line_can_be_silenced(tmp_path: Path) -> None:
    assert errors(NUMBA_CACHE_DIR=str(tmp_path), GPUCONV_QUIET="1") == []
    assert list(tmp_path.rglob("*.nbi")), "nothing was compiled"
