"""The precision policy of `gpuconv.ndimage.precision`: its bound, met by inputs chosen to be bad, and its ways out."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import ndimage
from gpuconv.ndimage import engine
from gpuconv.ndimage.precision import LARGEST_KERNEL, LONGEST_PASS, bound

sp = pytest.importorskip("scipy.ndimage")

SHAPE = (130, 140)


def images():
    """Return images of float32 whose sums round badly: equal numbers, one sign, alternating signs, far-apart sizes."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(SHAPE).astype("f4")
    chessboard = np.where(np.add.outer(*map(np.arange, SHAPE)) % 2, 1.1, -0.9).astype("f4")
    return {
        "equal": np.full(SHAPE, 0.1, "f4"),
        "positive": np.abs(noise) + np.float32(0.5),
        "alternating": chessboard,
        "far apart": (noise * 10.0 ** rng.uniform(-6, 3, SHAPE)).astype("f4"),
        "noise": noise,
    }


FILTERS = {
    "uniform 3": (lambda h, x, **k: h.uniform_filter(x, 3, **k), (3, 3), LONGEST_PASS),
    "uniform 127": (lambda h, x, **k: h.uniform_filter(x, 127, **k), (127, 127), LONGEST_PASS),
    "uniform 1001": (lambda h, x, **k: h.uniform_filter1d(x, 1001, axis=1, **k), (1001,), LONGEST_PASS),
    "uniform 20001": (lambda h, x, **k: h.uniform_filter1d(x, 20001, axis=0, mode="wrap", **k), (20001,), LONGEST_PASS),
    "Gaussian 1": (lambda h, x, **k: h.gaussian_filter(x, 1, **k), (9, 9), LONGEST_PASS),
    "Gaussian 15": (lambda h, x, **k: h.gaussian_filter(x, 15, **k), (121, 121), LONGEST_PASS),
    "Gaussian 200": (lambda h, x, **k: h.gaussian_filter(x, 200, **k), (1601, 1601), LONGEST_PASS),
    "box 9": (lambda h, x, **k: h.correlate(x, np.full((9, 9), 1 / 81), **k), (81,), LARGEST_KERNEL),
    "box 31": (lambda h, x, **k: h.correlate(x, np.full((31, 31), 1 / 961), **k), (961,), LARGEST_KERNEL),
    "box 61": (lambda h, x, **k: h.correlate(x, np.full((61, 61), 1 / 3721), **k), (3721,), LARGEST_KERNEL),
}


@pytest.mark.parametrize("name", FILTERS)
def test_the_bound(name):
    function, terms, limit = FILTERS[name]
    allowed = sum(bound(n, limit) for n in terms)
    for what, x in images().items():
        ours, theirs = function(ndimage, x), function(sp, x)
        assert ours.dtype == theirs.dtype == np.float32
        # The weights are positive and sum to 1, so the bound is relative to the largest number of the image.
        error = np.abs(ours.astype("f8") - theirs).max() / np.abs(x).max()
        assert error <= allowed, what


@pytest.mark.parametrize("name", FILTERS)
def test_highest_is_scipys_float64(name):
    function, _, _ = FILTERS[name]
    for what, x in images().items():
        ours, theirs = function(ndimage, x, precision="highest"), function(sp, x)
        # Both round each pass's float64 sums to float32; the two sums may fall on either side of a tie.
        np.testing.assert_allclose(
            ours, theirs, rtol=3e-7, atol=1e-7 * np.abs(x).max() if "far" in what else 0, err_msg=what
        )


def sums_of(monkeypatch, function, x, **arguments):
    """Return the dtypes that a call's sums were kept in."""
    seen = set()
    ready = engine.ready

    def record(*arguments):
        found = ready(*arguments)
        seen.add(found.sums.name)
        return found

    monkeypatch.setattr(engine, "ready", record)
    function(ndimage, x, **arguments)
    return seen


@pytest.mark.parametrize(
    ("name", "dtype", "arguments", "wanted"),
    [
        ("uniform 127", "f4", {}, {"float32"}),
        ("uniform 1001", "f4", {}, {"float32"}),  # by a transform
        ("uniform 1001", "f2", {}, {"float64"}),
        ("uniform 1001", "f2", {"dtype": "same"}, {"float32"}),
        ("uniform 3", "f4", {"precision": "highest"}, {"float64"}),
        ("uniform 3", "f4", {"precision": "highest", "dtype": "same"}, {"float32"}),
        ("uniform 3", "f4", {"output": "f8"}, {"float64"}),
        ("uniform 3", "u1", {}, {"float32"}),  # exact, as they are in float64
        ("uniform 3", "u1", {"output": "f4"}, {"float32"}),
        ("uniform 3", "i4", {}, {"float64"}),
        ("Gaussian 1", "u1", {}, {"float64"}),
        ("Gaussian 1", "u1", {"dtype": "same"}, {"float64"}),
        ("uniform 3", "u1", {"dtype": np.float32}, {"float32"}),
        ("uniform 3", "f4", {"dtype": "float64"}, {"float64"}),
    ],
)
def test_what_sums_are_kept_in(monkeypatch, name, dtype, arguments, wanted):
    x = (images()["positive"] * 10).astype(dtype)
    assert sums_of(monkeypatch, FILTERS[name][0], x, **arguments) == wanted


def test_same_sums_in_float32():
    x = np.full(3000, 0.1, "f4")
    error = [
        abs(float(ndimage.uniform_filter1d(x, 2001, mode="wrap", dtype=dtype, precision="highest")[5]) - x[0]) / 0.1
        for dtype in (None, "same")
    ]
    assert error[0] < 1e-7
    assert 1e-6 < error[1] < bound(2001, 2001)
    images8 = np.random.default_rng(0).integers(0, 256, (40, 50)).astype("u1")
    by_float32 = ndimage.gaussian_filter(images8, 2, output="f4", dtype="float32")
    np.testing.assert_allclose(by_float32, sp.gaussian_filter(images8, 2, output="f4"), rtol=2e-6)


@pytest.mark.parametrize("name", ["gaussian_filter", "gaussian_laplace", "gaussian_gradient_magnitude"])
def test_float16_gaussians_want_to_be_asked_for(name):
    x = images()["noise"].astype("f2")
    with pytest.raises(RuntimeError, match="dtype='same'"):
        getattr(ndimage, name)(x, 1.5)
    wanted = getattr(sp, name)(x.astype("f4"), 1.5)
    ours = getattr(ndimage, name)(x, 1.5, dtype="same")
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours, wanted, atol=4e-3 if name == "gaussian_laplace" else 2e-3)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4"])
def test_gaussians_of_equal_integers_are_those_integers(dtype):
    x = np.repeat(np.arange(-100 if np.dtype(dtype).kind == "i" else 0, 250), 130).astype(dtype).reshape(-1, 130)
    for sigma in (0.7, 1, 1.5, 2, 3, 4, 10):
        ours = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(x, sigma, 1), sigma, 1)
        np.testing.assert_array_equal(ours, x)


def test_integers_are_never_transformed():
    """A transform's 4.9999999 would become 4."""
    for dtype in ("i8", "u2"):
        x = np.random.default_rng(0).integers(0, 9, (200, 210)).astype(dtype)
        w = np.random.default_rng(1).integers(0, 5, (41, 37)).astype("f8")
        np.testing.assert_array_equal(ndimage.correlate(x, w, output="i8"), sp.correlate(x, w, output="i8"))


@pytest.mark.parametrize("dtype", [None, np.float32])
def test_gaussians_keep_equal_whole_numbers(dtype):
    for value in (0, 1, 7, 100, 255):
        for shape in ((40, 50), (200,)):
            x = np.full(shape, value, np.uint8)
            for sigma in (0.7, 1, 2, 4.3):
                np.testing.assert_array_equal(ndimage.gaussian_filter(x, sigma, dtype=dtype), x, err_msg=str(sigma))
