"""`gpuconv.ndimage` beside `scipy.ndimage`: the same values, dtypes and errors."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from gpuconv import ndimage
from gpuconv.ndimage import ready
from gpuconv.ndimage.smoothing import gaussian_weights

sp = pytest.importorskip("scipy.ndimage")

MODES = ("reflect", "constant", "nearest", "mirror", "wrap", "grid-mirror", "grid-constant", "grid-wrap")
SHAPES = {1: (11,), 2: (7, 9), 3: (4, 6, 5), 4: (3, 2, 4, 5)}


def image(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0 if dtype.kind in "ub" else -40, 2 if dtype.kind == "b" else 40, shape).astype(dtype)


def close(ours, theirs, terms):
    """Compare within the rounding of a sum of so many terms in the result's precision."""
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ours.dtype.kind in "iub":
        np.testing.assert_array_equal(ours, theirs)
    else:
        bound = 8 * terms * np.finfo(ours.dtype).eps * max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("name", ndimage.__all__)
def test_signatures_are_scipys(name):
    ours, theirs = inspect.signature(getattr(ndimage, name)), inspect.signature(getattr(sp, name))
    mine, added = [], []
    for p in ours.parameters.values():
        (mine if p.name in theirs.parameters else added).append((p.name, p.kind, p.default))
    assert mine == [(p.name, p.kind, p.default) for p in theirs.parameters.values()]
    assert {kind for _, kind, _ in added} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", ["correlate", "convolve"])
def test_borders(name, ndim, mode):
    x, w = image(SHAPES[ndim], np.float64), image((4, 3, 2)[:ndim], np.float64, 1)
    ours, theirs = (getattr(home, name)(x, w, mode=mode, cval=2.5) for home in (ndimage, sp))
    close(ours, theirs, w.size)


@pytest.mark.parametrize("name", ["correlate", "convolve"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_origin_of_odd_and_even_weights(name, size):
    x, w = image((8, 7), np.float64), image((size, 3), np.float64, 1)
    for origin in range(-(size // 2), (size - 1) // 2 + 1):
        if name == "convolve" and not -(size // 2) <= -origin - (size % 2 == 0) <= (size - 1) // 2:
            continue
        ours, theirs = (getattr(home, name)(x, w, origin=(origin, 1)) for home in (ndimage, sp))
        close(ours, theirs, w.size)


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "wrap", "constant"])
def test_border_wider_than_the_input(mode):
    x = image((3, 2), np.float64)
    ours, theirs = (home.correlate1d(x, np.arange(1.0, 18.0), 1, mode=mode, cval=-1) for home in (ndimage, sp))
    close(ours, theirs, 17 * 17)


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16", ">f4", ">i2"]
)
@pytest.mark.parametrize("output", [None, "f4", "u1", "i8"])
def test_dtypes(dtype, output):
    x, w = image((6, 5), dtype), np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]])
    if np.dtype(dtype).kind == "c" and output is not None:
        output = "c16"
    given = None if output is None else np.dtype(output)
    ours, theirs = (home.correlate(x, w, output=given, mode="nearest") for home in (ndimage, sp))
    close(ours, theirs, w.size)


@pytest.mark.parametrize("x_dtype", ["f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("name", ["correlate", "convolve", "correlate1d", "convolve1d"])
def test_complex_weights_and_cval(name, x_dtype):
    x = image((6, 5), x_dtype)
    w = image((3,) if name.endswith("1d") else (3, 2), "c16", 1)
    cval = 1.5 - 2.0j if x.dtype.kind == "c" else 1.5
    ours, theirs = (getattr(home, name)(x, w, mode="constant", cval=cval) for home in (ndimage, sp))
    close(ours, theirs, 4 * w.size)


def test_float16_and_bfloat16_are_summed_in_float32():
    x = np.full(1001, 1.0, np.float16)
    x[0] = 2048.0
    assert ndimage.correlate1d(x, np.ones(1001), mode="constant", origin=0).dtype == np.float16
    total = float(ndimage.correlate1d(x, np.ones(2001), mode="constant")[0])
    assert total == 3048.0  # a float16 sum would stay at 2048
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert ndimage.uniform_filter1d(x.astype(ml_dtypes.bfloat16), 3).dtype == ml_dtypes.bfloat16


def test_rounding_the_weights_to_float32_keeps_their_sum():
    for sigma in np.linspace(0.5, 6.0, 40):
        weights = gaussian_weights(sigma, 0, int(4 * sigma + 0.5))
        rounded = ready.rounded(weights, np.dtype(np.float32))
        assert rounded.dtype == np.float32
        assert abs(rounded.sum(dtype=np.float64) - 1.0) <= np.spacing(rounded.max())
        np.testing.assert_allclose(rounded, weights, rtol=1e-5)


FILTERS = {
    "gaussian_filter": [
        {"sigma": 1.2},
        {"sigma": 0.7, "order": 1},
        {"sigma": 1.0, "order": 2, "truncate": 2.5},
        {"sigma": 2.0, "radius": 3},
        {"sigma": 0.0},
    ],
    "gaussian_filter1d": [{"sigma": 1.5}, {"sigma": 1.0, "order": 3, "axis": 0}, {"sigma": 2, "radius": 0}],
    "uniform_filter": [{}, {"size": 4}, {"size": 1}, {"size": 5, "origin": -1}],
    "uniform_filter1d": [{"size": 3}, {"size": 4, "axis": 0, "origin": 1}],
    "sobel": [{}, {"axis": 0}],
    "prewitt": [{}, {"axis": 0}],
    "laplace": [{}],
    "gaussian_laplace": [{"sigma": 1.0}],
    "gaussian_gradient_magnitude": [{"sigma": 1.0}],
}
CASES = [(name, arguments) for name, list_ in FILTERS.items() for arguments in list_]


def test_rounded_weights_are_not_tiny():
    least = 2.0**-100
    weights = np.exp(-0.5 * np.arange(-14.0, 15) ** 2)
    rounded = ready.rounded(weights, np.dtype(np.float32))
    np.testing.assert_allclose(rounded, np.maximum(weights, least), rtol=1e-6)
    signs = np.array([1.0, 0.0, -1e-40])
    np.testing.assert_array_equal(ready.rounded(signs, np.dtype(np.float32)), np.float32([1, 0, -least]))
    # Beside small weights tiny ones count.
    small = np.array([1e-30, 1e-40])
    assert ready.rounded(small, np.dtype(np.float32))[1] == np.float32(1e-40)


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_filters_of_any_rank(name, arguments, ndim):
    x = image(SHAPES[ndim], np.float64)
    ours, theirs = (getattr(home, name)(x, mode="mirror", **arguments) for home in (ndimage, sp))
    close(ours, theirs, 200)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_filters_in_float32(name, arguments):
    x = image((9, 8), np.float32)
    ours, theirs = (getattr(home, name)(x, mode="constant", cval=0.5, **arguments) for home in (ndimage, sp))
    close(ours, theirs, 100)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4"])
@pytest.mark.parametrize("name", ["sobel", "prewitt", "laplace", "uniform_filter"])
def test_integer_filters_are_exact(name, dtype):
    x = image((9, 8), dtype)
    np.testing.assert_array_equal(getattr(ndimage, name)(x), getattr(sp, name)(x))


def test_sequences_per_axis():
    x = image((5, 6, 4), np.float64)
    settings = [
        (
            "gaussian_filter",
            {"sigma": (1, 2), "order": (0, 1), "mode": ("wrap", "nearest"), "radius": (2, 3), "axes": (2, 0)},
        ),
        ("uniform_filter", {"size": (2, 3), "origin": (-1, 1), "mode": ("reflect", "constant"), "axes": (0, 1)}),
        ("sobel", {"axis": 1, "mode": ("wrap", "nearest", "mirror")}),
        ("laplace", {"mode": ("wrap", "nearest"), "axes": (0, 2)}),
        ("gaussian_laplace", {"sigma": (1, 2), "mode": ("wrap", "nearest"), "axes": (0, 2), "truncate": 3.0}),
        ("correlate", {"weights": np.arange(6.0).reshape(2, 3), "axes": (2, 0), "origin": (1, -1)}),
        ("convolve", {"weights": np.arange(6.0).reshape(2, 3), "axes": (0, 1), "origin": (0, -1)}),
    ]
    for name, arguments in settings:
        ours, theirs = (getattr(home, name)(x, **arguments) for home in (ndimage, sp))
        close(ours, theirs, 200)


def test_weights_over_three_axes_of_four():
    x = image((3, 4, 3, 5), np.float64)
    for shape in [(1, 2, 3, 2), (2, 1, 3, 2), (2, 3, 1, 2), (2, 3, 2, 1), (1, 1, 1, 1), (3, 1, 1, 2)]:
        w = image(shape, np.float64, 1)
        close(ndimage.correlate(x, w), sp.correlate(x, w), w.size)


@pytest.mark.parametrize("view", [np.s_[::-1, ::2], np.s_[:, ::-3], np.s_[1:, 1:]])
def test_views_in_and_out(view):
    x, y = image((12, 15), np.float32), np.full((12, 15), np.nan, np.float32)
    for name in ("gaussian_filter", "uniform_filter"):
        expected = getattr(sp, name)(x[view], 2)
        assert getattr(ndimage, name)(x[view], 2, output=y[view]) is not None
        close(y[view], expected, 100)
    close(ndimage.correlate(x.T[view], np.ones((2, 3))), sp.correlate(x.T[view], np.ones((2, 3))), 6)


def test_output_is_returned_and_may_be_the_input():
    x = image((6, 7), np.float64)
    expected = sp.gaussian_filter(x, 1)
    buffer = x.copy()
    assert ndimage.gaussian_filter(buffer, 1, output=buffer) is buffer
    close(buffer, expected, 50)
    for name in ("laplace", "correlate"):
        arguments = (np.ones((3, 3)),) if name == "correlate" else ()
        buffer, expected = x.copy(), getattr(sp, name)(x, *arguments)
        getattr(ndimage, name)(buffer, *arguments, output=buffer)
        close(buffer, expected, 50)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_empty_input(shape):
    x = np.zeros(shape)
    assert ndimage.gaussian_filter(x, 1).shape == shape
    assert ndimage.correlate(x, np.ones((3,) * x.ndim)).shape == shape


def test_zero_dimensional_input():
    assert ndimage.gaussian_filter(np.array(3.0), 1) == 3.0
    assert ndimage.correlate(np.array(3.0), np.array(2.0)) == 6.0


def test_generic_filters():
    x = image((6, 7), np.float64)

    def second(input, axis, output, mode, cval, scale, *, shift):
        return scale * sp.correlate1d(input, [1, -2, 1], axis, output, mode, cval) + shift

    for name in ("generic_laplace", "generic_gradient_magnitude"):
        arguments = {"extra_arguments": (2.0,), "extra_keywords": {"shift": 1.0}}
        ours, theirs = (getattr(home, name)(x, second, **arguments) for home in (ndimage, sp))
        close(ours, theirs, 50)


def test_nan_reaches_its_receptive_field():
    x = np.zeros((7, 7))
    x[3, 3] = np.nan
    assert np.isnan(ndimage.uniform_filter(x, 3)).sum() == 9


ERRORS = [
    (RuntimeError, "mode='bad'", lambda home: home.correlate([1.0], [1.0], mode="bad")),
    (RuntimeError, "sequence of modes", lambda home: home.correlate([1.0], [1.0], mode=["wrap"])),
    (RuntimeError, "weights.ndim", lambda home: home.correlate([1.0], [[1.0]])),
    (RuntimeError, "weights", lambda home: home.correlate([1.0], [])),
    (RuntimeError, "weights", lambda home: home.correlate1d([1.0], [])),
    (ValueError, "origin", lambda home: home.correlate1d([1.0, 2.0], [1.0, 2.0], origin=1)),
    (ValueError, "origin", lambda home: home.uniform_filter1d([1.0, 2.0], 3, origin=2)),
    (RuntimeError, "size=0", lambda home: home.uniform_filter1d([1.0], 0)),
    (ValueError, "out of range", lambda home: home.gaussian_filter([1.0], 1, axes=(1,))),
    (ValueError, "axes must be unique", lambda home: home.gaussian_filter([[1.0]], 1, axes=(0, -2))),
    (ValueError, "axes=1.5", lambda home: home.gaussian_filter([[1.0]], 1, axes=object())),
    (ValueError, "axis", lambda home: home.sobel([1.0], axis=2)),
    (ValueError, "radius=-1", lambda home: home.gaussian_filter1d([1.0], 1, radius=-1)),
    (ValueError, "order", lambda home: home.gaussian_filter1d([1.0], 1, order=-1)),
    (RuntimeError, "output", lambda home: home.sobel([1.0, 2.0], output=np.zeros(3))),
    (RuntimeError, "complex", lambda home: home.correlate([1.0], [1j], output="f8")),
    (RuntimeError, "numeric", lambda home: home.correlate([1.0], [1.0], output="U4")),
    (RuntimeError, "sigma has 3 entries", lambda home: home.gaussian_filter([[1.0]], (1, 2, 3))),
    (ValueError, "cval", lambda home: home.correlate([1.0], [1j], cval=1j)),
]


@pytest.mark.parametrize(("kind", "message", "call"), ERRORS)
def test_errors_are_scipys_and_name_the_argument(kind, message, call):
    with pytest.raises(kind):
        call(sp)
    with pytest.raises(kind, match="axes=" if message == "axes=1.5" else message):
        call(ndimage)


def test_a_real_output_dtype_is_promoted_with_a_warning():
    with pytest.warns(UserWarning, match="promoting specified output dtype to complex") as caught:
        assert ndimage.correlate([1.0, 2.0], [1j], output=np.float32).dtype == np.complex64
    assert caught[0].filename == __file__


def test_filters_settled_before_notice_other_weights_and_types():
    x = image((30, 40), "u1")
    weights = np.ones((3, 3))
    before = ndimage.correlate(x, weights, output="f8")
    weights[1, 1] = 5
    np.testing.assert_allclose(ndimage.correlate(x, weights, output="f8"), before + 4.0 * x)
    ndimage.gaussian_filter(x, 1, order=0)
    with pytest.raises(TypeError):
        ndimage.gaussian_filter(x, 1, order=0.0)
    ndimage.sobel(x, 1)
    with pytest.raises(TypeError):
        ndimage.sobel(x, 1.0)


@pytest.mark.parametrize("name", ["correlate1d", "convolve1d", "correlate", "convolve"])
def test_weights_that_change_after_the_call(name):
    x, function = image((30, 40), "f8"), getattr(ndimage, name)
    shape = (3,) if name.endswith("1d") else (3, 3)
    for more in ({}, {"origin": 0 if name.endswith("1d") else [0, 0]}):
        w = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
        wanted = function(x, w, **more)
        again = w.copy()
        w[...] = 0
        np.testing.assert_array_equal(function(x, again, **more), wanted)
        np.testing.assert_array_equal(function(x, w, **more), 0 * x)


def test_sizes_given_as_arrays_of_any_kind():
    x = image((30, 40), "f8")
    for sizes in (np.array([3, 5], ">i2"), np.array([3, 5], ">i2").view("<i2"), np.array([3, 5])):
        close(ndimage.uniform_filter(x, sizes, mode="wrap"), sp.uniform_filter(x, sizes, mode="wrap"), 3000)
        x = x[::-1]
    for sigma in (0.5, 0.75, 1.5):
        widths = np.array([sigma, sigma + 0.25], dtype=object)
        close(ndimage.gaussian_filter(x, widths), sp.gaussian_filter(x, [sigma, sigma + 0.25]), 100)


@pytest.mark.parametrize("output", ["i4", "i8", "f8"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
def test_products_of_whole_vectors_sum_to_whole_numbers(dtype, output):
    """On images large enough that weights are looked at for factors, whose roots would fall short of them."""
    x = np.random.default_rng(0).integers(0, 200, (150, 160)).astype(dtype)
    up, down, five = np.array([1.0, 2, 1]), np.array([-1.0, 0, 1]), np.array([1.0, 4, 6, 4, 1])
    for w in (
        np.outer(up, np.ones(3)), np.outer(up, down), np.outer([3, 10, 3], down), 2 * np.ones((5, 5)),
        3 * np.ones((9, 9)), np.outer(five, [-1, -2, 0, 2, 1]), np.outer([3, 1, 3], [3, 1, 3]), np.outer(up, up) / 16,
        np.outer(five, five) / 256, np.outer([3, 1, 3], [3, 1, 3]) / 32,
    ):  # fmt: skip
        ours, theirs = (home.correlate(x, w, output=output) for home in (ndimage, sp))
        if output == "f8":
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15 * np.abs(w).sum() * 200 * w.size)
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_a_step_along_an_unfiltered_axis_casts_nothing_before_the_sums():
    x = np.random.default_rng(0).integers(-1000, 1000, (6, 40, 50)).astype("i2")
    for function, width in ((ndimage.uniform_filter, [1, 5, 5]), (ndimage.gaussian_filter, [0, 1, 1])):
        whole = function(x, width, output="u2")
        np.testing.assert_array_equal(function(x, width, output="u2", step=[2, 1, 1]), whole[::2])
        np.testing.assert_array_equal(
            function(x, [width[0]] * 3, output="u2", step=[2, 1, 3]), x[::2, :, ::3].astype("u2")
        )
