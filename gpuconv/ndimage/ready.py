"""What a filter's call settles before any element is read, kept for the next call like it.

From the shapes, the dtypes and the weights alone follow the dispatcher's problem, the precision of the sums, the
algorithm and the weights in its form: `ready`. On a small image that takes many times what the filter does.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.dispatch import Call, choose, estimate, rows
from gpuconv.dtypes import name_of, to_numpy
from gpuconv.errors import UnsupportedError
from gpuconv.factors import Factored, Factors, exact_product, is_dyadic, low_rank
from gpuconv.ndimage.fold import Fold, fold_of
from gpuconv.ndimage.precision import LARGEST_KERNEL, LONGEST_PASS, How, is_exact
from gpuconv.problem import ConvProblem

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["ByValue", "Filter", "Geometry", "Ready", "kept", "ready", "remembered", "rounded"]

_WORTH_FACTORING = 1 << 14
"""Elements of an image from which on its weights are looked at for factors."""
_WORTH_DECOMPOSING, _LEAST_DECOMPOSED, _MOST_TERMS = 1 << 24, 5, 4
"""Products, and weights along both axes, from which on a sum of factors is looked for, and the most of them."""
_MOST_KEPT = 8192
"""Bytes of the weights that caches keep: what more of them do takes so long that to find out anew costs nothing."""
_PLAIN, _MOST_REMEMBERED = {bool, int, float, str, type(None)}, 512
_LEAST_WEIGHT, _BESIDE_LEAST = 2.0**-100, 2.0**-36
"""Weights of less become it, sign and all, where the largest is at least the second, so that no sum changes: their
products in float32 may be subnormal, each of which takes as long as a hundred others."""


class ByValue:
    """What is compared and hashed by its values, arrays by their bytes, so that a cache knows it again."""

    def __init__(self, *values: Any) -> None:
        self._key = tuple(map(_key_of, values))
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and self._key == other._key)


def _key_of(value: Any) -> Any:
    kind = type(value)
    if kind is np.ndarray:
        return value.shape, value.dtype.char, value.tobytes()
    return tuple(map(_key_of, value)) if kind is tuple else value


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of filters and hashable values that remembers what it returned for weights of moderate size.

    Its first argument says how many bytes the weights have.
    """
    cached = functools.lru_cache(maxsize=512)(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return (cached if args[0].nbytes <= _MOST_KEPT else function)(*args)

    call.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    return call


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that remembers what it returned for plain arguments, where that is of moderate size.

    The types count too, also of a tuple's elements: what is an error for 3.0 is one after 3. Arrays are plain where
    they are of the dtypes of weights; as the caller may change them, `make` keeps none that it is given.
    """
    found: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(make)
    def call(*arguments: Any) -> Any:
        kinds = tuple(tuple(map(type, value)) if type(value) is tuple else type(value) for value in arguments)
        if not all(map(_is_plain, arguments, kinds)):
            return make(*arguments)
        key = kinds, *map(_key_of, arguments)
        result = found.get(key)
        if result is None:
            result = make(*arguments)
            if result.nbytes <= _MOST_KEPT:
                if len(found) >= _MOST_REMEMBERED:
                    found.clear()
                found[key] = result
        return result

    return call


def _is_plain(value: Any, kind: Any) -> bool:
    if type(kind) is tuple:
        return _PLAIN.issuperset(kind)
    return kind in _PLAIN or (kind is np.ndarray and value.dtype in (np.float64, np.complex128))


class Filter(ByValue):
    """A correlation along any of an array's axes.

    Attributes
    ----------
    given : array or tuple of tuples of array
        The weights, one axis for each of the input; with `bank`, before them one for a bank's filters, which the result
        has too. Or the terms whose sum they are, each the product of a vector for each axis. Complex weights are
        multiplied as they are: conjugating them is the caller's part.
    origins, steps : tuple of int
        One for each axis.
    mode : str
        Canonical, or "valid".
    divisors : tuple of float
        What sums along each axis are divided by before they take the output's dtype; () for nothing. With terms only.
    is_whole : bool
        Whether values lose their fraction between one axis and the next; with one term only.
    longest : int
        Weights from which on a sum is long: see `gpuconv.ndimage.precision`.
    bare : tuple of int
        Axes that have no border, whatever the mode.
    tolerance : float
        How much the weights may be changed where that makes them a sum of few products: see `gpuconv.factors`.
    """

    def __init__(
        self, given: Array | tuple[tuple[Array, ...], ...], origins: tuple[int, ...], steps: tuple[int, ...], mode: str,
        divisors: tuple[float, ...] = (), *, is_whole: bool = False, bank: bool = False, longest: int = LARGEST_KERNEL,
        bare: tuple[int, ...] = (), tolerance: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(given, origins, steps, mode, divisors, is_whole, bank, longest, bare, tolerance)
        self.given, self.origins, self.steps, self.mode = given, origins, steps, mode
        self.divisors, self.is_whole, self.bank, self.longest = divisors, is_whole, bank, longest
        self.bare, self.tolerance = bare, tolerance
        self.nbytes = sum(part.nbytes for part in self._parts)

    @property
    def _parts(self) -> tuple[Array, ...]:
        return sum(self.given, ()) if isinstance(self.given, tuple) else (self.given,)

    @functools.cached_property
    def divisor(self) -> float:
        """What sums are divided by in all."""
        return math.prod(self.divisors)

    @functools.cached_property
    def weights(self) -> Array:
        """The weights as one array."""
        if not isinstance(self.given, tuple):
            return self.given
        return functools.reduce(np.add, (functools.reduce(np.multiply.outer, term) for term in self.given))

    @functools.cached_property
    def is_complex(self) -> bool:
        """Whether the weights are."""
        return any(part.dtype.kind == "c" for part in self._parts)

    @functools.cached_property
    def kernel(self) -> tuple[int, ...]:
        """The weights' sizes along the axes of the input."""
        if isinstance(self.given, tuple):
            return tuple(part.size for part in self.given[0])
        return self.given.shape[1:] if self.bank else self.given.shape

    @functools.cached_property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """The border before and after each axis."""
        if self.mode == "valid":
            return ((0, 0),) * len(self.origins)
        return tuple(
            (0, 0) if axis in self.bare else (k // 2 + shift, k - 1 - k // 2 - shift)
            for axis, (k, shift) in enumerate(zip(self.kernel, self.origins, strict=True))
        )

    def shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result.

        Raises
        ------
        ShapeError
            If the weights are longer than the input in "valid" mode.
        """
        sizes = _outputs(x_shape, self.kernel, self.padding, self.steps)
        return (self.weights.shape[0], *sizes) if self.bank else sizes

    def replace(self, **changes: Any) -> Filter:
        """Return the filter with some attributes changed."""
        names = "given", "origins", "steps", "mode", "divisors", "is_whole", "bank", "longest", "bare", "tolerance"
        return Filter(**{name: changes.get(name, getattr(self, name)) for name in names})


@functools.lru_cache(maxsize=1024)
def _outputs(
    x_shape: tuple[int, ...], kernel: tuple[int, ...], padding: tuple[tuple[int, int], ...], steps: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(
        ConvProblem.make((1, 1, n), (1, 1, k), padding=(pair,), stride=step).output[0] if n else 0
        for n, k, pair, step in zip(x_shape, kernel, padding, steps, strict=True)
    )


class Geometry(NamedTuple):
    """What a filter's call of the dispatcher depends on, besides dtypes: hashable."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]
    dilation: tuple[int, ...]
    mode: str
    fill: float


class Ready(NamedTuple):
    """A filter for arrays of some shape and dtypes."""

    fold: Fold
    geometry: Geometry
    sums: np.dtype[Any]
    w: Array | Factors
    """The weights in the dispatcher's form and the precision of the sums."""
    divisor: float
    """What sums are divided by, where `w` does not say so."""
    precision: str
    chosen: tuple[Call, ModuleType] | None
    """The call in the arrays' own dtypes and the algorithm that serves it; None where none does."""
    packed: Any = None
    is_transform: bool = False
    """Whether a long sum is had by a transform."""
    backend: str = "cpu"
    otherwise: Any = None
    """A `Ready` for inputs of which a result is not finite: infinities of opposite signs may meet between terms that
    were found in weights of one sign."""

    @property
    def factored(self) -> Factored | None:
        """What the call knows of factors."""
        return None if self.chosen is None else self.chosen[0].factored

    @property
    def seconds(self) -> float:
        """The estimated time of the call; infinity where none serves it."""
        return math.inf if self.chosen is None else estimate(self.chosen[0], self.backend)


@kept
def ready(
    f: Filter, x_shape: tuple[int, ...], x_dtype: np.dtype[Any], output_dtype: np.dtype[Any], fill: float, how: How
) -> Ready:
    """Return what a filter of real numbers along at most three axes runs, around whatever `fill` is outside."""
    count = f.weights.shape[0] if f.bank else 1
    in_passes = isinstance(f.given, tuple) and sum(k > 1 for k in f.kernel) > 1
    fold = fold_of(f.kernel, x_shape, f.steps, bank=f.bank, on_cpu=how.backend == "cpu", in_passes=in_passes)
    geometry = Geometry(
        fold.shape(x_shape), (count, 1, *fold.pick(f.kernel, 1)), fold.spread(fold.pick(f.padding, (0, 0))),
        fold.pick(f.steps, 1), fold.dilation, "zeros" if f.mode == "valid" else f.mode, fill,
    )  # fmt: skip
    if name_of(output_dtype) not in ("float16", "bfloat16", "float32", "float64"):
        how = how._replace(precision="highest")
    is_long = math.prod(f.kernel) > f.longest
    terms = f.given if isinstance(f.given, tuple) else ()
    described = Factors(terms).described if len(terms) > 1 or (sum(k > 1 for k in f.kernel) > 1 and terms) else None
    transforms = is_long and _is_transform(x_dtype, output_dtype, geometry, described, how)
    exact = all(is_exact(x_dtype, output_dtype, w, fill) for w in (f.given[0] if f.is_whole else (f.weights,)))
    sums = how.sums(x_dtype, output_dtype, is_long=is_long and not transforms, is_exact=exact)
    w = rounded(fold.kernel(f.weights), sums)
    divisor = f.divisor
    factors, found = None, False
    if terms and not transforms and (divisor != 1.0 or described is not None):
        one = np.ones(1, sums)
        vectors = tuple(fold.pick(tuple(rounded(vector, sums) for vector in term), one) for term in terms)
        divisors = fold.pick(f.divisors, 1.0) if f.divisors else ()
        factors, divisor = Factors(vectors, divisors, f.is_whole, fold.pixel if in_passes else 1), 1.0
    elif math.prod(x_shape) >= _WORTH_FACTORING and fold.rank == 2 and min(w.shape[2:]) > 2 and not f.bank:
        # What was allowed as a transform may not become two passes of long sums.
        is_short = max(w.shape[2:]) <= LONGEST_PASS or sums == np.float64 or how.dtype is not None
        names = name_of(x_dtype), name_of(sums), name_of(output_dtype)
        factors = _factors(f, fold.kernel(f.weights)[0, 0], sums, geometry, names, how) if is_short else None
        found = factors is not None and len(factors.terms) > 1
    chosen = None
    if divisor == 1.0:
        dtypes = name_of(x_dtype), name_of(sums), name_of(output_dtype)
        chosen = _choice(geometry, dtypes, None if factors is None else factors.described, how.precision, how.backend)
    if chosen is None:
        return Ready(fold, geometry, sums, w, f.divisor, how.precision, None, None, transforms, how.backend)
    call, module = chosen
    given = w if factors is None else factors
    packed = module.pack(call, given) if how.backend == "cpu" and f.nbytes <= _MOST_KEPT else None
    otherwise = None
    if found:
        dense = _choice(geometry, dtypes, None, how.precision, how.backend)
        otherwise = Ready(fold, geometry, sums, w, 1.0, how.precision, dense, None, transforms, how.backend)
    return Ready(fold, geometry, sums, given, 1.0, how.precision, chosen, packed, transforms, how.backend, otherwise)


@functools.lru_cache(maxsize=4096)
def _choice(
    geometry: Geometry, dtypes: tuple[str, str, str], factored: Factored | None, precision: str, backend: str
) -> tuple[Call, ModuleType] | None:
    """Return the call that a filter is and the algorithm that serves it; None where none does.

    `dtypes` are those of the input, the sums and the result.
    """
    source, sums, result = dtypes
    problem = ConvProblem.make(
        geometry.x_shape, geometry.w_shape, stride=geometry.steps, padding=geometry.padding,
        dilation=geometry.dilation, padding_mode=geometry.mode, padding_value=geometry.fill,
    )  # fmt: skip
    other: dict[str, Any] = {} if source == sums == result else {"sums": sums, "result": result}
    call = Call(problem, "forward", source, precision, factored=factored, **other)
    try:
        return call, choose(call, backend)
    except UnsupportedError:
        return None


def _is_transform(
    x: np.dtype[Any], output: np.dtype[Any], geometry: Geometry, factored: Factored | None, how: How
) -> bool:
    """Whether a filter of many weights on floats would run as a transform: by what "highest" precision rules out.

    The sums that it would have otherwise may be of higher precision, and take their time.
    """
    name = name_of(x)
    if name not in ("float32", "float64") or x != output or how.dtype not in (None, "same", name):
        return False
    found = _choice(geometry, (name,) * 3, factored, how.precision, how.backend)
    if found is None:
        return False
    call, module = found
    exact = dataclasses.replace(call, precision="highest")
    if estimate(exact, how.backend) == math.inf or choose(exact, how.backend) is not module:
        return True
    sums = how.sums(x, output, is_long=True).name
    transforms = [
        row.seconds
        for row, other in zip(rows(call, how.backend), rows(exact, how.backend), strict=True)
        if row.seconds is not None and other.seconds is None
    ]
    direct = dataclasses.replace(exact, sums=sums, result=name)
    return sums != name and min(transforms, default=math.inf) < estimate(direct, how.backend)


def _factors(
    f: Filter, weights: Array, dtype: np.dtype[Any], geometry: Geometry, dtypes: tuple[str, str, str], how: How
) -> Factors | None:
    """Return products of vectors that weights are the sum of, if it is estimated to take less time; else None.

    Sums that are exact, and lose their fraction, stay so.
    """
    if np.dtype(to_numpy(dtypes[2])).kind in "iu" and is_dyadic(weights):
        return exact_product(weights, whole=dtype == np.float32)
    products = math.prod(geometry.x_shape) * weights.size
    is_worth = products >= _WORTH_DECOMPOSING and min(weights.shape) >= _LEAST_DECOMPOSED
    found = low_rank(weights, dtype, _MOST_TERMS if is_worth else 1, f.tolerance)
    if found is None or len(found.terms) == 1:
        return found
    factored, whole = (
        math.inf if ready is None else estimate(ready[0], how.backend)
        for ready in (_choice(geometry, dtypes, kind, how.precision, how.backend) for kind in (found.described, None))
    )
    return found if factored < whole else None


def rounded(weights: Array, dtype: np.dtype[Any]) -> Array:
    """Return the weights in `dtype`; the largest takes up what rounding changed in their sum.

    The sum is the filter's response to a constant: a Gaussian's must not brighten or darken an image. The tiny
    weights of a Gaussian's far ends, whose products could be subnormal, become larger ones that change no sum either.
    """
    if weights.dtype == dtype:
        return weights
    result = np.array(weights, dtype, order="C")
    if result.dtype == np.float32:
        sizes = np.abs(result)
        if sizes.max(initial=0) >= _BESIDE_LEAST:
            np.copysign(np.float32(_LEAST_WEIGHT), result, out=result, where=(sizes > 0) & (sizes < _LEAST_WEIGHT))
    # A bank's filters, along the first of the dispatcher's axes, each have a sum of their own.
    count = weights.shape[0] if weights.ndim > 2 else 1
    for rounded_one, exact in zip(result.reshape(count, -1), weights.reshape(count, -1), strict=True):
        change = (exact - rounded_one).sum()
        if change != 0 and np.isfinite(change):
            rounded_one[np.abs(exact).argmax()] += change
    return result
