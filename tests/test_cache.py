"""The compile cache: a second process compiles no kernel again, and a new shape compiles nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import python

_WORK = """
import numpy as np
from numba.core import event

class Compiled(event.Listener):
    '''Names of gpuconv's functions that Numba compiled, as opposed to loaded from its cache.'''
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

def work(size, channels, kernel, dtype):
    for rank in (1, 2, 3):
        x = np.ones((2, channels) + (size,) * rank, dtype)
        w = np.ones((channels + 1, channels) + (kernel,) * rank, dtype)
        y = getattr(gpuconv, f"conv{rank}d")(x, w, padding=1)
        getattr(gpuconv, f"conv_transpose{rank}d")(y, w, stride=2)
        getattr(gpuconv.grad, f"conv{rank}d_input")(x.shape, w, y, padding=1)
        getattr(gpuconv.grad, f"conv{rank}d_weight")(x, w.shape, y, padding=1)
    for mode in ("nearest", "symmetric", "mirror", "wrap"):
        image, depthwise = np.ones((1, channels, 2 * size, size), dtype), np.ones((channels, 1, kernel, kernel), dtype)
        gpuconv.conv2d(image, depthwise, None, 2, kernel, 2, channels, padding_mode=mode)
    view = np.ones((2, 6 * size, size, 2 * channels), dtype)[:, ::-3, :, ::2]
    gpuconv.conv2d(view, np.ones((2, channels, kernel, kernel), dtype), padding=1, layout="channels_last")

work(9, 3, 3, np.float32)
print(len(compiled.names), *compiled.names)
"""

_MORE = """
before = len(compiled.names)
for size, channels, kernel in ((5, 1, 1), (16, 4, 2), (17, 17, 3), (33, 2, 5)):
    work(size, channels, kernel, np.float32)
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
