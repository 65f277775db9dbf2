"""What the registry's tests do not reach of the fir algorithm: lengths around vectors, chunks and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from support import random_array, rng

import gpuconv
from gpuconv import UnsupportedError, reference
from gpuconv.problem import ConvProblem


def check(x_shape, w_shape, dtype, bias=None, **arguments):
    problem = ConvProblem.make(x_shape, w_shape, **arguments)
    generator = rng(f"fir {problem} {dtype}")
    x, w = random_array(x_shape, dtype, generator), random_array(w_shape, dtype, generator)
    b = random_array((w_shape[0],), dtype, generator) if bias else None
    y = gpuconv.conv1d(x, w, b, **arguments, algorithm="fir")
    bound = np.finfo(dtype).eps * (w_shape[-1] + 4)
    np.testing.assert_allclose(y, reference.forward(problem, x, w, b), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
def test_lengths_around_vectors_and_chunks(dtype, bias):
    for n in (1, 2, 7, 15, 16, 17, 31, 33, 63, 100, 127, 129, 255, 2047, 2048, 2049, 2085):
        for k in (1, 2, 5, 16, 33):
            check((1, 1, n), (1, 1, k), dtype, bias, padding=(((k - 1) // 2 + 1, k // 2),))


@pytest.mark.parametrize("mode", ["zeros", "nearest", "symmetric", "mirror", "wrap"])
def test_borders_of_lines_of_many_blocks(mode):
    check((2, 3, 40_000), (3, 1, 9), "float32", True, padding=((30, 2500),), groups=3, padding_mode=mode, dilation=3)
    check((1, 1, 70_001), (1, 1, 5), "float64", padding=((-3, 4),), padding_mode=mode)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_awkward_strides(dtype):
    generator = rng("fir strides")
    x, w = (
        random_array((2, 2, 300), dtype, generator)[:, ::-1, ::-3],
        random_array((2, 1, 14), dtype, generator)[..., ::-2],
    )
    out = np.full((2, 2, 188), np.nan, dtype)[..., ::2]
    y = gpuconv.conv1d(x, w, groups=2, algorithm="fir", out=out)
    problem = ConvProblem.make(x.shape, w.shape, groups=2)
    np.testing.assert_allclose(y, reference.forward(problem, x, w), rtol=0, atol=12 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("reason", "x", "w", "arguments"),
    [
        ("one channel", np.ones((1, 2, 9)), np.ones((1, 2, 3)), {}),
        ("stride", np.ones((1, 1, 9)), np.ones((1, 1, 3)), {"stride": 2}),
        ("float32", np.ones((1, 1, 9), np.int32), np.ones((1, 1, 3), np.int32), {}),
    ],
)
def test_what_it_leaves_to_others(reason, x, w, arguments):
    with pytest.raises(UnsupportedError, match=reason):
        gpuconv.conv1d(x, w, algorithm="fir", **arguments)
