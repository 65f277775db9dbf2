"""Means of bytes: sums in 16 bits and in fixed point, which are SciPy's to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from support import rng

from gpuconv import ndimage
from gpuconv.backends.cpu import byte_tiles
from gpuconv.backends.cpu.row_sums import MOST_BYTES, whole_divisor
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call, choose
from gpuconv.factors import Factors
from gpuconv.problem import ConvProblem

scipy_ndimage = pytest.importorskip("scipy.ndimage")

SHAPES = ((7, 9), (40, 50), (33, 64), (90, 300), (2, 70, 33))


def names(mode: str) -> str:
    return {"zeros": "constant", "symmetric": "reflect"}.get(mode, mode)


def pictures(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return noise, equal bytes, ramps, black with white dots, and few values: what sums come out whole of."""
    generator = rng(f"bytes {shape}")
    rows, columns = np.indices(shape)[-2:]
    return {
        "noise": generator.integers(0, 256, shape, dtype=np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "equal": np.full(shape, 7, np.uint8),
        "ramp": ((rows + 2 * columns) // 3 % 256).astype(np.uint8),
        "dots": np.where(generator.random(shape) < 0.1, 255, 0).astype(np.uint8),
        "bits": generator.integers(0, 2, shape, dtype=np.uint8),
    }


def in_passes(x: np.ndarray, vectors: tuple[np.ndarray, ...], mode: str) -> np.ndarray:
    """Return what float64 sums along one axis and then the other make of an image, without fractions between."""
    for axis, w in zip((-2, -1), vectors, strict=True):
        before = w.size // 2
        pad = [(0, 0)] * x.ndim
        pad[axis] = before, w.size - 1 - before
        how = {"zeros": "constant", "nearest": "edge", "mirror": "reflect"}.get(mode, mode)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad, mode=how), w.size, axis)
        x = np.trunc(windows.astype(np.float64) @ w).astype(np.uint8)
    return x


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_means_are_exact(shape: tuple[int, ...], mode: str) -> None:
    for name, x in pictures(shape).items():
        for k in (2, 3, 4, 5, 9, 11, 16, 17, 64, 129, 200, 255, 256, 257, 258):
            for size in ((k, k), (3, k), (k, 2)):
                size = (*(1,) * (x.ndim - 2), *size)
                ours = ndimage.uniform_filter(x, size, mode=names(mode))
                wanted = scipy_ndimage.uniform_filter(x, size, mode=names(mode))
                np.testing.assert_array_equal(ours, wanted, err_msg=f"{name} {size}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussians_are_those_of_float64(shape: tuple[int, ...], mode: str) -> None:
    for name, x in pictures(shape).items():
        for sigma in ((0.3, 0.5), (1, 1), (1.3, 0.7), (2, 3.3), (5, 1), (8, 12), (20, 31)):
            ours = ndimage.gaussian_filter(x, (*(0,) * (x.ndim - 2), *sigma), mode=names(mode))
            vectors = []
            for width in sigma:
                place = np.arange(-int(4 * width + 0.5), int(4 * width + 0.5) + 1)
                w = np.exp(-0.5 * (place / width) ** 2)
                # What equal bytes lose by rounding of the weights is no reason for one less.
                vectors.append(w / w.sum() * (1 + (w.size + 8) * 2.0**-53))
            np.testing.assert_array_equal(ours, in_passes(x, tuple(vectors), mode), err_msg=f"{name} {sigma}")


@pytest.mark.parametrize("reach", [16, 40])
def test_weights_too_small_for_fixed_point(reach: int) -> None:
    """What they leave missing of white beside black may make the difference of one."""
    x = np.zeros((70, 200), np.uint8)
    x[:, 100:] = 255
    place = np.arange(-reach, reach + 1)
    w = np.exp(-0.5 * (place / 2.0) ** 2)
    w = w / w.sum() * (1 + (w.size + 8) * 2.0**-53)
    ours = ndimage.gaussian_filter(x, 2, radius=reach, mode="nearest")
    np.testing.assert_array_equal(ours, in_passes(x, (w, w), "nearest"))
    assert (ours[:, 110:115] == 254).any()


@pytest.mark.parametrize("taps", [2, 3, 4, 5, 8, 9, 40])
def test_sums_near_a_whole_number_are_taken_again(taps: int) -> None:
    """Weights that are a little less than 1 together, lopsided or not: equal bytes become one less, as in float64."""
    even, lopsided = np.full(taps, (1 - 1e-11) / taps), np.arange(1.0, taps + 1)
    lopsided *= (1 - 1e-12) / lopsided.sum()
    x = np.vstack([np.full((40, 90), 200, np.uint8), pictures((41, 90))["noise"], pictures((30, 90))["bits"]])
    padding = ((taps // 2, taps - 1 - taps // 2),) * 2
    problem = ConvProblem.make((1, 1, *x.shape), (1, 1, taps, taps), padding=padding, padding_mode="nearest")
    for vector in (even, lopsided, lopsided[::-1]):
        factors = Factors(((vector, vector),), is_whole=True)
        call = Call(problem, "forward", "uint8", factored=factors.described, sums="float64", result="uint8")
        y = np.full((1, 1, *x.shape), 99, np.uint8)
        choose(call, "cpu", "separable").run(call, x[None, None], factors, y)
        wanted = in_passes(x, (vector, vector), "nearest")
        np.testing.assert_array_equal(y[0, 0], wanted)
        assert (y[0, 0, :20] < 200).all()


def test_the_longest_weights_do_not_overflow() -> None:
    size = byte_tiles.MOST_TAPS // 2
    x = np.full((300, 310), 255, np.uint8)
    for sigma in (size / 4, 1e6):
        y = ndimage.gaussian_filter(x, sigma, radius=size, mode="nearest")
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("mode", MODES)
def test_pixels_of_bytes(mode: str, channels: int) -> None:
    x = rng(f"pixels {mode} {channels}").integers(0, 256, (60, 131, channels), dtype=np.uint8)
    for filter_, width in ((ndimage.gaussian_filter, 1.3), (ndimage.gaussian_filter, 6), (ndimage.uniform_filter, 15)):
        together = filter_(x, width, axes=(0, 1), mode=names(mode))
        planes = [filter_(np.ascontiguousarray(x[..., c]), width, mode=names(mode)) for c in range(channels)]
        np.testing.assert_array_equal(together, np.stack(planes, -1))


def test_quotients_of_sums_of_bytes() -> None:
    for length in range(2, MOST_BYTES + 1):
        factor, shift, by = map(int, whole_divisor(length))
        sums = np.arange(255 * length + 1)
        quotients = sums * factor >> 16 + shift
        # One less where the product is too large by one; it still has 16 bits then.
        assert (quotients * by < 1 << 16).all()
        np.testing.assert_array_equal(quotients - (quotients * by > sums), sums // length)
