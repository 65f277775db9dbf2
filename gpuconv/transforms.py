"""Matrices of fast convolution, by exact rational arithmetic.

Winograd's F(m, r) computes m outputs of a correlation with r taps from m + r - 1 inputs d in as many products:
y = A^T [(G g) * (B^T d)], elementwise. It is the transpose of Toom and Cook's product of polynomials by evaluation at
m + r - 1 points and interpolation (Lavin and Gray, arXiv:1509.09308).
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import NamedTuple

__all__ = ["POINTS", "Matrix", "Winograd", "winograd"]

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))
"""Finite points, the first m + r - 2 of which F(m, r) takes, beside infinity.

Of the points that are short in binary these gave F(4, 3) the least error in float32, less than half of that of
0, 1, -1, 2, -2. F(m, r) with 4 products takes 1 and -1, which cost no multiplication.
"""

_UNIT_POINTS = (Fraction(0), Fraction(1), Fraction(-1))


class Winograd(NamedTuple):
    """The matrices of F(m, r): y = output [(weights g) * (input d)]."""

    output: Matrix
    """A^T, of m rows and m + r - 1 columns."""
    weights: Matrix
    """G, of m + r - 1 rows and r columns."""
    input: Matrix
    """B^T, square."""
    single: Matrix
    """In place of B^T where the taps after the first are 0: then m products, with that tap itself, are enough, and the
    other columns of A^T meet nothing."""


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Return the inverse, by Gauss and Jordan."""
    n = len(matrix)
    rows = [row[:] + [Fraction(i == j) for j in range(n)] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                rows[k] = [v - rows[k][i] * u for v, u in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


@functools.cache
def winograd(m: int, r: int) -> Winograd:
    """Return the matrices of F(m, r): m outputs of r taps.

    Parameters
    ----------
    m, r : int
        At least 1, and m + r at most 7.

    Examples
    --------
    >>> [[int(v) for v in row] for row in winograd(2, 3).input]
    [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]
    """
    n = m + r - 1
    points = (_UNIT_POINTS if n <= 4 else POINTS)[: n - 1]
    if m < 1 or r < 1 or len(points) < n - 1:
        raise ValueError(f"F({m}, {r}) is not available; m and r are at least 1, and m + r at most {len(POINTS) + 2}")

    def evaluation(columns: int) -> list[list[Fraction]]:
        """Return the values of 1, x, x^2, ... at the points; at infinity only the last counts."""
        return [[p**j for j in range(columns)] for p in points] + [[Fraction(j == columns - 1) for j in range(columns)]]

    interpolation = _inverse(evaluation(n))
    rows = [[interpolation[j][i] for j in range(n)] for i in range(n)]
    output = tuple(zip(*evaluation(m), strict=True))
    # A row of B^T may be multiplied by any number that its row of G is divided by: its last entry becomes 1.
    scales = [next(v for v in reversed(row) if v) for row in rows]
    return Winograd(
        output=output,
        weights=tuple(tuple(v * s for v in row) for row, s in zip(evaluation(r), scales, strict=True)),
        input=tuple(tuple(v / s for v in row) for row, s in zip(rows, scales, strict=True)),
        single=tuple(tuple(row) for row in _inverse([list(row[:m]) for row in output])),
    )
