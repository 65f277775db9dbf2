"""The pass of an activation over a result in a GPU's memory, or in the host's."""

import numpy as np
import pytest
from support import assert_activated, random_array, rng, tolerance
from test_arrays import Foreign

import gpuconv
from gpuconv import activation
from gpuconv.activation import NAMES
from gpuconv.backends.cuda.activation import apply
from gpuconv.backends.cuda.interop import adopt


@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_results(name, dtype):
    a = random_array((2, 3, 4), dtype, rng(name)) * a_few(dtype)
    a[0, 0, :3] = np.nan, np.inf, -np.inf
    host = a.copy()
    apply(host, name)
    assert_activated(host, a, name, tolerance(dtype, 0))
    if dtype == "bfloat16":
        return
    for view in (lambda b: b, lambda b: b.transpose(2, 0, 1), lambda b: b[:, ::-1, 1:3]):
        there, elsewhere = a.copy(), a.copy()
        apply(adopt(Foreign(view(there))), name)
        assert_activated(view(there), view(a), name, tolerance(dtype, 0))
        view(elsewhere)[...] = view(there)
        np.testing.assert_array_equal(elsewhere, there)


CALLS = {
    "direct": ((1, 2, 4), (3, 2, 2)),
    "implicit_gemm": ((1, 2, 4), (3, 2, 2)),
    "stencil": ((1, 1, 4, 5), (1, 1, 3, 2)),
    "winograd": ((1, 2, 4, 4), (2, 2, 3, 3)),
}


@pytest.mark.parametrize("name", ["relu", "silu"])
@pytest.mark.parametrize("algorithm", CALLS)
def test_algorithms_that_fuse_it_and_such_that_do_not(algorithm, name, monkeypatch):
    passed = []
    monkeypatch.setattr(
        activation, "_pass", lambda backend: lambda *arguments: passed.append(arguments[1]) or apply(*arguments)
    )
    x, w = (random_array(shape, "float32", rng(name)) for shape in CALLS[algorithm])
    function = gpuconv.conv1d if x.ndim == 3 else gpuconv.conv2d
    before = function(x, w, backend="cpu", algorithm="direct")
    result = function(x, w, activation=name, backend="cuda", algorithm=algorithm)
    assert_activated(result, before, name, tolerance("float32", 18))
    fused = algorithm == "stencil" or (name == "relu" and algorithm != "winograd")
    assert passed == [name] * (not fused)


def a_few(dtype):
    return np.asarray(5).astype(random_array((), dtype, rng("")).dtype)


def test_a_call_applies_it_after_the_bias():
    x, w, bias = np.ones((1, 1, 4)), np.ones((2, 1, 2)), np.array([-5.0, 1.0])
    result = gpuconv.conv1d(x, w, bias, activation="relu", backend="cuda", algorithm="direct")
    np.testing.assert_array_equal(result, [[[0] * 3, [3] * 3]])
