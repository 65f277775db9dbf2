"""Filters of images by their names, whose weights `gpuconv.ndimage` makes and whose passes it joins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpuconv import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable

_FILTERS: dict[str, Callable[[Any, Any], Any]] = {
    "Gaussian, sigma 1": lambda x, y: ndimage.gaussian_filter(x, (1, 1, 0)[: x.ndim], out=y),
    "Gaussian, sigma 8": lambda x, y: ndimage.gaussian_filter(x, (8, 8, 0)[: x.ndim], out=y),
    "mean of 5": lambda x, y: ndimage.uniform_filter(x, (5, 5, 1)[: x.ndim], out=y),
    "mean of 101": lambda x, y: ndimage.uniform_filter(x, (101, 101, 1)[: x.ndim], out=y),
    "Sobel": lambda x, y: ndimage.sobel(x, 1, out=y),
    "Laplacian": lambda x, y: ndimage.laplace(x, axes=(0, 1), out=y),
}
_IMAGES = {"grey": (1024, 1024), "colours": (1024, 1024, 3), "small": (32, 32)}


class Filters:
    """Time of one filter of one kind of image."""

    param_names: ClassVar = ["filter", "image", "dtype"]
    params: ClassVar = (list(_FILTERS), list(_IMAGES), ["float32", "float64", "uint8"])

    def setup(self, name: str, image: str, dtype: str) -> None:
        x = np.random.default_rng(0).uniform(0, 256, _IMAGES[image]).astype(dtype)
        y = np.empty_like(x)
        self.call = lambda: _FILTERS[name](x, y)
        self.call()

    def time_call(self, *_: str) -> None:
        self.call()
