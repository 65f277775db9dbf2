"""The matrices of fast convolution, exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gpuconv.transforms import winograd

SIZES = [(m, r) for m in range(1, 6) for r in range(1, 6) if m + r <= 7]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_winograd_computes_the_correlation_exactly(m: int, r: int) -> None:
    generator = np.random.default_rng(m * 10 + r)
    d = [Fraction(int(v)) for v in generator.integers(-9, 10, m + r - 1)]
    g = [Fraction(int(v)) for v in generator.integers(-9, 10, r)]
    matrices = winograd(m, r)

    def apply(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [a * b for a, b in zip(apply(matrices.weights, g), apply(matrices.input, d), strict=True)]
    assert apply(matrices.output, products) == [sum(g[t] * d[i + t] for t in range(r)) for i in range(m)]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_a_single_tap_needs_as_many_products_as_outputs(m: int, r: int) -> None:
    matrices = winograd(m, r)
    for i, row in enumerate(matrices.output):
        products = [sum(row[j] * matrices.single[j][k] for j in range(m)) for k in range(m)]
        assert products == [int(k == i) for k in range(m)]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_input_and_output_matrices_are_exact_in_float32(m: int, r: int) -> None:
    for matrix in (winograd(m, r).input, winograd(m, r).output):
        assert all(Fraction(float(np.float32(float(v)))) == v for row in matrix for v in row)


def test_sizes_beyond_the_points_are_refused() -> None:
    with pytest.raises(ValueError, match=r"F\(5, 3\)"):
        winograd(5, 3)
