"""What `gpuconv.ndimage` has besides SciPy: held against definitions, SciPy's dense results and astropy."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import DtypeError, ShapeError, UnsupportedError, ndimage
from gpuconv.ndimage import ready

sp = pytest.importorskip("scipy.ndimage")

PADS = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}


def image(shape, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) if np.dtype(dtype).kind in "fc" else rng.integers(0, 90, shape)
    return (x + 1j * rng.standard_normal(shape)).astype(dtype) if np.dtype(dtype).kind == "c" else x.astype(dtype)


def windows(x, size, mode, cval=0.0):
    """Return the elements under a filter of `size` at every output: two blocks of axes."""
    if mode != "valid":
        how = {"constant_values": cval} if mode == "constant" else {}
        x = np.pad(x, [(k // 2, k - 1 - k // 2) for k in size], PADS[mode], **how)
    return np.lib.stride_tricks.sliding_window_view(x, size)


def direct(x, w, mode="reflect", cval=0.0):
    """Return the correlation from its definition."""
    axes = tuple(range(-w.ndim, 0))
    return (windows(x, w.shape, mode, cval) * w).sum(axes)


@pytest.fixture
def problems(monkeypatch):
    """The problems that the dispatcher was asked to choose an algorithm for."""
    seen = []
    choose = ready.choose

    def record(call, *arguments):
        seen.append(call.problem)
        return choose(call, *arguments)

    monkeypatch.setattr(ready, "choose", record)
    ready.ready.cache_clear()
    ready._choice.cache_clear()
    yield seen
    ready.ready.cache_clear()
    ready._choice.cache_clear()


# Steps and "valid"


@pytest.mark.parametrize("mode", [*PADS, "valid"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "c16", "i8"])
@pytest.mark.parametrize("step", [1, 2, (3, 2)])
def test_steps_and_valid(mode, dtype, step):
    x, w = image((11, 10), dtype), np.arange(12.0).reshape(4, 3) - 5
    keep = np.s_[:: step[0], :: step[1]] if isinstance(step, tuple) else np.s_[::step, ::step]
    wanted = direct(x.astype("c16" if x.dtype.kind == "c" else "f8"), w, mode, 2)[keep]
    ours = ndimage.correlate(x, w, mode=mode, cval=2, step=step, output="c16" if x.dtype.kind == "c" else "f8")
    np.testing.assert_allclose(ours, wanted, atol=1e-12 if x.dtype.itemsize > 4 or x.dtype.kind == "u" else 1e-4)
    turned = ndimage.convolve(x, w[::-1, ::-1], mode="valid", step=step, output=ours.dtype)
    np.testing.assert_allclose(turned, direct(x, w, "valid")[keep], atol=1e-4)


def test_steps_of_the_filters_that_work_axis_by_axis():
    x = image((23, 17, 6))
    for name, arguments in [
        ("gaussian_filter", {"sigma": (1, 2), "axes": (0, 1), "order": (0, 1)}),
        ("gaussian_filter", {"sigma": (1, 0), "axes": (0, 1)}),
        ("uniform_filter", {"size": (4, 1), "axes": (0, 1), "origin": (1, 0)}),
    ]:
        dense = getattr(sp, name)(x, **arguments)
        np.testing.assert_allclose(getattr(ndimage, name)(x, step=(2, 3), **arguments), dense[::2, ::3], atol=1e-13)
    for name, argument in [
        ("gaussian_filter1d", 1.5),
        ("uniform_filter1d", 5),
        ("correlate1d", [1, 2]),
        ("convolve1d", [1, 2]),
    ]:
        dense = getattr(sp, name)(x, argument, axis=1)
        np.testing.assert_allclose(getattr(ndimage, name)(x, argument, axis=1, step=4), dense[:, ::4], atol=1e-13)


def test_valid_of_the_filters_that_work_axis_by_axis():
    x = image((23, 17))
    inner = {"gaussian_filter": (2, np.s_[6:-6, 6:-6]), "uniform_filter": (4, np.s_[2:-1, 2:-1])}
    for name, (argument, place) in inner.items():
        arguments = {"radius": 6} if name == "gaussian_filter" else {}
        dense = getattr(sp, name)(x, argument, **arguments)[place]
        np.testing.assert_allclose(getattr(ndimage, name)(x, argument, mode="valid", **arguments), dense, atol=1e-13)
    np.testing.assert_allclose(ndimage.sobel(x, mode="valid"), sp.sobel(x)[1:-1, 1:-1], atol=1e-13)
    mixed = ndimage.uniform_filter(x, 3, mode=("valid", "wrap"))
    np.testing.assert_allclose(mixed, sp.uniform_filter(x, 3, mode="wrap")[1:-1], atol=1e-13)


def test_steps_are_the_problems_own(problems):
    x = image((64, 48), "f4")
    ndimage.correlate(x, np.ones((3, 5)), step=(2, 4))
    assert [problem.stride for problem in problems] == [(2, 4)]
    assert problems[0].y_shape == (1, 1, 32, 12)


# Banks


@pytest.mark.parametrize("name", ["correlate", "convolve"])
@pytest.mark.parametrize(
    ("axes", "shape"), [(None, (5, 4, 3, 2)), ((0, 2), (5, 4, 3)), (1, (5, 4)), ((2, 1), (3, 1, 3))]
)
def test_banks(name, axes, shape):
    x, w = image((7, 9, 6)), image(shape, seed=1)
    for given, bank in ((x, w), (x.astype("f4"), w), (x, w + 1j * w[::-1]), (image((7, 9, 6), "i2"), w)):
        ours = getattr(ndimage, name)(given, bank, axes=axes, bank=True, mode="mirror")
        along = (axes,) if isinstance(axes, int) else axes
        theirs = np.stack([getattr(sp, name)(given, each, axes=along, mode="mirror") for each in bank])
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=1e-12 if given.dtype != np.float32 else 1e-4)


def test_a_bank_is_one_problem(problems):
    x, w = image((6, 40, 50), "f4"), image((8, 3, 3), seed=1)
    out = np.empty((8, 6, 20, 25), "f4")
    assert ndimage.correlate(x, w, axes=(1, 2), bank=True, step=2, out=out) is out
    assert [problem.w_shape for problem in problems] == [(8, 1, 3, 3)]
    wanted = np.stack([sp.correlate(x, each, axes=(1, 2))[:, ::2, ::2] for each in w])
    np.testing.assert_allclose(out, wanted, atol=1e-5)


# Missing elements


def present_mean(x, w, there, mode, cval=0.0):
    """Return the weighted sum over the elements that are there, scaled to the weights' whole sum."""
    axes = tuple(range(-w.ndim, 0))
    seen = windows(there, w.shape, mode, 1.0).astype(bool)
    filled = np.where(there, x, 0)
    sums = np.where(seen, windows(filled, w.shape, mode, cval) * w, 0).sum(axes)
    with np.errstate(invalid="ignore"):
        return sums / np.where(seen, w, 0).sum(axes) * w.sum()


@pytest.mark.parametrize("mode", [*PADS, "valid"])
def test_nan_and_masks(mode):
    x, w = image((12, 14)), np.abs(image((3, 4), seed=1))
    w[1, 1] = 0  # under which nothing may leak either
    holes = np.random.default_rng(2).random(x.shape) < 0.3
    holes[4:9, 5:11] = True
    wanted = present_mean(x, w, ~holes, mode, 0.5)
    assert np.isnan(wanted).any()
    with_nan, with_inf = np.where(holes, np.nan, x), np.where(holes, np.inf, x)
    arguments = {"mode": mode, "cval": 0.5}
    for ours in (
        ndimage.correlate(with_nan, w, nan="interpolate", **arguments),
        ndimage.correlate(with_inf, w, mask=holes, **arguments),
    ):
        np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    zeros = ndimage.correlate(with_nan, w, nan="zero", **arguments)
    np.testing.assert_allclose(zeros, direct(np.where(holes, 0, x), w, mode, 0.5), atol=1e-13)
    bank = ndimage.correlate(with_nan, np.stack([w, 2 * w]), nan="interpolate", bank=True, step=2, **arguments)
    np.testing.assert_allclose(bank, np.stack([wanted, 2 * wanted])[:, ::2, ::2], rtol=1e-12)


def test_nan_reaches_its_receptive_field_unless_told_otherwise():
    x = image((40, 40), "f4")
    x[20, 20] = np.nan
    assert np.isnan(ndimage.correlate(x, np.ones((5, 5)))).sum() == 25
    assert np.isnan(ndimage.correlate(x, np.ones((5, 5)), mask=np.zeros(x.shape))).sum() == 25
    assert np.isfinite(ndimage.gaussian_filter(x, 2, nan="interpolate")).all()


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "f2"])
def test_separable_filters_leave_holes_out(dtype):
    x = image((15, 16), dtype)
    holes = np.random.default_rng(2).random(x.shape) < 0.2
    x[holes] = np.nan
    filters = [
        (ndimage.uniform_filter, (3,), np.full((3, 3), 1 / 9)),
        (ndimage.gaussian_filter, (1.0,), None),
        (ndimage.uniform_filter1d, (5,), np.full((1, 5), 0.2)),
        (ndimage.gaussian_filter1d, (1.5,), None),
        (ndimage.correlate1d, ([1, 2, 1],), np.array([[1.0, 2.0, 1.0]])),
    ]
    wide = x.astype("c16" if x.dtype.kind == "c" else "f8")
    for function, arguments, weights in filters:
        if weights is None:
            impulse = np.zeros((41, 41) if function is ndimage.gaussian_filter else (1, 41))
            impulse[impulse.shape[0] // 2, 20] = 1
            weights = function(impulse, *arguments, mode="constant")
            reach = int(4 * arguments[0] + 0.5)
            weights = weights[..., 20 - reach : 21 + reach]
            weights = weights[20 - reach : 21 + reach] if weights.shape[0] > 1 else weights
        ours = function(x, *arguments, nan="interpolate", dtype="same", mode="wrap")
        assert ours.dtype == x.dtype
        wanted = present_mean(wide, weights, ~holes, "wrap")
        tolerance = {"f2": 4e-3, "f4": 1e-5, "c8": 1e-5}.get(dtype, 1e-12)
        np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=tolerance)


def test_an_outside_of_nan_is_left_out():
    x, w = image((6, 7)) + 5, np.abs(image((3, 3), seed=1))
    inside = direct(np.ones_like(x), w, "constant")
    ours = ndimage.correlate(x, w, mode="constant", cval=np.nan, nan="interpolate")
    there = np.ones(x.shape, bool)
    there[2, 3] = False
    np.testing.assert_allclose(
        ndimage.correlate(x, w, mode="constant", cval=np.nan, mask=~there)[0, 0], ours[0, 0], rtol=1e-13
    )
    np.testing.assert_allclose(ours, direct(x, w, "constant") / inside * w.sum(), rtol=1e-13)


def test_masks_over_integers():
    x, holes = image((9, 9), "u1"), np.zeros((9, 9), bool)
    holes[:5, :5] = True
    x[holes] = 255
    wanted = np.nan_to_num(present_mean(x.astype("f8"), np.full((3, 3), 1 / 9), ~holes, "reflect"), nan=0)
    ours = ndimage.uniform_filter(x, 3, mask=holes)
    assert ours.dtype == np.uint8
    assert np.abs(ours - wanted).max() <= 1
    assert (ours[:4, :4] == 0).all()


def test_one_element_is_its_own_mean_however_far():
    """Its weight is 3e-4 of the largest at the filter's end; where there is none, a transform's error would show."""
    sparse = np.full(400, np.nan)
    sparse[100] = 3.0
    y = ndimage.gaussian_filter1d(sparse, 20, nan="interpolate")
    np.testing.assert_allclose(y[20:181], 3.0, rtol=1e-12)
    assert np.isnan(y[181:]).all()


def test_nan_as_astropy_has_it():
    convolution = pytest.importorskip("astropy.convolution", reason="compares with astropy, which is not installed")
    x, w = image((20, 23)), np.abs(image((5, 3), seed=1))
    x[np.random.default_rng(2).random(x.shape) < 0.2] = np.nan
    x[3:8, 9:12] = np.nan
    mask = np.random.default_rng(3).random(x.shape) < 0.1
    for boundary, mode in (("fill", "constant"), ("wrap", "wrap"), ("extend", "nearest")):
        with pytest.warns(UserWarning, match="NaN values detected"):  # in the middle of the large hole
            theirs = convolution.convolve(x, w, boundary, mask=mask, normalize_kernel=False)
        ours = ndimage.convolve(x, w, mode=mode, nan="interpolate", mask=mask)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        theirs = convolution.convolve(x, w, boundary, nan_treatment="fill", mask=mask, normalize_kernel=False)
        np.testing.assert_allclose(ndimage.convolve(x, w, mode=mode, nan="zero", mask=mask), theirs, atol=1e-12)


# Errors


ERRORS = [
    (ValueError, "step=0", {"step": 0}),
    (RuntimeError, "step has 3 entries", {"step": (1, 2, 3)}),
    (ValueError, "origin=1", {"mode": "valid", "origin": 1}),
    (ShapeError, "kernel spans 3", {"mode": "valid", "input": np.ones((2, 5))}),
    (ValueError, "nan='skip'", {"nan": "skip"}),
    (ValueError, r"mask has shape \(3,\)", {"mask": [0, 1, 0]}),
    (ValueError, "sum to", {"nan": "interpolate", "weights": [[-1, 0, 1]] * 3}),
    (DtypeError, "dtype='int32'", {"dtype": "int32"}),
    (DtypeError, "dtype='nonsense'", {"dtype": "nonsense"}),
    (UnsupportedError, "precision='low'", {"precision": "low"}),
    (UnsupportedError, "backend='tpu'", {"backend": "tpu"}),
    (TypeError, "output and out", {"output": "f8", "out": np.empty((5, 5))}),
    (ShapeError, "out has shape", {"out": np.empty((4, 5))}),
    (DtypeError, "out has dtype", {"out": np.empty((5, 5), "f4")}),
    (RuntimeError, "bank=True", {"weights": np.ones((2, 3, 3))}),
    (RuntimeError, "bank=True", {"bank": True}),
    (RuntimeError, "output has shape", {"output": np.empty((5, 5)), "step": 2}),
]


@pytest.mark.parametrize(("kind", "message", "arguments"), ERRORS)
def test_errors_name_the_argument(kind, message, arguments):
    given = {"input": np.ones((5, 5)), "weights": np.ones((3, 3)), **arguments}
    with pytest.raises(kind, match=message):
        ndimage.correlate(**given)


def test_out_may_not_overlap_the_input():
    x = image((6, 6))
    with pytest.raises(ValueError, match="overlaps"):
        ndimage.gaussian_filter(x, 1, out=x)
    for name, argument in [
        ("laplace", ()),
        ("sobel", ()),
        ("gaussian_laplace", (1,)),
        ("gaussian_gradient_magnitude", (1,)),
    ]:
        out = np.empty_like(x)
        assert getattr(ndimage, name)(x, *argument, out=out) is out
        np.testing.assert_allclose(out, getattr(sp, name)(x, *argument), atol=1e-13)


def test_derivatives_along_axes_have_no_valid_part():
    with pytest.raises(ValueError, match="'valid'"):
        ndimage.laplace(image((6, 6)), mode="valid")
