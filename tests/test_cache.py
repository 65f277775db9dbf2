"""The compile cache: a second process compiles no kernel again, and a new shape compiles nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import python

pytestmark = pytest.mark.xdist_group("cache")  # one cold process serves all tests here

_WORK = '''
import numpy as np
from numba.core import event

class Compiled(event.Listener):
    """Names of gpuconv's functions that Numba compiled, as opposed to loaded from its cache."""
    def __init__(self):
        self.names = []
    def on_start(self, found):
        function = found.data["dispatcher"].py_func
        if function.__module__.startswith("gpuconv"):
            self.names.append(f"{function.__module__}.{function.__qualname__}")
    def on_end(self, found):
        pass

compiled = Compiled()
event.register("numba:compile", compiled)

import gpuconv
from gpuconv.backends.cpu import ALGORITHMS

def work(size, channels, kernel):
    for rank in (1, 2, 3):
        x = np.ones((2, channels) + (size,) * rank, np.float32)
        w = np.ones((channels + 1, channels) + (kernel,) * rank, np.float32)
        y = getattr(gpuconv, f"conv{rank}d")(x, w, padding=1, algorithm="direct")
        getattr(gpuconv, f"conv_transpose{rank}d")(y, w, stride=2, algorithm="direct")
        getattr(gpuconv.grad, f"conv{rank}d_input")(x.shape, w, y, padding=1, algorithm="direct")
        getattr(gpuconv.grad, f"conv{rank}d_weight")(x, w.shape, y, padding=1, algorithm="direct")
    for mode in ("nearest", "symmetric", "mirror", "wrap"):
        image = np.ones((1, channels, 2 * size, size), np.float32)
        depthwise = np.ones((channels, 1, kernel, kernel), np.float32)
        gpuconv.conv2d(image, depthwise, None, 2, kernel, 2, channels, padding_mode=mode, algorithm="direct")
    view = np.ones((2, 6 * size, size, 2 * channels), np.float32)[:, ::-3, :, ::2]
    w = np.ones((2, channels, kernel, kernel), np.float32)
    gpuconv.conv2d(view, w, padding=1, layout="channels_last", algorithm="direct")

def layer(size, channels):
    """A 3x3 layer by every algorithm that serves it; too few channels for Winograd, which has a kernel a tile size."""
    x, w = np.ones((1, channels, size, size), np.float32), np.ones((8, channels, 3, 3), np.float32)
    for name in ALGORITHMS:
        try:
            gpuconv.conv2d(x, w, padding=1, backend="cpu", algorithm=name)
        except gpuconv.UnsupportedError:
            pass

# Few and many channels, small and large maps: what an algorithm has more than one kernel for.
work(9, 3, 3)
work(9, 9, 3)
for size in (8, 40):
    for channels in (1, 8):
        layer(size, channels)
print(len(compiled.names), *compiled.names)
'''

_MORE = """
before = len(compiled.names)
for size, channels, kernel in ((5, 1, 1), (16, 4, 2), (17, 17, 3), (33, 2, 5)):
    work(size, channels, kernel)
for size, channels in ((9, 10), (45, 12), (63, 1)):
    layer(size, channels)
print(len(compiled.names) - before, *compiled.names[before:])
"""


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An own cache folder, and how many kernels a first process compiled into it."""
    folder = tmp_path_factory.mktemp("numba-cache")
    return folder, int(python(_WORK, timeout=400, NUMBA_CACHE_DIR=str(folder)).split()[0])


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_cold_process_compiles_into_the_cache(cold: tuple[Path, int]) -> None:
    """Without this the next test could pass by listening to the wrong event, or to nothing."""
    folder, count = cold
    assert count > 0
    assert files(folder)


def test_a_second_process_compiles_nothing(cold: tuple[Path, int]) -> None:
    folder, _ = cold
    before = files(folder)
    count, *names = python(_WORK, NUMBA_CACHE_DIR=str(folder)).split()
    assert (int(count), names) == (0, [])
    assert files(folder) == before


def test_a_new_shape_in_a_warm_process_compiles_nothing(cold: tuple[Path, int]) -> None:
    folder, _ = cold
    first, more = python(_WORK + _MORE, timeout=300, NUMBA_CACHE_DIR=str(folder)).splitlines()
    assert first.split()[0] == "0"
    assert more == "0"
