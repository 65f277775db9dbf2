"""`gpuconv.signal` beside `scipy.signal`: the same values, dtypes and errors."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

from gpuconv import signal

sp = pytest.importorskip("scipy.signal")

MODES = ("full", "valid", "same")
DTYPES = ("?", "u1", "i1", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")


def array(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0 if dtype.kind in "ub" else -100, 2 if dtype.kind == "b" else 100, shape).astype(dtype)


def close(ours, theirs, terms):
    """Compare within the rounding of a sum of so many terms in the result's precision."""
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ours.dtype.kind in "iub":
        np.testing.assert_array_equal(ours, theirs)
    else:
        bound = 8 * terms * np.finfo(ours.dtype).eps * max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("name", signal.__all__)
def test_signatures_are_scipys(name):
    ours, theirs = inspect.signature(getattr(signal, name)), inspect.signature(getattr(sp, name))
    mine, added = [], []
    for p in ours.parameters.values():
        (mine if p.name in theirs.parameters else added).append((p.name, p.kind, p.default))
    assert mine == [(p.name, p.kind, p.default) for p in theirs.parameters.values()]
    assert {kind for _, kind, _ in added} <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["convolve", "correlate"])
def test_lengths_of_either_order(name, mode):
    for n, k in itertools.product((1, 2, 3, 4, 7, 8), repeat=2):
        a, b = array(n, "c16"), array(k, "c16", 1)
        close(getattr(signal, name)(a, b, mode), getattr(sp, name)(a, b, mode), n)


@pytest.mark.parametrize("method", ["auto", "direct", "fft"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(DTYPES, repeat=2)))
def test_dtypes(first, second, method):
    a, b = array(23, first), array(6, second, 1)
    wanted = sp.convolve(a, b, method="direct")
    wide = np.promote_types(wanted.dtype, "f4") if wanted.dtype == np.float16 else wanted.dtype
    ours = signal.convolve(a, b, method=method)
    assert ours.dtype == wanted.dtype
    if wanted.dtype == np.float16:
        exact = sp.convolve(a.astype(wide), b.astype(wide))
        np.testing.assert_allclose(ours, exact, rtol=2e-3, atol=1e-2)
    else:
        close(ours, wanted, 24 if wanted.dtype.kind in "fc" else 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("dtype", ["i4", "f8", "c8"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((7, 9), (3, 4)),
        ((3, 4), (7, 9)),
        ((5, 1, 6), (3, 1, 2)),
        ((4, 5, 6), (2, 3, 1)),
        ((4, 5, 3, 6), (2, 3, 2, 4)),
        ((2, 5, 3, 4, 3), (2, 2, 1, 3, 2)),
        ((1, 4, 3, 4, 3), (1, 2, 3, 3, 2)),
    ],
)
def test_ranks(first, second, dtype, name, mode):
    a, b = array(first, dtype), array(second, dtype, 1)
    close(getattr(signal, name)(a, b, mode, "direct"), getattr(sp, name)(a, b, mode, "direct"), b.size)


@pytest.mark.parametrize("first", ["f4", "c16"])
@pytest.mark.parametrize("second", ["f4", "c16"])
def test_real_by_complex(first, second):
    a, b = array((12, 9), first), array((3, 2), second, 1)
    close(signal.convolve(a, b), sp.convolve(a, b), 12)
    close(signal.convolve(b, a), sp.convolve(b, a), 12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["fftconvolve", "oaconvolve"])
@pytest.mark.parametrize(
    ("first", "second", "axes"),
    [
        ((40,), (7,), None),
        ((3, 40), (3, 7), 1),
        ((3, 40), (1, 7), (1,)),
        ((1, 40), (4, 7), -1),
        ((40, 1, 5), (7, 3, 5), 0),
        ((40, 2, 1, 5), (7, 2, 3, 1), [0]),
        ((6, 2, 9, 5), (3, 2, 4, 1), [2, 0]),
        ((1, 1), (1, 1), None),
        ((4, 1), (1, 5), None),
    ],
)
def test_axes_and_broadcasting(first, second, axes, name, mode):
    for a, b in (
        (array(first, "f8"), array(second, "f8", 1)),
        (array(second, "c8"), array(first, "c8", 1)),
        (array(first, "i4"), array(second, "i4", 1)),
        (array(first, "f8"), array(second, "i2", 1)),
    ):
        ours, theirs = (getattr(home, name)(a, b, mode, axes) for home in (signal, sp))
        close(ours, theirs, 8 * max(1, b.size))


@pytest.mark.parametrize("boundary", ["fill", "pad", "wrap", "circular", "symm", "symmetric"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
@pytest.mark.parametrize("dtype", ["i1", "i8", "f4", "c16"])
@pytest.mark.parametrize(("first", "second"), [((6, 7), (3, 4)), ((2, 3), (5, 6)), ((5, 5), (1, 1)), ((1, 8), (1, 3))])
def test_boundaries(first, second, dtype, name, mode, boundary):
    a, b = array(first, dtype), array(second, dtype, 1)
    ours, theirs = (getattr(home, name)(a, b, mode, boundary, 3) for home in (signal, sp))
    close(ours, theirs, b.size)


def test_complex_fill():
    a, b = array((4, 5), "c16"), array((3, 2), "c16", 1)
    ours, theirs = (home.convolve2d(a, b, "full", "fill", 1 - 2j) for home in (signal, sp))
    close(ours, theirs, 6)
    with pytest.raises(ValueError, match="could not cast"):
        signal.convolve2d(a.real, b.real, fillvalue=1j)
    with pytest.raises(ValueError, match="fillvalue"):
        signal.convolve2d(a.real, b.real, fillvalue=[1, 2])


def test_large_integers_stay_exact():
    rng = np.random.default_rng(0)
    for bits in (8, 16, 20, 30):
        a, b = rng.integers(-(1 << bits), 1 << bits, 30_000), rng.integers(-(1 << bits), 1 << bits, 300)
        np.testing.assert_array_equal(signal.convolve(a, b, "same"), np.convolve(a, b, "same"))


def test_a_sum_of_booleans_does_not_wrap():
    assert signal.convolve(np.ones(600, bool), np.ones(256, bool), "valid").all()


def test_a_nan_stays_where_it_is():
    a = array(4000, "f4")
    a[1000] = np.nan
    b = array(801, "f4", 1)
    with pytest.warns(RuntimeWarning, match="Use of fft convolution"):
        y = signal.convolve(a, b, "same", "fft")
    np.testing.assert_array_equal(np.isnan(y), np.abs(np.arange(4000) - 1000) <= 400)


def test_objects_and_long_doubles_are_scipys():
    a, b = np.array([1, 2, 10**30], object), np.array([3, 4], object)
    assert signal.convolve(a, b).tolist() == sp.convolve(a, b).tolist()
    a, b = array(30, "f8").astype(np.longdouble), array(5, "f8").astype(np.longdouble)
    assert signal.fftconvolve(a, b).dtype == np.longdouble
    assert signal.correlate(a, b, method="direct").dtype == np.longdouble


def test_strides_and_views():
    a, b = array((30, 40), "f8").T[::2, ::-3], array((6, 8), "f8", 1)[::-2, ::2]
    close(signal.convolve(a, b), sp.convolve(a, b), 12)
    assert not np.shares_memory(signal.convolve(np.arange(3.0), np.ones(1)), a)


def test_lags():
    for n, k in itertools.product((1, 4, 5, 9), repeat=2):
        for mode in MODES:
            np.testing.assert_array_equal(signal.correlation_lags(n, k, mode), sp.correlation_lags(n, k, mode))


def test_method_choice():
    assert signal.choose_conv_method(np.ones(1000), np.ones(5)) == "direct"
    assert signal.choose_conv_method(np.arange(9), np.arange(5)) == "direct"
    method, times = signal.choose_conv_method(np.ones(200), np.ones(5), measure=True)
    assert set(times) == {"fft", "direct"}
    assert method in times


@pytest.mark.parametrize("name", ["convolve", "correlate", "fftconvolve", "oaconvolve"])
def test_errors(name):
    function = getattr(signal, name)
    assert function(3, 4) == 12
    with pytest.raises(ValueError, match="dimensionality"):
        function([1], [[1]])
    with pytest.raises(ValueError, match="mode"):
        function([1.0, 2.0], [1.0, 2.0], "valet")
    with pytest.raises(ValueError, match="at least as large"):
        function(np.ones((2, 3)), np.ones((3, 2)), "valid")
    with pytest.raises(TypeError, match="MaskedArray"):
        function(np.ma.array([1.0, 2.0]), [1.0])
    with pytest.raises(TypeError, match="dtype"):
        function(["a"], ["b"])


def test_more_errors():
    with pytest.raises(ValueError, match="method"):
        signal.convolve([1], [2], method="magic")
    with pytest.raises(ValueError, match="empty"):
        signal.convolve([], [2.0])
    assert signal.fftconvolve([], [2.0]).size == 0
    with pytest.raises(ValueError, match="boundary"):
        signal.convolve2d([[1]], [[2]], boundary="reflect")
    with pytest.raises(ValueError, match="incompatible shapes"):
        signal.fftconvolve(np.ones((2, 3)), np.ones((3, 3)), axes=1)
    with pytest.raises(ValueError, match="unique"):
        signal.oaconvolve(np.ones((2, 3)), np.ones((2, 3)), axes=(0, 0))
