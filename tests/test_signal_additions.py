"""What `gpuconv.signal` has besides SciPy: axes with broadcasting, steps, `out`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv import DtypeError, ShapeError, UnsupportedError, signal
from gpuconv.signal import engine

sp = pytest.importorskip("scipy.signal")


def array(shape, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 9
    return (x + 1j * rng.standard_normal(shape)).astype(dtype) if np.dtype(dtype).kind == "c" else x.astype(dtype)


def along_last(function, a, b, mode):
    """Return a 1-d function of every pair of lines of two broadcast arrays, one after the other."""
    shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a, b = (np.broadcast_to(s, (*shape, s.shape[-1])) for s in (a, b))
    lines = [function(a[i], b[i], mode, "direct") for i in np.ndindex(shape)]
    return np.reshape(lines, (*shape, -1))


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c16", "i4"])
@pytest.mark.parametrize(
    ("first", "second"), [((3, 20), (1, 6)), ((1, 20), (4, 6)), ((2, 1, 9), (1, 3, 5)), ((3, 7), (3, 9))]
)
def test_many_signals_and_many_kernels(name, mode, dtype, first, second):
    a, b = array(first, dtype), array(second, dtype, 1)
    wanted = along_last(getattr(sp, name), a, b, mode)
    for step in (1, 3):
        ours = getattr(signal, name)(a, b, mode, axes=-1, step=step)
        assert ours.dtype == wanted.dtype
        np.testing.assert_allclose(
            ours, wanted[..., ::step], rtol=1e-5 if dtype == "f4" else 1e-12, atol=2e-3 if dtype == "f4" else 1e-10
        )


STEPPED = [
    ("convolve", (17, 12), (4, 5), {}),
    ("correlate", (4, 5), (17, 12), {}),
    ("convolve", (5, 6, 4, 7), (2, 3, 2, 4), {"method": "direct"}),
    ("fftconvolve", (3, 30), (3, 7), {"axes": 1}),
    ("oaconvolve", (30, 1, 4), (7, 3, 4), {"axes": (0,)}),
    ("convolve2d", (13, 9), (4, 3), {"boundary": "wrap"}),
    ("convolve2d", (13, 9), (4, 3), {"fillvalue": 2}),
    ("correlate2d", (13, 9), (4, 3), {"boundary": "symm"}),
    ("correlate2d", (4, 3), (13, 9), {}),
]


@pytest.mark.parametrize(("name", "first", "second", "arguments"), STEPPED)
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_steps_and_out(name, first, second, arguments, mode):
    for one, two, steps in itertools.product(("f8", "c16"), ("f8", "c16"), (2, "each")):
        a, b = array(first, one), array(second, two, 1)
        dense = getattr(sp, name)(a, b, mode, **arguments)
        axes = np.atleast_1d(arguments.get("axes", range(a.ndim)))
        step = [2 + int(i) % 2 for i in range(len(axes))] if steps == "each" else steps
        keep = [slice(None)] * a.ndim
        for axis, s in zip(axes, np.broadcast_to(step, len(axes)), strict=True):
            keep[axis] = slice(None, None, s)
        wanted = dense[tuple(keep)]
        ours = getattr(signal, name)(a, b, mode, step=step, **arguments)
        np.testing.assert_allclose(ours, wanted, atol=1e-9)
        out = np.full(wanted.shape, np.nan, wanted.dtype)
        assert getattr(signal, name)(a, b, mode, step=step, out=out, **arguments) is out
        np.testing.assert_array_equal(out, ours)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i8", "f2"])
def test_out_of_every_kind(dtype):
    a, b = (array(40, "f8", seed).astype(dtype) for seed in (0, 1))
    wanted = signal.convolve(a, b)
    out = np.zeros(wanted.shape, wanted.dtype)
    assert signal.convolve(a, b, out=out) is out
    np.testing.assert_array_equal(out, wanted)
    large = np.arange(20_000) % 100
    out = np.zeros(20_000, large.dtype)
    np.testing.assert_array_equal(
        signal.convolve(large, large[:300], "same", out=out), np.convolve(large, large[:300], "same")
    )


def test_steps_are_the_problems_own(monkeypatch):
    seen = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda *arguments, **more: seen.append(arguments) or run(*arguments, **more))
    signal.convolve(np.ones(1000), np.ones(9), "same", step=5)
    (call,) = seen
    assert call[5][0] == (5,)


ERRORS = [
    (ValueError, "step=0", {"step": 0}),
    (ValueError, "step=.* has 3 entries", {"step": (1, 1, 1)}),
    (ValueError, "incompatible shapes", {"axes": 0}),
    (ValueError, "exceeds", {"axes": 2}),
    (ShapeError, "out has shape", {"out": np.empty(3)}),
    (DtypeError, "out has dtype", {"out": np.empty((5, 6), "f4")}),
    (UnsupportedError, "backend='tpu'", {"backend": "tpu"}),
]


@pytest.mark.parametrize(("kind", "message", "arguments"), ERRORS)
def test_errors_name_the_argument(kind, message, arguments):
    with pytest.raises(kind, match=message):
        signal.convolve(np.ones((4, 4)), np.ones((2, 3)), **arguments)


def test_what_scipy_computes_has_no_additions():
    a = np.ones(5, np.longdouble)
    for arguments in ({"step": 2}, {"axes": 0}, {"out": np.empty(9, np.longdouble)}):
        with pytest.raises(DtypeError, match=f"{next(iter(arguments))}= is not available"):
            signal.convolve(a, a, **arguments)


@pytest.mark.parametrize("function", [signal.convolve, signal.choose_conv_method])
def test_modes_and_empty_arrays_are_refused(function):
    with pytest.raises(ValueError, match="mode='none'"):
        function(np.ones(3), np.ones(2), mode="none")
    with pytest.raises(ValueError, match="empty"):
        function(np.ones(0), np.ones(2))


def test_fill_values():
    a = np.ones((3, 3), np.uint8)
    with pytest.raises(ValueError, match="fillvalue"):
        signal.convolve2d(a, a, fillvalue=-1)
    np.testing.assert_array_equal(
        signal.convolve2d(a, a, boundary="wrap", fillvalue=1j), sp.convolve2d(a, a, boundary="wrap")
    )
