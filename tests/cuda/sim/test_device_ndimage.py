"""`gpuconv.ndimage` on arrays in a GPU's memory, against its results on the CPU."""

import numpy as np
import pytest
from device_arrays import Foreign, assert_same, on_the_host

import gpuconv
from gpuconv import ndimage
from gpuconv.ndimage.precision import bound

cuda = pytest.importorskip("numba.cuda")

RNG = np.random.default_rng(3)
IMAGE = RNG.random((5, 6))
KERNEL = RNG.random((3, 2))
LINE = np.array([0.25, 0.5, 0.125])
TOLERANCE = 1e-12, 1e-12
SINGLE = 0, 40 * bound(6)
"""Sums of weights and values below 10 times a few."""


def dtyped(dtype):
    """Return an image whose mean filters are not halfway between integers."""
    values = 10 * IMAGE
    return (values + 1j * values[::-1]).astype(dtype) if np.dtype(dtype).kind == "c" else values.astype(dtype)


FUNCTIONS = {
    "correlate": (IMAGE, KERNEL),
    "convolve": (IMAGE, KERNEL),
    "correlate1d": (IMAGE, LINE),
    "convolve1d": (IMAGE, LINE, 0),
    "gaussian_filter": (IMAGE, 0.5),
    "gaussian_filter1d": (IMAGE, 0.5, 0, 1),
    "uniform_filter": (IMAGE, (3, 2)),
    "uniform_filter1d": (IMAGE, 3),
    "prewitt": (IMAGE, 0),
    "sobel": (IMAGE,),
    "laplace": (IMAGE,),
    "gaussian_laplace": (IMAGE, 0.4),
    "gaussian_gradient_magnitude": (IMAGE, 0.4),
    "generic_laplace": (IMAGE, ndimage.sobel),
    "generic_gradient_magnitude": (IMAGE, ndimage.prewitt),
}


def test_the_list_is_complete():
    assert set(FUNCTIONS) == set(ndimage.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    assert_same(getattr(ndimage, name), TOLERANCE, *FUNCTIONS[name])


@pytest.mark.parametrize("mode", ["reflect", "constant", "nearest", "mirror", "wrap", "valid"])
def test_borders(mode):
    assert_same(ndimage.correlate, TOLERANCE, IMAGE, KERNEL, mode=mode, cval=2.5)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64", "float32"])
def test_dtypes(dtype):
    assert_same(ndimage.correlate, SINGLE if dtype == "float32" else (0, 0), dtyped(dtype), KERNEL)
    assert_same(ndimage.uniform_filter, SINGLE if dtype == "float32" else (0, 0), dtyped(dtype), 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    x = dtyped("float16")
    if dtype == "float16":
        assert_same(ndimage.correlate1d, (2.0**-9, 0), x, LINE)
        return
    wanted = ndimage.correlate1d(x.astype(ml_dtypes.bfloat16), LINE)
    bits = x.astype(ml_dtypes.bfloat16)
    there = Foreign(bits)
    there.dtype = bits.dtype
    result = on_the_host(ndimage.correlate1d(there, LINE, output="float32"))
    np.testing.assert_allclose(result, wanted.astype(np.float32), rtol=2.0**-7)


@pytest.mark.parametrize(("x", "w"), [("complex128", "float64"), ("float64", "complex128"), ("complex64", "complex64")])
def test_complex(x, w):
    weights = (KERNEL - 0.5j * KERNEL[::-1]).astype(w) if w.startswith("complex") else KERNEL
    assert_same(ndimage.convolve, SINGLE if x == "complex64" else TOLERANCE, dtyped(x), weights, mode="constant")


def test_complex_magnitude():
    assert_same(ndimage.generic_gradient_magnitude, TOLERANCE, dtyped("complex128"), ndimage.prewitt)


@pytest.mark.parametrize("nan", ["interpolate", "zero", None])
def test_missing_elements(nan):
    gaps = np.where(IMAGE < 0.3, np.nan, IMAGE)
    gaps[:3, :3] = np.nan
    assert_same(ndimage.correlate, TOLERANCE, gaps, KERNEL, nan=nan)
    assert_same(ndimage.uniform_filter, TOLERANCE, gaps, 2, nan=nan)


@pytest.mark.parametrize("dtype", ["float64", "int16", "uint8"])
def test_masks(dtype):
    mask = IMAGE > 0.6
    mask[2:, 3:] = True
    x = dtyped(dtype)
    wanted = ndimage.correlate(x, KERNEL, mask=mask)
    for there in (mask, Foreign(mask)):
        np.testing.assert_allclose(on_the_host(ndimage.correlate(Foreign(x), KERNEL, mask=there)), wanted, *TOLERANCE)


def test_axes_steps_origins_and_banks():
    volume = RNG.random((3, 2, 4))
    assert_same(ndimage.correlate, TOLERANCE, volume, KERNEL, axes=(0, 2), origin=(0, -1), step=(1, 2))
    assert_same(ndimage.uniform_filter, TOLERANCE, volume, 2, axes=1)
    assert_same(ndimage.convolve, TOLERANCE, IMAGE, np.stack([KERNEL, -KERNEL]), bank=True, axes=(0, 1))
    assert_same(ndimage.gaussian_filter, TOLERANCE, IMAGE.T, 0.4, step=2)


@pytest.mark.parametrize("mode", ["mirror", "constant", "nearest", "valid"])
def test_more_than_three_axes(mode):
    assert_same(ndimage.correlate, TOLERANCE, RNG.random((2, 3, 2, 2)), RNG.random((2, 2, 2, 2)), mode=mode, cval=1.5)


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool"])
def test_output(dtype):
    wanted = ndimage.correlate(IMAGE, 3 * KERNEL, output=np.dtype(dtype))
    whole = np.zeros((5, 12), dtype)
    for place in (np.zeros((5, 6), dtype), whole[:, ::-2]):
        output = Foreign(place, strides=place.strides)
        assert ndimage.correlate(Foreign(IMAGE), 3 * KERNEL, output) is output
        np.testing.assert_allclose(place, wanted, *SINGLE)
    assert not whole[:, ::2].any()


def test_output_over_the_input():
    x = IMAGE.copy()
    ndimage.uniform_filter1d(Foreign(x), 3, output=Foreign(x))
    np.testing.assert_allclose(x, ndimage.uniform_filter1d(IMAGE, 3), *TOLERANCE)
    x = IMAGE.copy()
    ndimage.laplace(Foreign(x), Foreign(x))
    np.testing.assert_allclose(x, ndimage.laplace(IMAGE), *TOLERANCE)


def test_out():
    out = Foreign(np.zeros((5, 6)))
    assert ndimage.sobel(Foreign(IMAGE), out=out) is out
    np.testing.assert_allclose(out.array, ndimage.sobel(IMAGE), *TOLERANCE)


def test_functions_of_the_caller_get_the_callers_kind():
    seen = []

    def derivative(input, axis, output, mode, cval):
        seen.append((input, output))
        return ndimage.sobel(input, axis, output, mode, cval)

    x, output = Foreign(IMAGE), Foreign(np.zeros((5, 6)))
    assert ndimage.generic_laplace(x, derivative, output) is output
    assert seen == [(x, output), (x, np.dtype("float64"))]


def test_weights_and_filters_on_either_side():
    wanted = ndimage.correlate(IMAGE, KERNEL)
    np.testing.assert_allclose(on_the_host(ndimage.correlate(Foreign(IMAGE), KERNEL)), wanted, *TOLERANCE)
    result = ndimage.correlate(IMAGE, Foreign(KERNEL))
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, wanted, *TOLERANCE)
    result = ndimage.laplace(IMAGE.astype("uint8"), backend="cuda")
    np.testing.assert_array_equal(result, ndimage.laplace(IMAGE.astype("uint8")))


def test_the_callers_stream(monkeypatch):
    used = []
    from gpuconv.backends.cuda import launch

    monkeypatch.setattr(launch, "stream", lambda handle: used.append(handle) or 0)
    monkeypatch.setattr(launch, "wait_for", lambda other, then: used.append(other))
    gaps = np.where(IMAGE < 0.3, np.nan, IMAGE)
    ndimage.uniform_filter(Foreign(gaps, stream=7), 2, nan="interpolate")
    assert set(used) == {7}


def test_what_is_refused():
    x = Foreign(IMAGE)
    with pytest.raises(gpuconv.UnsupportedError, match="this call computes on the CPU"):
        ndimage.gaussian_filter(x, 1, backend="cpu")
    with pytest.raises(gpuconv.UnsupportedError, match="this call computes on the CPU"):
        ndimage.correlate(IMAGE, Foreign(KERNEL), backend="cpu")
    for name in ("output", "out"):
        with pytest.raises(gpuconv.UnsupportedError, match=f"{name}, of type ndarray, lies in the host's memory"):
            ndimage.sobel(x, **{name: np.zeros((5, 6))})
        with pytest.raises(gpuconv.UnsupportedError, match=f"{name}, of type Foreign, lies in a GPU's memory"):
            ndimage.sobel(IMAGE, **{name: Foreign(np.zeros((5, 6)))})
    with pytest.raises(gpuconv.UnsupportedError, match="mask, of type Foreign"):
        ndimage.correlate(IMAGE, KERNEL, mask=Foreign(IMAGE > 0))
    with pytest.raises(ValueError, match="read-only"):
        ndimage.sobel(x, output=Foreign(np.zeros((5, 6)), read_only=True))
    with pytest.raises(RuntimeError, match="not supported"):
        ndimage.sobel(Foreign(np.zeros(4, np.longdouble)))
