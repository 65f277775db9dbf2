"""What `gpuconv bench` measures: the cases, each as a call of every library that has the operation."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from gpuconv.workload import Workload, random_array

__all__ = ["CASES", "GROUPS", "Case", "Runs"]

Runs = dict[str, Callable[[], Any]]
"""A call of each library, by its name, gpuconv's first."""


class Case(NamedTuple):
    """One line of the table."""

    group: str
    name: str
    flops: float
    prepare: Callable[[dict[str, Any]], Runs]
    """Makes the arrays and the calls, given the modules of the peers that are installed."""


# Layers of networks: gpuconv beside torch


def _layer(group: str, name: str, function: str, x: Any, w: Any, **arguments: Any) -> Case:
    work = Workload(function, x, w, arguments)
    return Case(group, name, work.problem.flops, functools.partial(_layer_runs, work))


def _layer_runs(work: Workload, modules: dict[str, Any]) -> Runs:
    runs: Runs = {"gpuconv": work.prepare("float32")}
    if "torch" in modules:
        torch = modules["torch"]
        module, _, name = work.function.rpartition(".")
        home = importlib.import_module("torch.nn.grad" if module == "grad" else "torch.nn.functional")
        positional = [a if isinstance(a, tuple) else torch.from_numpy(a) for a in work.positional("float32")]
        runs["torch"] = functools.partial(getattr(home, name), *positional, **work.arguments)
    return runs


# Filters of images and volumes: gpuconv.ndimage beside scipy.ndimage and OpenCV


def _image(
    name: str, shape: tuple[int, ...], taps: int, call: Any, opencvs: Any = None, dtype: str = "float32"
) -> Case:
    def prepare(modules: dict[str, Any]) -> Runs:
        image = random_array(shape, "float32") if dtype == "float32" else random_array(shape, dtype) * 36
        runs: Runs = {"gpuconv": functools.partial(call, importlib.import_module("gpuconv.ndimage"), image)}
        if "scipy" in modules:
            runs["scipy"] = functools.partial(call, importlib.import_module("scipy.ndimage"), image)
        if "opencv" in modules and opencvs is not None:
            runs["opencv"] = functools.partial(opencvs, modules["opencv"], image)
        return runs

    return Case("filters", name, 2.0 * taps * math.prod(shape), prepare)


def _correlate(name: str, shape: tuple[int, ...], size: int, *, dtype: str = "float32") -> Case:
    # A mean, so that 8-bit results need no clipping, over which the libraries differ.
    w = abs(random_array((size,) * len(shape), "float32", 1))
    w /= w.sum()

    def opencvs(cv2: Any, image: Any) -> Any:
        return cv2.filter2D(image, -1, w, borderType=cv2.BORDER_REFLECT_101)

    return _image(
        name, shape, w.size, lambda module, image: module.correlate(image, w, mode="mirror"),
        opencvs if len(shape) == 2 else None, dtype,
    )  # fmt: skip


def _gaussian(name: str, shape: tuple[int, ...], sigma: float, *, dtype: str = "float32") -> Case:
    size = 2 * int(4 * sigma + 0.5) + 1
    return _image(
        name, shape, 2 * size,
        lambda module, image: module.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], mode="mirror"),
        lambda cv2, image: cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101), dtype,
    )  # fmt: skip


def _box(name: str, shape: tuple[int, ...], size: int, *, dtype: str = "float32") -> Case:
    return _image(
        name, shape, 2 * size, lambda module, image: module.uniform_filter(image, size, mode="mirror"),
        lambda cv2, image: cv2.blur(image, (size, size), borderType=cv2.BORDER_REFLECT_101), dtype,
    )  # fmt: skip


def _laplace(name: str, shape: tuple[int, ...]) -> Case:
    return _image(
        name, shape, 5, lambda module, image: module.laplace(image, mode="mirror"),
        lambda cv2, image: cv2.Laplacian(image, -1, borderType=cv2.BORDER_REFLECT_101),
    )  # fmt: skip


def _sobel(name: str, shape: tuple[int, ...]) -> Case:
    return _image(
        name, shape, 6, lambda module, image: module.sobel(image, axis=1, mode="mirror"),
        lambda cv2, image: cv2.Sobel(image, -1, 1, 0, borderType=cv2.BORDER_REFLECT_101),
    )  # fmt: skip


# Signals: gpuconv.signal beside scipy.signal


def _signal(name: str, function: str, first: tuple[int, ...], second: tuple[int, ...], **arguments: Any) -> Case:
    def prepare(modules: dict[str, Any]) -> Runs:
        a, b = random_array(first, "float32"), random_array(second, "float32", 1)
        homes = {"gpuconv": "gpuconv.signal", **({"scipy": "scipy.signal"} if "scipy" in modules else {})}
        return {
            library: functools.partial(getattr(importlib.import_module(home), function), a, b, **arguments)
            for library, home in homes.items()
        }

    return Case("signals", name, 2.0 * math.prod(first) * math.prod(second), prepare)


CASES = (
    _layer("3x3", "48 to 64 channels, 80x80", "conv2d", (1, 48, 80, 80), (64, 48, 3, 3), padding=1),
    _layer("3x3", "96 channels, 40x40, batch 2", "conv2d", (2, 96, 40, 40), (96, 96, 3, 3), padding=1),
    _layer("3x3", "320 channels, 12x12", "conv2d", (1, 320, 12, 12), (320, 320, 3, 3), padding=1),
    _layer("1x1", "96 to 24 channels, 60x60", "conv2d", (1, 96, 60, 60), (24, 96, 1, 1)),
    _layer("1x1", "160 to 640 channels, 20x20", "conv2d", (1, 160, 20, 20), (640, 160, 1, 1)),
    _layer("strided", "7x7, 3 to 48 channels, 192x192", "conv2d", (1, 3, 192, 192), (48, 3, 7, 7), stride=2, padding=3),
    _layer(
        "strided", "3x3, 80 to 160 channels, 40x40", "conv2d", (1, 80, 40, 40), (160, 80, 3, 3), stride=2, padding=1
    ),
    _layer("strided", "3x3, 288 channels, 24x24", "conv2d", (1, 288, 24, 24), (288, 288, 3, 3), stride=2, padding=1),
    _layer("strided", "8x8 patches, 3 to 96 channels", "conv2d", (1, 3, 192, 192), (96, 3, 8, 8), stride=8),
    _layer("strided", "as large as the map, 48 to 160", "conv2d", (16, 48, 6, 6), (160, 48, 6, 6)),
    _layer(
        "dilated", "3x3, 96 channels, 40x40, by 2", "conv2d", (1, 96, 40, 40), (96, 96, 3, 3), dilation=2, padding=2
    ),
    _layer(
        "dilated", "3x3, 64 channels, 33x33, by 6", "conv2d", (1, 64, 33, 33), (64, 64, 3, 3), dilation=6, padding=6
    ),
    _layer("depthwise", "3x3, 120 channels, 60x60", "conv2d", (1, 120, 60, 60), (120, 1, 3, 3), padding=1, groups=120),
    _layer("depthwise", "5x5, 240 channels, 20x20", "conv2d", (1, 240, 20, 20), (240, 1, 5, 5), padding=2, groups=240),
    _layer("depthwise", "3x3, 480 channels, 10x10", "conv2d", (1, 480, 10, 10), (480, 1, 3, 3), padding=1, groups=480),
    _layer(
        "depthwise",
        "3x3, 72 channels, 90x90, by 2",
        "conv2d",
        (2, 72, 90, 90),
        (72, 1, 3, 3),
        stride=2,
        padding=1,
        groups=72,
    ),
    _layer("depthwise", "3x3, 20 groups of 8, 40x40", "conv2d", (1, 160, 40, 40), (160, 8, 3, 3), padding=1, groups=20),
    _layer("1-d and 3-d", "9 taps, 48 channels, 4000", "conv1d", (2, 48, 4000), (48, 48, 9), padding=4),
    _layer("1-d and 3-d", "3 taps, dilated, 64 channels", "conv1d", (4, 64, 1500), (64, 64, 3), dilation=8, padding=8),
    _layer("1-d and 3-d", "3x3x3, 24 channels, 16x40x40", "conv3d", (1, 24, 16, 40, 40), (24, 24, 3, 3, 3), padding=1),
    _layer(
        "1-d and 3-d", "3x1x1, 48 channels, 8x40x40", "conv3d", (1, 48, 8, 40, 40), (48, 48, 3, 1, 1), padding=(1, 0, 0)
    ),
    _layer(
        "transposed",
        "4x4, 96 to 48 channels, 24x24",
        "conv_transpose2d",
        (1, 96, 24, 24),
        (96, 48, 4, 4),
        stride=2,
        padding=1,
    ),
    _layer(
        "transposed", "2x2, 128 to 64 channels, 30x30", "conv_transpose2d", (1, 128, 30, 30), (128, 64, 2, 2), stride=2
    ),
    _layer(
        "gradients", "3x3 by x, 64 channels, 40x40", "grad.conv2d_input", (2, 64, 40, 40), (64, 64, 3, 3), padding=1
    ),
    _layer(
        "gradients", "3x3 by w, 64 channels, 40x40", "grad.conv2d_weight", (2, 64, 40, 40), (64, 64, 3, 3), padding=1
    ),
    _layer("gradients", "1x1 by w, 96 to 160, 20x20", "grad.conv2d_weight", (4, 96, 20, 20), (160, 96, 1, 1)),
    _correlate("3x3, 1600x1200", (1200, 1600), 3),
    _correlate("3x3 of 8-bit, 1600x1200", (1200, 1600), 3, dtype="uint8"),
    _correlate("9x9, 1600x1200", (1200, 1600), 9),
    _correlate("41x41, 800x600", (600, 800), 41),
    _correlate("5x5x5, 96x96x96", (96, 96, 96), 5),
    _gaussian("Gaussian of sigma 1.5, 1600x1200", (1200, 1600), 1.5),
    _gaussian("Gaussian of sigma 12, 1600x1200", (1200, 1600), 12.0),
    _gaussian("Gaussian 1.5, 8-bit, 1600x1200", (1200, 1600), 1.5, dtype="uint8"),
    _gaussian("Gaussian 1.5, 8-bit x 3, 1600x1200", (1200, 1600, 3), 1.5, dtype="uint8"),
    _box("box 15x15, 1600x1200", (1200, 1600), 15),
    _box("box 5x5 of 8-bit, 1600x1200", (1200, 1600), 5, dtype="uint8"),
    _laplace("Laplacian, 1600x1200", (1200, 1600)),
    _sobel("Sobel, 1600x1200", (1200, 1600)),
    _signal("convolve 200 000 with 60", "convolve", (200_000,), (60,), method="direct"),
    _signal("fftconvolve 150 000 with 9000", "fftconvolve", (150_000,), (9_000,)),
    _signal("oaconvolve 500 000 with 700", "oaconvolve", (500_000,), (700,)),
    _signal("correlate2d 500x500 with 15x15", "correlate2d", (500, 500), (15, 15), mode="same"),
)

GROUPS = tuple(dict.fromkeys(case.group for case in CASES))
