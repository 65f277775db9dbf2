"""What `gpuconv bench --functions` measures: each function of `ndimage` and `signal` on images of growing size."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from gpuconv.benchmark_cases import Case, Runs
from gpuconv.workload import random_array

__all__ = ["FUNCTIONS", "SIZES"]

SIZES = (512, 1024, 2048, 4096, 8192)

_COLUMN = random_array((9,), "float32", 1) + 1.5
_KERNEL = random_array((5, 5), "float32", 1)
_LARGE = random_array((31, 31), "float32", 1)

_Call = Callable[[Any, Any], Any]

# The call, of our module and of SciPy's; OpenCV's, given cv2 and its default border, where it has one; and the
# multiplications of the definition for each element.
_CALLS: dict[str, tuple[str, _Call, _Call | None, int]] = {
    "correlate 5x5": (
        "ndimage", lambda m, x: m.correlate(x, _KERNEL, mode="mirror"), lambda cv2, x: cv2.filter2D(x, -1, _KERNEL), 25
    ),
    "convolve 5x5": (
        "ndimage", lambda m, x: m.convolve(x, _KERNEL, mode="mirror"),
        lambda cv2, x: cv2.filter2D(x, -1, _KERNEL[::-1, ::-1].copy()), 25,
    ),
    "correlate1d 9": (
        "ndimage", lambda m, x: m.correlate1d(x, _COLUMN, 0, mode="mirror"),
        lambda cv2, x: cv2.filter2D(x, -1, _COLUMN[:, None]), 9,
    ),
    "convolve1d 9": (
        "ndimage", lambda m, x: m.convolve1d(x, _COLUMN, 1, mode="mirror"),
        lambda cv2, x: cv2.filter2D(x, -1, _COLUMN[None, ::-1].copy()), 9,
    ),
    "gaussian_filter 2": (
        "ndimage", lambda m, x: m.gaussian_filter(x, 2, mode="mirror"), lambda cv2, x: cv2.GaussianBlur(x, (17, 17), 2),
        34,
    ),
    "gaussian_filter1d 2": (
        "ndimage", lambda m, x: m.gaussian_filter1d(x, 2, 1, mode="mirror"),
        lambda cv2, x: cv2.GaussianBlur(x, (17, 1), 2), 17,
    ),
    "uniform_filter 9": (
        "ndimage", lambda m, x: m.uniform_filter(x, 9, mode="mirror"), lambda cv2, x: cv2.blur(x, (9, 9)), 18
    ),
    "uniform_filter1d 9": (
        "ndimage", lambda m, x: m.uniform_filter1d(x, 9, 0, mode="mirror"), lambda cv2, x: cv2.blur(x, (1, 9)), 9
    ),
    "sobel": ("ndimage", lambda m, x: m.sobel(x, 1, mode="mirror"), lambda cv2, x: cv2.Sobel(x, -1, 1, 0), 6),
    "prewitt": ("ndimage", lambda m, x: m.prewitt(x, 1, mode="mirror"), None, 6),
    "laplace": ("ndimage", lambda m, x: m.laplace(x, mode="mirror"), lambda cv2, x: cv2.Laplacian(x, -1), 6),
    "gaussian_laplace 2": ("ndimage", lambda m, x: m.gaussian_laplace(x, 2, mode="mirror"), None, 68),
    "gaussian_gradient_magnitude 2": (
        "ndimage", lambda m, x: m.gaussian_gradient_magnitude(x, 2, mode="mirror"), None, 68
    ),
    "convolve2d 5x5": ("signal", lambda m, x: m.convolve2d(x, _KERNEL, "same"), None, 25),
    "correlate2d 5x5": ("signal", lambda m, x: m.correlate2d(x, _KERNEL, "same"), None, 25),
    "fftconvolve 31x31": ("signal", lambda m, x: m.fftconvolve(x, _LARGE, "same"), None, 961),
    "oaconvolve 31x31": ("signal", lambda m, x: m.oaconvolve(x, _LARGE, "same"), None, 961),
}  # fmt: skip


def _case(name: str, size: int) -> Case:
    module, call, opencvs, products = _CALLS[name]

    def prepare(modules: dict[str, Any]) -> Runs:
        image = random_array((size, size), "float32")
        runs: Runs = {"gpuconv": functools.partial(call, importlib.import_module(f"gpuconv.{module}"), image)}
        if "scipy" in modules:
            runs["scipy"] = functools.partial(call, importlib.import_module(f"scipy.{module}"), image)
        if "opencv" in modules and opencvs is not None:
            runs["opencv"] = functools.partial(opencvs, modules["opencv"], image)
        return runs

    return Case(f"{size}x{size}", name, 2.0 * products * size * size, prepare)


FUNCTIONS = tuple(_case(name, size) for size in SIZES for name in _CALLS)
