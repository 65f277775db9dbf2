"""The tests of this folder run in the process that `tests/host_cuda/test_emulation.py` starts."""

import os
import sys
from pathlib import Path

import pytest

LIBRARY = os.environ.get("GPUCONV_HOST_KERNELS")
collect_ignore_glob = [] if LIBRARY else ["test_*.py"]
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]


@pytest.fixture
def runtime():
    from host_build import HostRuntime

    return HostRuntime(LIBRARY)


@pytest.fixture(autouse=True)
def built_tiles(monkeypatch):
    """Leave the choice among the kernels that are built for the host."""
    from host_build import DEPTHWISE, KERNELS

    from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
    from gpuconv.backends.cuda import raw_depthwise

    def tiles_of(*which):
        return tuple(kernel.tile for kernel in KERNELS if kernel[:3] == which)

    def kernel_of(*arguments, chosen=raw_depthwise.kernel_of):
        kernel = chosen(*arguments)
        return kernel if kernel in DEPTHWISE else kernel._replace(taps=0)

    monkeypatch.setattr(geometry, "tiles_of", tiles_of)
    monkeypatch.setattr(raw_depthwise, "kernel_of", kernel_of)
    geometry.launches.cache_clear()
    yield
    geometry.launches.cache_clear()
