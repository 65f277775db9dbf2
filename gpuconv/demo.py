"""The demonstration, `python -m gpuconv.demo`: one photograph through the operations of a convolution's lecture.

It writes a contact sheet and prints the time of each operation beside `scipy.ndimage`'s for the same result.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import conv2d, conv_transpose2d, filters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["main"]

PHOTO = "chelsea.png"
_SECONDS = 0.4
_PAPER, _INK, _GREY = (250, 249, 246), (28, 30, 34), (112, 116, 122)
_MARGIN, _GAP, _CAPTION = 36, 24, 50


class Step(NamedTuple):
    """One operation on planes (channels, height, width), here and in SciPy."""

    title: str
    detail: str
    ours: Callable[[Array], Array]
    scipys: Callable[[Array], Array]


def steps() -> list[Step]:
    """Return the operations in the order of the contact sheet."""
    from scipy import ndimage

    def of(name: str, **arguments: Any) -> Callable[[Array], Array]:
        filter_ = filters.make(name, **arguments)
        return lambda x: filters.apply(filter_, x)

    def planewise(x: Array, weights: Array) -> Array:
        return ndimage.correlate(x, weights, mode="mirror", axes=(1, 2))  # type: ignore[no-any-return]

    def fixed(name: str) -> Callable[[Array], Array]:
        ((weights,),) = filters.make(name).branches
        return lambda x: planewise(x, weights)

    def sobel(x: Array) -> Array:
        return np.stack([np.hypot(*(ndimage.sobel(plane, axis, mode="mirror") for axis in (0, 1))) for plane in x])

    ((emboss,),) = filters.make("emboss").branches
    holes = np.zeros((9, 9))
    holes[::4, ::4] = emboss
    binomial = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256.0
    tent = np.outer([1, 2, 1], [1, 2, 1]) / 4.0

    def dilated(x: Array) -> Array:
        w = _weights(emboss, x)
        return conv2d(x[:, None], w, padding=4, dilation=4, padding_mode="mirror")[:, 0]  # type: ignore[no-any-return]

    def strided(x: Array) -> Array:
        w = _weights(binomial, x)
        return conv2d(x[:, None], w, stride=2, padding=2, padding_mode="mirror")[:, 0]  # type: ignore[no-any-return]

    def enlarged(x: Array) -> Array:
        w = _weights(tent, x)
        return conv_transpose2d(x[:, None, ::2, ::2], w, stride=2, padding=1)[:, 0]  # type: ignore[no-any-return]

    def enlarged_by_zeros(x: Array) -> Array:
        small = x[:, ::2, ::2]
        spread = np.zeros((len(x), 2 * small.shape[1] - 1, 2 * small.shape[2] - 1), x.dtype)
        spread[:, ::2, ::2] = small
        return ndimage.convolve(spread, tent, mode="constant", axes=(1, 2))  # type: ignore[no-any-return]

    return [
        Step("Identity", "1 x 1", of("identity"), fixed("identity")),
        Step(
            "Box blur",
            "9 x 9, separable",
            of("box", size=9),
            lambda x: ndimage.uniform_filter(x, 9, mode="mirror", axes=(1, 2)),
        ),
        Step(
            "Gaussian blur",
            "sigma 3, separable",
            of("gaussian", sigma=3.0),
            lambda x: ndimage.gaussian_filter(x, 3.0, mode="mirror", axes=(1, 2)),
        ),
        Step("Sharpen", "3 x 3", of("sharpen"), fixed("sharpen")),
        Step("Emboss", "3 x 3", of("emboss"), fixed("emboss")),
        Step("Sobel edges", "two 3 x 3 and their magnitude", of("sobel"), sobel),
        Step("Dilated", "emboss, dilation 4", dilated, lambda x: planewise(x, holes)),
        Step("Strided", "5 x 5 binomial, stride 2", strided, lambda x: planewise(x, binomial)[:, ::2, ::2]),
        Step("Transposed", "every other pixel, 3 x 3, stride 2", enlarged, enlarged_by_zeros),
    ]


def _weights(kernel: Array, x: Array) -> Array:
    return kernel.astype(x.dtype)[None, None]


def load(path: Path | None) -> Array:
    """Return a photograph as float32 planes, by default one that scikit-image's package carries."""
    from PIL import Image, ImageOps

    if path is None:
        package = importlib.util.find_spec("skimage")
        if package is None or package.origin is None:
            raise FileNotFoundError("the photograph comes with scikit-image: pip install scikit-image, or give --photo")
        path = Path(package.origin).parent / "data" / PHOTO
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.ascontiguousarray(np.moveaxis(np.asarray(upright), -1, 0), np.float32)


def best_time(function: Callable[[Array], Array], x: Array) -> float:
    """Return the least time of several calls, in seconds."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < 50):
        start = time.perf_counter()
        function(x)
        times.append(time.perf_counter() - start)
    return min(times)


def contact_sheet(results: Sequence[tuple[Step, Array]]) -> Any:
    """Return a Pillow image of labelled tiles, three in a row; a smaller result keeps its scale."""
    from PIL import Image, ImageDraw, ImageFont

    height = max(planes.shape[1] for _, planes in results)
    width = max(planes.shape[2] for _, planes in results)
    rows = -(-len(results) // 3)
    size = (2 * _MARGIN + 3 * width + 2 * _GAP, 2 * _MARGIN + rows * (height + _CAPTION) + (rows - 1) * _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(20), ImageFont.load_default(15)
    for index, (step, planes) in enumerate(results):
        left = _MARGIN + index % 3 * (width + _GAP)
        top = _MARGIN + index // 3 * (height + _CAPTION + _GAP)
        pixels = np.moveaxis(np.clip(np.rint(planes), 0, 255).astype(np.uint8), 0, -1)
        draw.rectangle((left, top, left + width - 1, top + height - 1), fill=(232, 230, 225))
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        sheet.paste(tile, (left + (width - tile.width) // 2, top + (height - tile.height) // 2))
        draw.text((left, top + height + 8), step.title, _INK, bold)
        detail = (
            f"{step.detail}: {planes.shape[2]} x {planes.shape[1]} pixels"
            if tile.size != (width, height)
            else step.detail
        )
        draw.text((left + width, top + height + 12), detail, _GREY, plain, anchor="ra")
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gpuconv.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo.png"), help="the contact sheet (%(default)s)")
    parser.add_argument("--photo", type=Path, help=f"a photograph in place of scikit-image's {PHOTO}")
    arguments = parser.parse_args(argv)
    try:
        x = load(arguments.photo)
    except (ImportError, OSError) as error:
        print(f"gpuconv.demo: {error}", file=sys.stderr)
        return 1
    todo = steps()
    results = [(step, step.ours(x)) for step in todo]
    print(f"{x.shape[2]} x {x.shape[1]} pixels, {x.shape[0]} channels, float32, border 'mirror'; best of several runs")
    print(f"{'':16}{'gpuconv':>12}{'scipy.ndimage':>16}{'speed-up':>11}{'difference':>13}")
    for step, planes in results:
        ours, theirs = best_time(step.ours, x), best_time(step.scipys, x)
        difference = float(np.abs(planes - step.scipys(x)).max())
        print(f"{step.title:16}{ours * 1e3:9.2f} ms{theirs * 1e3:13.2f} ms{theirs / ours:10.1f}x{difference:13.1g}")
    print("difference: the largest between the two results, where white is 255; SciPy computes in float64")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(results).save(arguments.output)
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
