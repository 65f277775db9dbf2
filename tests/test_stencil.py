"""Stencils and separable filters: mixed dtypes, factors, fused passes, remainders, borders and specials."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from support import rng

import gpuconv
from gpuconv import ndimage
from gpuconv.backends.cpu import separable
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call, algorithm, choose, rows
from gpuconv.errors import UnsupportedError
from gpuconv.factors import Factored, Factors, low_rank
from gpuconv.problem import ConvProblem

scipy_ndimage = pytest.importorskip("scipy.ndimage")


def definition(x: np.ndarray, w: np.ndarray, mode: str) -> np.ndarray:
    """Return a two-dimensional correlation in float64, from shifted views of the padded input."""
    pads = [(k // 2, k - 1 - k // 2) for k in w.shape]
    wide = np.pad(x.astype(np.float64), pads, mode={"mirror": "reflect", "nearest": "edge", "wrap": "wrap"}[mode])
    total = np.zeros(x.shape)
    for (i, j), weight in np.ndenumerate(w.astype(np.float64)):
        total += weight * wide[i : i + x.shape[0], j : j + x.shape[1]]
    return total


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7, 8, 9, 15, 17])
def test_every_height_of_kernel_and_remainder_of_rows(k: int) -> None:
    generator = rng(f"stencil {k}")
    for h in (1, 3, 4, 5, 7, 8, 11, 19):
        x = generator.uniform(-1, 1, (1, 1, h, 37)).astype(np.float32)
        w = generator.uniform(-1, 1, (1, 1, k, 3)).astype(np.float32)
        keywords = {"padding": ((k // 2, k - 1 - k // 2), 1), "padding_mode": "nearest"}
        y = gpuconv.conv2d(x, w, **keywords, algorithm="stencil")
        bound = np.finfo(np.float32).eps * (4 + 3 * k)
        np.testing.assert_allclose(y[0, 0], definition(x[0, 0], w[0, 0], "nearest"), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [5, 8, 9, 15, 17, 23, 33, 41, 57, 97])
def test_zeros_beyond_the_ends_of_rows_of_any_width(width: int, dtype: str) -> None:
    """Rows are read where they lie: any vector of a tile may leave them, on either side."""
    generator = np.random.default_rng(width)
    for k in (3, 5, 7, 15):
        for before, after in ((k // 2, k // 2), (k - 1, 0), (0, k - 1), (17, 1)):
            x = generator.standard_normal((2, 12, width)).astype(dtype)
            w = generator.standard_normal((2, 1, 4, k)).astype(dtype)
            if width + before + after < k:
                continue
            padding = (1, (before, after))
            wide = np.pad(x, ((0, 0), (1, 1), (before, after)))
            windows = np.lib.stride_tricks.sliding_window_view(wide, (4, k), axis=(1, 2))
            wanted = np.einsum("cijab,cab->cij", windows.astype("d"), w[:, 0].astype("d"))
            result = gpuconv.conv2d(x, w, padding=padding, groups=2, algorithm="stencil", backend="cpu")
            np.testing.assert_allclose(result, wanted, rtol=0, atol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_borders_of_later_channels(stride: int) -> None:
    """A later channel is packed over the border of the one before."""
    generator = rng("channels of a task")
    for width in (1, 2, 5, 16, 17, 33, 64):
        x = generator.uniform(-1, 1, (2, 6, 9, width)).astype(np.float32)
        w = generator.uniform(-1, 1, (6, 1, 5, 5)).astype(np.float32)
        keywords = {"padding": ((2, 3), (3, 2)), "stride": stride, "groups": 6}
        y = gpuconv.conv2d(x, w, **keywords, algorithm="stencil")
        wanted = gpuconv.conv2d(x.astype(np.float64), w.astype(np.float64), **keywords, algorithm="direct")
        np.testing.assert_allclose(y, wanted, rtol=0, atol=29 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("source", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32"])
@pytest.mark.parametrize("result", ["uint8", "int16", "float32", "float64"])
def test_images_of_integers_as_scipy_has_them(source: str, result: str) -> None:
    generator = rng(f"{source} {result}")
    x = generator.integers(0, 100, (23, 41)).astype(source)
    w = generator.uniform(0, 1, (3, 5)) / 15
    ours = ndimage.correlate(x, w, output=result, mode="mirror")
    theirs = scipy_ndimage.correlate(x, w, output=result, mode="mirror")
    if result.startswith("float"):
        np.testing.assert_allclose(ours, theirs, rtol=4e-6 if result == "float32" else 1e-13)
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_a_call_of_two_dtypes_is_served_by_what_takes_it() -> None:
    problem = ConvProblem.make((1, 1, 8, 8), (1, 1, 3, 3))
    call = Call(problem, "forward", "uint8", sums="float64", result="uint8")
    reasons = {row.algorithm: row.reason for row in rows(call, "cpu")}
    assert reasons["direct"] == "it does not take other dtypes"
    assert reasons["stencil"] is None
    with pytest.raises(UnsupportedError, match="it does not take other dtypes"):
        choose(call, "cpu", "direct")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "reflect", "constant"])
def test_fused_passes_equal_passes_apart(dtype: str, mode: str) -> None:
    generator = rng(f"fused {dtype} {mode}")
    for shape in ((1, 1), (3, 40), (9, 8), (70, 17), (2, 33, 65), (2, 2, 9, 31)):
        x = generator.uniform(-1, 1, shape).astype(dtype)
        for arguments in ({"sigma": 1.3}, {"sigma": (2,) * (len(shape) - 1) + (0.7,), "order": 1}, {"sigma": 6}):
            for cval in (0.0, 1.5):
                ours = ndimage.gaussian_filter(x, **arguments, mode=mode, cval=cval)
                theirs = scipy_ndimage.gaussian_filter(x.astype(np.float64), **arguments, mode=mode, cval=cval)
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=300 * np.finfo(dtype).eps)


def test_fused_passes_run_as_one_and_leave_the_input() -> None:
    x = rng("one").uniform(-1, 1, (40, 50)).astype(np.float32)
    before = x.copy()
    ndimage.uniform_filter(x, 5)
    np.testing.assert_array_equal(x, before)
    problem = ConvProblem.make((1, 1, 40, 50), (1, 1, 33, 33), padding=16, padding_mode="mirror")
    assert choose(Call(problem, "forward", "float32", factored=Factored()), "cpu").__name__.endswith("separable")


def test_in_place_and_strided_outputs() -> None:
    x = rng("in place").uniform(-1, 1, (30, 44)).astype(np.float32)
    wanted = ndimage.gaussian_filter(x, 1.5)
    strided = np.full((44, 30), np.nan, np.float32).T
    np.testing.assert_array_equal(ndimage.gaussian_filter(x, 1.5, output=strided), wanted)
    np.testing.assert_array_equal(ndimage.gaussian_filter(x, 1.5, output=x), wanted)


def test_means_of_constants_and_whole_numbers_are_exact() -> None:
    x = np.full((33, 47), np.float32(0.1))
    np.testing.assert_allclose(ndimage.uniform_filter(x, 9), x, rtol=1e-6)
    whole = 81 * rng("whole").integers(-50, 50, (33, 47)).astype(np.float32)
    exact = scipy_ndimage.uniform_filter(whole.astype(np.float64), 9)
    np.testing.assert_array_equal(ndimage.uniform_filter(whole, 9), exact.round().astype(np.float32))


def test_infinities_in_divided_sums() -> None:
    x = np.zeros((20, 40), np.float32)
    x[5, 7], x[15, 30] = np.inf, np.nan
    y = ndimage.uniform_filter(x, 3, mode="constant")
    wanted = np.zeros_like(x)
    wanted[4:7, 6:9], wanted[14:17, 29:32] = np.inf, np.nan
    np.testing.assert_array_equal(y, wanted)


def test_factors_are_found_within_rounding_only() -> None:
    generator = rng("factors")
    down, across = generator.uniform(-1, 1, 7), generator.uniform(-1, 1, 5)
    product = np.outer(down, across)
    for dtype in (np.float32, np.float64):
        found = low_rank(product.astype(dtype).astype(np.float64), dtype)
        assert found is not None
        np.testing.assert_allclose(np.outer(*found.terms[0]), product, rtol=8 * np.finfo(dtype).eps)
    spoiled = product.copy()
    spoiled[0, 0] *= 1 + 1e-5
    assert low_rank(spoiled, np.float32) is None
    assert low_rank(np.zeros((3, 3)), np.float32) is None


def test_sums_of_products_are_found() -> None:
    generator = rng("terms")
    for terms in (2, 3):
        w = generator.uniform(-1, 1, (9, terms)) @ generator.uniform(-1, 1, (terms, 7))
        assert low_rank(w, np.float64, most=terms - 1) is None
        found = low_rank(w, np.float64, most=4)
        assert found is not None
        assert len(found.terms) == terms
        problem = ConvProblem.make((1, 1, 20, 20), (1, 1, 9, 7))
        np.testing.assert_allclose(found.product(problem)[0, 0], w, rtol=0, atol=1e-14)
    # What is 0 meets no input, which no products but 0 may do.
    w[4, 4] = 0
    assert low_rank(w, np.float64, most=7) is None


def test_tolerance_bounds_what_products_may_differ_by() -> None:
    generator = rng("tolerance")
    w = np.outer(generator.uniform(1, 2, 15), generator.uniform(1, 2, 15)) + 1e-3 * generator.uniform(-1, 1, (15, 15))
    x = generator.uniform(-1, 1, (120, 130)).astype(np.float32)
    exact = scipy_ndimage.correlate(x.astype(np.float64), w)
    problem = ConvProblem.make((1, 1, 120, 130), (1, 1, 15, 15))
    for tolerance in (1e-2, 1e-3):
        found = low_rank(w, np.float32, 1, tolerance)
        assert found is not None
        assert np.abs(found.product(problem)[0, 0] - w).sum() <= (tolerance + 1e-6) * np.abs(w).sum()
        ours = ndimage.correlate(x, w, tolerance=tolerance)
        assert np.abs(ours - exact).max() <= (tolerance + 1e-5) * np.abs(w).sum()
    assert low_rank(w, np.float32, 1, 1e-5) is None
    with pytest.raises(ValueError, match=r"tolerance=-1.*at least 0"):
        ndimage.correlate(x, w, tolerance=-1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_products_give_what_their_weights_give(dtype: str, mode: str) -> None:
    generator = rng(f"low rank {dtype} {mode}")
    x = generator.uniform(-1, 1, (131, 140)).astype(dtype)
    x[70, 3] = np.nan
    w = generator.uniform(0.1, 1, (37, 2)) @ generator.uniform(0.1, 1, (2, 29))
    scipy_mode = {"zeros": "constant", "symmetric": "reflect"}.get(mode, mode)
    exact = scipy_ndimage.correlate(x.astype(np.float64), w, mode=scipy_mode)
    problem = ConvProblem.make((1, 1, 131, 140), (1, 1, 37, 29), padding=((18, 18), (14, 14)), padding_mode=mode)
    factors = low_rank(w, dtype, most=2)
    assert factors is not None
    call = Call(problem, "forward", dtype, factored=factors.described)
    y = np.full((1, 1, 131, 140), np.nan, dtype)
    algorithm("cpu", "separable").run(call, x[None, None], factors, y)
    np.testing.assert_allclose(y[0, 0], exact, rtol=0, atol=40 * np.finfo(dtype).eps * w.sum())


def test_infinities_pass_terms_of_weights() -> None:
    generator = rng("infinite terms")
    x = generator.uniform(-1, 1, (300, 310)).astype(np.float32)
    w = generator.uniform(0.1, 1, (33, 2)) @ generator.uniform(0.1, 1, (2, 31))
    np.testing.assert_allclose(
        ndimage.correlate(x, w), scipy_ndimage.correlate(x.astype(np.float64), w), rtol=0, atol=5e-6 * w.sum()
    )
    x[70, 3], x[3, 100], x[200, 100] = np.nan, np.inf, -np.inf
    for output in (None, x):
        exact = scipy_ndimage.correlate(x.astype(np.float64), w)
        ours = ndimage.correlate(x, w, output=output)
        np.testing.assert_allclose(ours, exact, rtol=0, atol=5e-6 * w.sum())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int16"])
def test_means_of_any_length(dtype: str, mode: str) -> None:
    generator = rng(f"means {dtype} {mode}")
    scipy_mode = {"zeros": "constant", "symmetric": "reflect"}.get(mode, mode)
    for shape, sizes in (
        ((150, 170), (13, 64)),
        ((90, 33), (40, 12)),
        ((20, 300), (3, 200)),
        ((2, 70, 80), (1, 31, 30)),
    ):
        if dtype in ("float32", "float64"):
            x = generator.uniform(-1, 1, shape).astype(dtype)
        else:
            limits = np.iinfo(dtype)
            x = generator.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
        ours = ndimage.uniform_filter(x, sizes, mode=scipy_mode)
        if ours.dtype.kind == "f":
            exact = scipy_ndimage.uniform_filter(x.astype(np.float64), sizes, mode=scipy_mode)
            np.testing.assert_allclose(ours, exact, rtol=0, atol=20 * np.finfo(dtype).eps)
        else:
            np.testing.assert_array_equal(ours, scipy_ndimage.uniform_filter(x, sizes, mode=scipy_mode))


def test_what_is_packed_keeps_the_tables_that_it_points_to() -> None:
    problem = ConvProblem.make((1, 1, 80, 90), (1, 1, 31, 31), padding=15, padding_mode="nearest")
    factors = Factors(((np.ones(31), np.ones(31)),), (31.0, 31.0))
    call = Call(problem, "forward", "float32", factored=factors.described)
    packed = separable.pack(call, factors)
    steps = weakref.ref(separable._geometry_of(call).steps)
    separable._geometry.cache_clear()
    gc.collect()
    assert packed.kept
    assert steps() is not None


@pytest.mark.parametrize("size", [(21, 15), (40, 63), (2, 129), (12, 170)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_means_lose_a_nan_where_their_window_ends(size: tuple[int, int], dtype: str) -> None:
    x = rng("nan in a mean").uniform(-1, 1, (90, 400)).astype(dtype)
    x[40, 50], x[80, 2], x[10, 399] = np.nan, np.inf, -np.inf
    y = ndimage.uniform_filter(x, size, mode="constant")
    reached = ndimage.uniform_filter((~np.isfinite(x)).astype(np.float64), size, mode="constant") > 1e-9
    np.testing.assert_array_equal(~np.isfinite(y), reached)
    exact = scipy_ndimage.uniform_filter(np.where(np.isfinite(x), x, 0).astype(np.float64), size, mode="constant")
    np.testing.assert_allclose(y[~reached], exact[~reached], rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_under_zeros_at_the_ends_of_factors_are_not_read(mode: str) -> None:
    """A cross, a T and an L: their corners' NaN goes nowhere, whether rows or columns have the gaps."""
    generator = rng(f"support {mode}")
    shape, cross = (37, 67), (np.array([0.0, 1, 0]), np.array([1.0, -2, 1]))
    short, long = np.array([0, 0, 1.5, 0, 0]), np.array([1.0, 2, 3, 4, 5])
    for dtype in ("float32", "float64"):
        x = generator.uniform(-1, 1, shape).astype(dtype)
        x[20, 30] = x[0, 0] = np.nan
        for terms in (
            (cross, cross[::-1]),
            ((np.array([1.0, 0, 0]), np.array([1.0, 2, 3])), (np.array([1.0, 2, 3]), np.array([0, 1.0, 0]))),
            ((long, short),),
            ((short, long), (long, np.array([1.0, 0, 0, 0, 0]))),
        ):
            k = len(terms[0][0])
            padding = ((k // 2, k // 2),) * 2
            problem = ConvProblem.make((1, 1, *shape), (1, 1, k, k), padding=padding, padding_mode=mode)
            factors = Factors(terms)
            call = Call(problem, "forward", dtype, factored=factors.described)
            product = factors.product(problem)[0, 0]
            wanted = np.zeros(shape)
            how = {"nearest": "edge", "mirror": "reflect", "zeros": "constant"}.get(mode, mode)
            values = np.pad(x.astype("d"), k // 2, mode=how)
            for (i, j), weight in np.ndenumerate(product):
                if weight:
                    wanted += weight * values[i : i + shape[0], j : j + shape[1]]
            for name in ("stencil", "separable"):
                y = np.full((1, 1, *shape), np.nan, dtype)
                choose(call, "cpu", name).run(call, x[None, None], factors, y)
                np.testing.assert_allclose(y[0, 0], wanted, rtol=0, atol=100 * np.finfo(dtype).eps, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_weights_with_factors_give_what_their_product_gives(mode: str) -> None:
    generator = rng(f"rank one {mode}")
    x = generator.uniform(-1, 1, (130, 140))
    w = np.outer(generator.uniform(-1, 1, 11), generator.uniform(-1, 1, 9))
    scipy_mode = {"zeros": "constant", "symmetric": "reflect"}.get(mode, mode)
    ours = ndimage.correlate(x, w, mode=scipy_mode)
    np.testing.assert_allclose(ours, scipy_ndimage.correlate(x, w, mode=scipy_mode), rtol=0, atol=1e-13)


def test_factors_multiply_to_weights() -> None:
    problem = ConvProblem.make((1, 1, 8, 8), (1, 1, 2, 3))
    product = Factors(((np.array([1.0, 2.0]), np.array([1.0, 0.0, -1.0])),)).product(problem)
    np.testing.assert_array_equal(product, [[[[1, 0, -1], [2, 0, -2]]]])
