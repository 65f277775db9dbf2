"""The tests of this folder run in Numba's simulator, in the process that `tests/cuda/test_simulator.py` starts."""

import sys
from pathlib import Path

import numba
import pytest

import gpuconv

HERE = Path(__file__).parent
collect_ignore_glob = [] if numba.config.ENABLE_CUDASIM else ["*.py"]

if numba.config.ENABLE_CUDASIM:
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import strict

    strict.install()
    backend = Path(gpuconv.__file__).parent / "backends" / "cuda"
    strict.Lines.watch(path for path in backend.glob("*.py") if "launch.compile_" in path.read_text())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test of what the others ran last."""
    items.sort(key=lambda item: item.path.name == "test_coverage.py")
