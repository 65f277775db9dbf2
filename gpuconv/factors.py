"""Filters of one channel as sums of products of vectors, and the split of weights into them.

A filter that is the product of one vector for each axis takes as many multiplications as the vectors have weights,
not as their product has; one that is the sum of a few such products takes a few times that.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

__all__ = ["Factored", "Factors", "exact_product", "is_dyadic", "low_rank"]


class Factored(NamedTuple):
    """What the choice of an algorithm depends on, of weights given as `Factors`."""

    terms: int = 1
    """Products that are added."""
    is_mean: bool = False
    """Whether all weights are 1: a sum that may be had from its neighbour's."""
    ends: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Where vectors begin or end with zeros: for each product and axis the range outside of which a vector is 0. Inputs
    under those zeros meet no weight, be they finite or not."""
    is_whole: bool = False
    """Whether values between the passes lose their fraction, as those of an integer dtype do."""
    pixel: int = 1
    """Neighbouring elements along the last axis that have one place in the border, of pixels."""


class Factors(NamedTuple):
    """Weights of a one-channel filter as a sum of products of vectors.

    Attributes
    ----------
    terms : tuple of tuples of vectors
        Of each product a vector for every spatial axis, of the filter's size along it.
    divisors : tuple of float, optional
        What the sums along each axis are divided by; () for nothing. Sums are divided once, by the product, unless
        `is_whole`.
    is_whole : bool
        As in `Factored`. The axes are then summed along in their order, and no value leaves the dtype's range: weights
        are at least 0, and the sum along an axis at most its divisor. The divisor of a mean is its length.
    pixel : int
        As in `Factored`.
    """

    terms: tuple[tuple[Any, ...], ...]
    divisors: tuple[float, ...] = ()
    is_whole: bool = False
    pixel: int = 1

    @property
    def divisor(self) -> float:
        """The product of the divisors."""
        return math.prod(self.divisors)

    @property
    def described(self) -> Factored:
        """What a choice depends on."""
        vectors = [vector for term in self.terms for vector in term]
        sparse = any(vector.size > 1 and not (vector[0] and vector[-1]) for vector in vectors)
        ends = tuple(tuple(map(_ends, term)) for term in self.terms) if sparse else ()
        mean = len(self.terms) == 1 and all((vector == 1).all() for vector in vectors)
        return Factored(len(self.terms), mean, ends, self.is_whole, self.pixel)

    def product(self, problem: ConvProblem) -> Any:
        """Return the weights as an array, not divided."""
        products = [functools.reduce(np.multiply.outer, term) for term in self.terms]
        return functools.reduce(np.add, products).reshape(problem.w_shape)


def _ends(vector: Any) -> tuple[int, int]:
    """Return the range outside of which a vector is 0, of at least one element."""
    places = np.flatnonzero(vector)
    return (int(places[0]), int(places[-1]) + 1) if places.size else (0, 1)


_FRACTION = 2.0**20
"""Numbers are taken for fractions of few bits that are whole multiples of its inverse."""


def is_dyadic(numbers: Any) -> bool:
    """Return whether numbers are fractions of few bits, of which float64 sums are exact.

    Examples
    --------
    >>> import numpy as np
    >>> is_dyadic(np.array([0.25, 3.0])), is_dyadic(np.array([0.1]))
    (True, False)
    """
    scaled = np.asarray(numbers, np.float64) * _FRACTION
    return bool((scaled == np.rint(scaled)).all())


def exact_product(weights: Any, *, whole: bool) -> Factors | None:
    """Return 2-d weights of few bits as one product of vectors of few bits, exactly; None where there is none known.

    With `whole` the vectors' elements must be integers.

    Examples
    --------
    >>> import numpy as np
    >>> exact_product(np.outer([1.0, 2, 1], [-1.0, 0, 1]), whole=True).terms[0]
    (array([-1., -2., -1.]), array([ 1., -0., -1.]))
    """
    row, column = np.unravel_index(np.argmax(np.abs(weights)), weights.shape)
    pivot = weights[row, column]
    if pivot == 0 or not np.isfinite(weights).all():
        return None
    down, across = weights[:, column], weights[row] / pivot
    if (np.outer(down, across) != weights).any() or not (is_dyadic(down) and is_dyadic(across)):
        return None
    if whole and (across != np.rint(across)).any():
        return None
    return Factors(((down, across),))


def low_rank(weights: Any, dtype: Any, most: int = 1, tolerance: float = 0.0) -> Factors | None:
    """Return 2-d weights as the fewest products of two vectors that they are the sum of, at most `most`.

    Parameters
    ----------
    weights : array, shape (k, l)
        Real floats.
    dtype : dtype
        Of the sums: the products may differ from the weights by its rounding.
    most : int
        Terms tried: 1 takes O(k*l) steps, more a singular value decomposition, O(k*l*min(k, l)) (Eckart and Young, "The
        approximation of one matrix by another of lower rank", 1936).
    tolerance : float
        What the products may further differ by: the sum of the differences' magnitudes, relative to the sum of the
        weights'. No result then differs by more than that times the sum of the weights' magnitudes and the largest
        magnitude of the input.

    Returns
    -------
    Factors or None
        None where it takes more products, or, without a tolerance, where they would not be zero where a weight is.

    Examples
    --------
    >>> import numpy as np
    >>> sum_of_products = np.add.outer(np.arange(1.0, 6), np.arange(1.0, 6))
    >>> low_rank(sum_of_products, np.float64) is None
    True
    >>> len(low_rank(sum_of_products, np.float64, most=3).terms)
    2
    """
    row, column = np.unravel_index(np.argmax(np.abs(weights)), weights.shape)
    pivot = weights[row, column]
    if not np.isfinite(pivot) or pivot == 0:
        return None
    # Both of the size of the pivot's root, so that sums of one pass neither overflow nor vanish.
    scale = math.sqrt(abs(pivot))
    down, across = weights[:, column] / math.copysign(scale, pivot), weights[row] / scale
    epsilon = float(np.finfo(dtype).eps)
    difference = np.abs(np.outer(down, across) - weights)
    if (difference <= 2 * epsilon * np.abs(weights)).all():
        return Factors(((down, across),))
    exact = tolerance == 0
    if (exact and (most == 1 or not weights.all())) or not np.isfinite(weights).all():
        return None
    left, values, right = np.linalg.svd(np.asarray(weights, np.float64), full_matrices=False)
    allowed = (4 * epsilon + tolerance) * np.abs(weights).sum()
    terms = []
    rest = np.array(weights, np.float64)
    for k in range(min(most, values.size)):
        root = math.sqrt(values[k])
        terms.append((left[:, k] * root, right[k] * root))
        rest -= np.outer(*terms[-1])
        if np.abs(rest).sum() <= allowed:
            return Factors(tuple(terms))
    return None
