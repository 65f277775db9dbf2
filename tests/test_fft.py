"""What the registry's tests do not reach of the fft algorithm: tile sizes, error bound, NaN, remainders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage as scipy_ndimage
from support import python, random_array, rng

import gpuconv
from gpuconv import UnsupportedError, dispatch, ndimage, reference
from gpuconv.backends.cpu import fft, fft_geometry
from gpuconv.dispatch import Call, algorithm
from gpuconv.factors import Factors
from gpuconv.problem import ConvProblem

EPSILON = {"float32": 2.0**-23, "complex64": 2.0**-23, "float64": 2.0**-52, "complex128": 2.0**-52}


def forced(monkeypatch, sizes):
    """Make every plan use tiles of these sizes (z, y, x)."""

    def tile(call):
        problem = call.problem if call.operation == "forward" else call.problem.adjoint()
        return fft_geometry.TileSize(sizes, fft_geometry.tiles_of(problem, sizes), 1, 1.0)

    monkeypatch.setattr(fft, "_tile", tile)
    fft._plan.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_plans():
    yield
    fft._plan.cache_clear()


def relative(actual, wanted):
    return float(np.linalg.norm((actual - wanted).ravel()) / np.linalg.norm(wanted.ravel()))


def lengths(least, most):
    return [n for n in fft_geometry._lengths(least) if n <= most]


def least_row(dtype):
    from gpuconv.backends.cpu.fft_tiles import group_of
    from gpuconv.backends.cpu.simd import lanes_of

    code = 0 if dtype in ("float32", "complex64") else 1
    return lanes_of(code) * group_of(code)


@pytest.mark.parametrize("dtype", list(EPSILON))
def test_every_length_of_a_row_within_the_error_bound(dtype, monkeypatch):
    generator = rng(f"fft rows {dtype}")
    for n in (n for n in lengths(least_row(dtype), 1 << 15) if n >= 32):
        forced(monkeypatch, (1, 1, n))
        k = max(24, n // 3 + 1)
        x, w = random_array((1, 1, 3 * n + 5), dtype, generator), random_array((1, 1, k), dtype, generator)
        y = gpuconv.conv1d(x, w, algorithm="fft")
        wide = np.complex128 if dtype.startswith("c") else np.float64
        length = 1 << math.ceil(math.log2(x.size + k))
        spectrum = np.fft.fft(x[0, 0].astype(wide), length) * np.fft.fft(w[0, 0, ::-1].astype(wide), length)
        wanted = np.fft.ifft(spectrum)[k - 1 : x.size]
        assert relative(y[0, 0], wanted if wide is np.complex128 else wanted.real) < 5 * EPSILON[dtype], n


@pytest.mark.parametrize("axis", [0, 1])
def test_every_length_of_a_column(axis, monkeypatch):
    generator = rng(f"fft columns {axis}")
    for n in lengths(1, 96):
        if n == 1:
            continue
        sizes = [2, 2, 64]
        sizes[axis] = n
        forced(monkeypatch, tuple(sizes))
        kernel = [2, 2, 20]
        kernel[axis] = n // 2 + 1
        spatial = [3, 3, 50]
        spatial[axis] = n + 3
        problem = ConvProblem.make((1, 1, *spatial), (1, 1, *kernel))
        x, w = random_array(problem.x_shape, "float32", generator), random_array(problem.w_shape, "float32", generator)
        y = gpuconv.conv3d(x, w, algorithm="fft")
        assert relative(y, reference.forward(problem, x.astype(float), w.astype(float))) < 6e-7, n


CASES = [
    ((2, 3, 40), (4, 3, 11), {"padding": 5}),
    ((3, 4, 40), (6, 2, 15), {"padding": ((20, 3),), "groups": 2, "padding_mode": "wrap"}),
    ((1, 2, 17, 23), (2, 1, 9, 8), {"padding": "same", "groups": 2, "padding_mode": "mirror"}),
    ((2, 17, 23, 2), (3, 2, 5, 6), {"padding": (8, 3), "layout": "channels_last", "padding_mode": "symmetric"}),
    ((1, 1, 30, 31), (1, 1, 30, 31), {"padding": 29}),
    ((1, 2, 9, 8, 10), (2, 2, 3, 4, 5), {"padding": ((1, 2), (-1, 3), (4, -2)), "padding_mode": "nearest"}),
    ((2, 9, 33), (3, 9, 29), {"padding": 3}),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), CASES)
def test_borders_groups_layouts(x_shape, w_shape, arguments, dtype):
    rank = len(w_shape) - 2
    problem = ConvProblem.make(x_shape, w_shape, **arguments)
    generator = rng(f"fft {problem} {dtype}")
    x, w = random_array(problem.x_shape, dtype, generator), random_array(problem.w_shape, dtype, generator)
    y = getattr(gpuconv, f"conv{rank}d")(x, w, **arguments, algorithm="fft")
    wide = np.complex128 if dtype.startswith("c") else np.float64
    wanted = reference.forward(problem, x.astype(wide), w.astype(wide))
    assert relative(y, wanted) < (6e-4 if dtype == "float16" else 4 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_transposed_and_input_gradient(dtype):
    generator = rng(f"fft adjoint {dtype}")
    problem = ConvProblem.make((2, 4, 20, 21), (6, 2, 7, 6), padding=((3, 2), (1, 4)), groups=2)
    y, w = random_array(problem.y_shape, dtype, generator), random_array(problem.w_shape, dtype, generator)
    gradient = gpuconv.grad.conv2d_input(problem.x_shape, w, y, padding=((3, 2), (1, 4)), groups=2, algorithm="fft")
    assert relative(gradient, reference.input_gradient(problem, y, w)) < 4 * EPSILON[dtype]
    moved = gpuconv.conv_transpose2d(y, w, padding=((3, 2), (1, 4)), groups=2, algorithm="fft")
    assert relative(moved, reference.transposed(problem, y, w)) < 4 * EPSILON[dtype]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["zeros", "wrap", "mirror"])
def test_what_is_not_finite_reaches_its_receptive_field_only(mode, value, monkeypatch):
    forced(monkeypatch, (1, 16, 64))
    generator = rng("fft not finite")
    problem = ConvProblem.make((2, 2, 60, 200), (2, 2, 5, 7), padding=(2, 3), padding_mode=mode)
    x, w = random_array(problem.x_shape, "float32", generator), random_array(problem.w_shape, "float32", generator)
    x[0, 1, 0, 199] = x[1, 0, 31, 100] = value
    y = gpuconv.conv2d(x, w, np.ones(2, np.float32), padding=(2, 3), padding_mode=mode, algorithm="fft")
    with np.errstate(invalid="ignore"):
        wanted = reference.forward(problem, x, w, np.ones(2, np.float32))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(np.isposinf(y), np.isposinf(wanted))
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(y[finite], wanted[finite], atol=3e-5)


def test_numbers_near_the_largest_do_not_overflow_inside_a_transform():
    x, w = np.full((1, 1, 500), 1e37, np.float32), np.full((1, 1, 30), 1e-3, np.float32)
    y = gpuconv.conv1d(x, w, algorithm="fft")
    np.testing.assert_allclose(y, 3e35, rtol=1e-5)


def test_weights_that_are_not_finite():
    x, w = np.ones((1, 1, 300), np.float32), np.ones((1, 1, 30), np.float32)
    w[0, 0, 3] = np.nan
    assert np.isnan(gpuconv.conv1d(x, w, algorithm="fft")).all()


@pytest.mark.parametrize(
    ("reason", "dtype", "precision", "arguments"),
    [
        ("excludes", "float32", "highest", {}),
        ("integers", "int32", "high", {}),
        ("stride", "float32", "high", {"stride": 2}),
        ("dilation", "float32", "high", {"dilation": 2}),
    ],
)
def test_what_it_leaves_to_others(reason, dtype, precision, arguments):
    with pytest.raises(UnsupportedError, match=reason):
        gpuconv.conv1d(
            np.ones((1, 1, 90), dtype), np.ones((1, 1, 30), dtype), algorithm="fft", precision=precision, **arguments
        )


def test_the_choice_follows_the_kernel():
    def chosen(spatial, kernel):
        rank = len(spatial)
        call = Call(ConvProblem.make((1, 1, *spatial), (1, 1, *kernel), rank=rank), "forward", "float32")
        return dispatch.choose(call, "cpu").__name__.rpartition(".")[2]

    assert chosen((1_000_000,), (1025,)) == "fft"
    assert chosen((2048, 2048), (63, 63)) == "fft"
    assert chosen((2048, 2048), (3, 3)) != "fft"
    assert chosen((1000,), (5,)) != "fft"


def test_results_do_not_depend_on_the_number_of_threads():
    code = (
        "import hashlib, numpy, gpuconv; g = numpy.random.default_rng(0);"
        "x, w = g.random((3, 1, 5000), numpy.float32), g.random((1, 1, 99), numpy.float32);"
        "print(hashlib.sha256(gpuconv.conv1d(x, w, algorithm='fft').tobytes()).hexdigest())"
    )
    assert len({python(code, GPUCONV_NUM_THREADS=str(n)) for n in (1, 2, 5)}) == 1


def test_weights_given_as_factors() -> None:
    generator = rng("factors of a transform")
    x = generator.uniform(-1, 1, (200, 210)).astype(np.float32)
    x[150, 20] = np.nan
    vectors = generator.uniform(0, 1, 41), generator.uniform(0, 1, 33)
    problem = ConvProblem.make((1, 1, 200, 210), (1, 1, 41, 33), padding=(20, 16), padding_mode="mirror")
    factors = Factors((vectors,), (4.0, 2.0))
    call = Call(problem, "forward", "float32", factored=factors.described)
    exact = scipy_ndimage.correlate(x.astype(np.float64), np.outer(*vectors) / 8, mode="mirror")
    module = algorithm("cpu", "fft")
    for packed in (None, module.pack(call, factors)):
        y = np.full((1, 1, 200, 210), 7, np.float32)
        module.run(call, x[None, None], factors, y, None, packed)
        np.testing.assert_allclose(y[0, 0], exact, rtol=0, atol=1e-6 * np.outer(*vectors).sum())


@pytest.mark.parametrize("sigma", [12, 17, 30])
def test_wide_gaussians(sigma: float) -> None:
    x = rng("wide").uniform(-1, 1, (700, 900)).astype(np.float32)
    exact = scipy_ndimage.gaussian_filter(x.astype(np.float64), sigma)
    np.testing.assert_allclose(ndimage.gaussian_filter(x, sigma), exact, rtol=0, atol=2e-6)
