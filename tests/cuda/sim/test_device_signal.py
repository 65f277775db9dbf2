"""`gpuconv.signal` on arrays in a GPU's memory, against its results on the CPU."""

import numpy as np
import pytest
from device_arrays import Foreign, assert_same, on_the_host

import gpuconv
from gpuconv import signal

RNG = np.random.default_rng(4)
SOUND, ECHO = RNG.random(9), RNG.random(4)
IMAGE, KERNEL = RNG.random((4, 5)), RNG.random((2, 3))
TOLERANCE = 1e-12, 1e-12


@pytest.mark.parametrize("name", ["convolve", "correlate", "fftconvolve", "oaconvolve"])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_functions(name, mode):
    assert_same(getattr(signal, name), TOLERANCE, SOUND, ECHO, mode)
    if mode == "same":
        assert_same(getattr(signal, name), TOLERANCE, IMAGE, KERNEL, mode)


@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
def test_planes(name, boundary):
    for mode in ("full", "same", "valid"):
        assert_same(getattr(signal, name), TOLERANCE, IMAGE, KERNEL, mode, boundary)
    assert_same(getattr(signal, name), TOLERANCE, KERNEL, IMAGE, "valid", boundary, step=(1, 2))
    if boundary == "fill":
        assert_same(getattr(signal, name), TOLERANCE, IMAGE, KERNEL, "full", boundary, 1.5)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "complex64", "complex128"])
def test_dtypes(dtype):
    tolerances = (1e-5, 1e-4) if dtype.endswith(("32", "64")) and dtype != "int64" else TOLERANCE
    a, b = (np.round(10 * values).astype(dtype) for values in (SOUND, ECHO))
    a = a + a[::-1] * a.dtype.type(1j) if a.dtype.kind == "c" else a
    assert_same(signal.convolve, tolerances, a, b)
    assert_same(signal.correlate, tolerances, b, a)
    assert_same(signal.correlate, tolerances, a, SOUND[:3].astype(a.real.dtype))


def test_broadcast_axes_and_steps():
    assert_same(signal.convolve, TOLERANCE, IMAGE, KERNEL[:1], axes=1, step=2)
    assert_same(signal.fftconvolve, TOLERANCE, IMAGE, RNG.random((4, 2)), axes=1)
    assert_same(signal.fftconvolve, TOLERANCE, IMAGE, IMAGE[:, :1], axes=1)
    assert_same(signal.convolve, TOLERANCE, IMAGE[:, None], KERNEL[None], "same", axes=2)


def test_more_than_three_axes():
    assert_same(signal.convolve, TOLERANCE, RNG.random((2, 3, 2, 2)), RNG.random((2, 2, 1, 2)), "same")
    assert_same(signal.convolve, TOLERANCE, RNG.random((2, 3, 2, 2)), RNG.random((2, 2, 2, 2)), "full")


def test_out():
    wanted = signal.convolve(SOUND, ECHO)
    for place in (np.zeros(12), np.zeros(24)[::-2]):
        out = Foreign(place, strides=place.strides)
        assert signal.convolve(Foreign(SOUND), ECHO, out=out) is out
        np.testing.assert_allclose(place, wanted, *TOLERANCE)
    out = Foreign(np.zeros((4, 5), np.uint8))
    photo = (9 * IMAGE).astype(np.uint8)
    assert signal.convolve2d(Foreign(photo), photo[:2, :2], "same", out=out) is out
    np.testing.assert_array_equal(out.array, signal.convolve2d(photo, photo[:2, :2], "same"))


def test_mixtures_follow_the_first():
    wanted = signal.convolve(SOUND, ECHO)
    result = signal.convolve(SOUND, Foreign(ECHO))
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, wanted, *TOLERANCE)
    np.testing.assert_allclose(on_the_host(signal.convolve(Foreign(SOUND), list(ECHO))), wanted, *TOLERANCE)
    np.testing.assert_allclose(signal.convolve(SOUND, ECHO, backend="cuda"), wanted, *TOLERANCE)


def test_numbers_and_empty_arrays():
    three = Foreign(np.array(3.0))
    assert on_the_host(signal.convolve(three, Foreign(np.array(2.0)))) == 6
    assert on_the_host(signal.fftconvolve(three, 2.0)) == 6
    assert on_the_host(signal.fftconvolve(Foreign(SOUND[:0]), SOUND)).shape == (0,)
    assert signal.choose_conv_method(Foreign(SOUND), Foreign(ECHO)) == "direct"


def test_a_transform_warns_of_infinities():
    sound = SOUND.copy()
    sound[3] = np.inf
    with pytest.warns(RuntimeWarning, match="NAN or inf"):
        result = signal.convolve(Foreign(sound), Foreign(ECHO), method="fft")
    np.testing.assert_allclose(on_the_host(result), signal.convolve(sound, ECHO), *TOLERANCE)


def test_what_is_refused():
    with pytest.raises(gpuconv.UnsupportedError, match="this call computes on the CPU"):
        signal.convolve(Foreign(SOUND), ECHO, backend="cpu")
    with pytest.raises(gpuconv.UnsupportedError, match="out, of type ndarray, lies in the host's memory"):
        signal.convolve(Foreign(SOUND), ECHO, out=np.zeros(12))
    with pytest.raises(gpuconv.DtypeError, match="longdouble"):
        signal.convolve(Foreign(SOUND.astype(np.longdouble)), Foreign(ECHO))
    with pytest.raises(gpuconv.DtypeError, match="object"):
        signal.convolve(Foreign(SOUND), ECHO.astype(object))
