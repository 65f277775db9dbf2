"""`gpuconv.ndimage` beside `scipy.ndimage` on arguments drawn at random, and on weights of more than three axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv import ndimage

sp = pytest.importorskip("scipy.ndimage")

MODES = ("reflect", "constant", "nearest", "mirror", "wrap", "grid-mirror", "grid-constant", "grid-wrap")
DTYPES = ("?", "u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16", ">f4", ">i2")
OUTPUTS = (None, None, None, "f4", "f8", "i4", "u1", "i8", "c8", "?")


def draw(rng, shape, dtype):
    """Return numbers small enough for every sum to be exact in float64 where weights are whole."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0 if dtype.kind in "ub" else -40, 2 if dtype.kind == "b" else 40, shape).astype(dtype)


def arguments_of(rng, name, x):
    """Return positional and keyword arguments of a filter after its input."""
    n, keywords, positional = x.ndim, {"mode": str(rng.choice(MODES)), "cval": float(rng.integers(-2, 3))}, []
    along = int(rng.integers(-n, n))
    if name in ("correlate", "convolve", "gaussian_filter", "uniform_filter", "laplace") and rng.random() < 0.5:
        n = int(rng.integers(1, n + 1))
        keywords["axes"] = tuple(int(axis) for axis in rng.permutation(x.ndim)[:n])
    whole = x.dtype.kind in "biu"
    if name in ("correlate", "convolve"):
        w = draw(rng, tuple(rng.integers(1, 5 if n < 4 else 3, n)), "i4" if whole else rng.choice(["f8", "c16"]))
        positional.append(w)
        keywords["origin"] = [int(rng.integers(-((k - 1) // 2), (k - 1) // 2 + 1)) for k in w.shape]
    elif name in ("correlate1d", "convolve1d"):
        positional.append(draw(rng, int(rng.integers(1, 9)), "i4" if whole else rng.choice(["f8", "c16"])))
        keywords["axis"] = along
    elif name.startswith("gaussian_filter"):
        positional.append(float(rng.uniform(0.3, 2.5)))
        keywords |= {"order": int(rng.integers(0, 4)), **({"axis": along} if name.endswith("1d") else {})}
    elif name.startswith("uniform"):
        positional.append(int(rng.integers(1, 6)))
        keywords |= {"axis": along} if name.endswith("1d") else {}
    elif name in ("sobel", "prewitt"):
        keywords["axis"] = along
    if name in ("gaussian_filter", "uniform_filter", "sobel", "laplace") and rng.random() < 0.4:
        keywords["mode"] = [str(mode) for mode in rng.choice(MODES, n)]
    return positional, keywords


NAMES = (
    "correlate", "convolve", "correlate1d", "convolve1d", "gaussian_filter", "gaussian_filter1d", "uniform_filter",
    "uniform_filter1d", "sobel", "prewitt", "laplace",
)  # fmt: skip


def outcome(function, *arguments, **keywords):
    """Return the result, or the kind of error."""
    try:
        return function(*arguments, **keywords)
    except (RuntimeError, ValueError, TypeError) as error:
        return next(kind for kind in (RuntimeError, ValueError, TypeError) if isinstance(error, kind))


@pytest.mark.filterwarnings("ignore:promoting specified output")
@pytest.mark.parametrize("name", NAMES)
def test_random_arguments(name):
    rng = np.random.default_rng(NAMES.index(name))
    compared = 0
    for case in range(60):
        # Gaussians of integers may be whole numbers, which rounding leaves on either side of the cut.
        dtypes = [dtype for dtype in DTYPES if "gaussian" not in name or np.dtype(dtype).kind in "fc"]
        x = draw(rng, tuple(rng.integers(1, 7, rng.integers(1, 6))), rng.choice(dtypes))
        x = x[tuple(slice(None, None, int(rng.choice([1, -1, 2]))) for _ in x.shape)]
        positional, keywords = arguments_of(rng, name, x)
        output = OUTPUTS[rng.integers(len(OUTPUTS))]
        whole = "gaussian" in name and np.dtype(output or x.dtype).kind in "biu"
        if output is not None and (x.dtype.kind == "c") == (np.dtype(output).kind == "c") and not whole:
            keywords["output"] = np.dtype(output)
        ours = outcome(getattr(ndimage, name), x, *positional, **keywords)
        theirs = outcome(getattr(sp, name), x, *positional, **keywords)
        what = f"case {case}: {x.dtype} {x.shape} {positional} {keywords}"
        if isinstance(theirs, type):
            assert ours is theirs, what
            continue
        compared += 1
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), what
        if ours.dtype.kind == "b":
            # SciPy leaves other bytes than 0 and 1 in an array of bool.
            np.testing.assert_array_equal(ours, theirs.view("u1") != 0, what)
        elif ours.dtype.kind in "iu":
            np.testing.assert_array_equal(ours, theirs, what)
        else:
            single = "f4" in (x.dtype.str[1:], ours.dtype.str[1:]) or "c8" in (x.dtype.str[1:], ours.dtype.str[1:])
            scale = max(1.0, np.abs(x.astype("c16")).max(initial=0), np.abs(theirs).max(initial=0))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=(2e-5 if single else 1e-13) * scale, err_msg=what)
    assert compared > 30


@pytest.mark.parametrize("name", ["correlate", "convolve"])
@pytest.mark.parametrize("mode", ["reflect", "constant", "wrap", "valid"])
def test_weights_along_more_than_three_axes(name, mode):
    rng = np.random.default_rng(0)
    for shape, size, dtype in [
        ((4, 5, 3, 6), (2, 3, 3, 2), "f8"),
        ((3, 4, 3, 4, 5), (2, 2, 3, 2, 2), "f4"),
        ((3, 4, 3, 5), (3, 2, 2, 2), "u1"),
        ((3, 4, 1, 3, 5), (2, 2, 1, 2, 2), "c16"),
    ]:
        x, w = draw(rng, shape, dtype), draw(rng, size, "i4").astype("f8")
        theirs = getattr(sp, name)(x, w, mode="reflect" if mode == "valid" else mode, cval=2.0)
        step = (1, 2, 1, 2, 1)[: x.ndim]
        if mode == "valid":
            shift = 0 if name == "correlate" else 1
            inner = [
                slice(k // 2 - shift * (k % 2 == 0), n - (k - 1 - k // 2) - shift * (k % 2 == 0))
                for k, n in zip(size, shape, strict=True)
            ]
            theirs = theirs[tuple(inner)]
        theirs = theirs[tuple(slice(None, None, s) for s in step)]
        ours = getattr(ndimage, name)(x, w, mode=mode, cval=2.0, step=step)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-5 if dtype == "f4" else 1e-12, atol=1e-3 if dtype == "f4" else 1e-11
        )
    bank = np.stack([w.real, -2 * w.real])
    several = ndimage.correlate(x, bank, bank=True)
    np.testing.assert_allclose(several[1], ndimage.correlate(x, bank[1]), atol=1e-11)


def test_outputs_that_are_refused():
    for x, output in itertools.product((np.ones(4), np.ones(4, "c16")), ("c8", "f4", "U3", "O", "g")):
        refused = np.dtype(output).kind not in ("c" if x.dtype.kind == "c" else "f") or output == "g"
        if refused:
            for home in (sp, ndimage):
                with pytest.raises((RuntimeError, ValueError)):
                    home.sobel(x, output=np.empty(4, output))
    for dtype in ("g", "O", "M8[s]"):
        for home in (sp, ndimage):
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                home.uniform_filter(np.zeros(4, dtype), 3)
