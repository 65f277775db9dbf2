"""How SciPy's convolutions become problems of the dispatcher: roles, modes, broadcast axes, ranks, dtypes.

`gpuconv.signal` has the names and signatures; every function there ends in `convolve_axes` here.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import arrays
from gpuconv.api import run
from gpuconv.dtypes import SUPPORTED, name_of
from gpuconv.errors import DtypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "Output",
    "adopt",
    "as_computed",
    "convolve_axes",
    "convolve_lines",
    "is_foreign",
    "outputs_of",
    "scipys",
    "swap_needed",
]

_WORTH_CONVERTING = 2e6
"""Multiplications from which 64-bit integers are worth a conversion to float64."""


class Output(NamedTuple):
    """The part of a full convolution that a mode keeps along one axis."""

    start: int
    size: int


def adopt(value: Any) -> Array:
    """Return a caller's array as NumPy's; one in a GPU's memory, a matrix or a masked array is refused."""
    if isinstance(value, (np.matrix, np.ma.MaskedArray)):
        raise TypeError(f"inputs of type {type(value).__name__} are not supported; pass a plain array")
    return arrays.adopt_host(value)


def is_foreign(*inputs: Array) -> bool:
    """Whether SciPy itself computes: no vector unit knows object arrays and long doubles."""
    return any(a.dtype.kind == "O" or a.dtype.char in "gG" for a in inputs)


def scipys(name: str) -> Callable[..., Any]:
    """Return SciPy's own function, for foreign dtypes, from where it is defined: the public name may be replaced."""
    function: Callable[..., Any] = getattr(importlib.import_module("scipy.signal._signaltools"), name)
    return function


def outputs_of(mode: str, s1: int, s2: int) -> Output:
    """Return what a mode keeps of the s1 + s2 - 1 elements of a full convolution along one axis."""
    if mode == "full":
        return Output(0, s1 + s2 - 1)
    if mode == "same":
        return Output((s2 - 1) // 2, s1)
    return Output(min(s1, s2) - 1, abs(s1 - s2) + 1)


def swap_needed(mode: str, shape1: Sequence[int], shape2: Sequence[int], axes: Sequence[int] | None = None) -> bool:
    """Return whether "valid" needs the inputs exchanged.

    Raises
    ------
    ValueError
        If neither holds the other.
    """
    if mode != "valid" or not shape1:
        return False
    wanted = range(len(shape1)) if axes is None else axes
    first = all(shape1[i] >= shape2[i] for i in wanted)
    if not first and not all(shape2[i] >= shape1[i] for i in wanted):
        raise ValueError(
            "For 'valid' mode, one must be at least as large as the other in every dimension; "
            f"the shapes are {tuple(shape1)} and {tuple(shape2)}"
        )
    return not first


def as_computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that gpuconv computes a result of `dtype` in, whose low bits are the result's.

    Raises
    ------
    DtypeError
        For what is not a number.
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if name_of(dtype) not in SUPPORTED:
        raise DtypeError(f"the inputs have the common dtype {dtype}; supported are bool, {', '.join(SUPPORTED)}")
    return dtype


def convolve_axes(
    a: Array, b: Array, axes: Sequence[int], outputs: Sequence[Output], precision: str, border: str = "zeros"
) -> Array:
    """Return the convolution of a and b along `axes`, broadcast along the others, in their common dtype.

    Parameters
    ----------
    a, b : array
        Of equal rank.
    axes : sequence of int
    outputs : sequence of Output
        For each axis of a, the part of the full (or broadcast) result that is wanted.
    precision : str
    border : str
        What lies outside of a; other than "zeros" only where every axis of b fits a role as kernel.
    """
    dtype = np.result_type(a, b)
    computed = as_computed(dtype)
    if computed.kind == "c":
        complex_first, complex_second = a.dtype.kind == "c", b.dtype.kind == "c"
        if complex_first != complex_second:
            # A real factor meets the two parts apart: half of the work of a product of complex numbers.
            part = np.zeros((), computed).real.dtype
            result = np.empty([output.size for output in outputs], computed)
            for name in ("real", "imag"):
                x = getattr(a, name) if complex_first else a
                w = b if complex_first else getattr(b, name)
                _convolve(x.astype(part, copy=False), w.astype(part, copy=False), axes, outputs, precision, border,
                          getattr(result, name))  # fmt: skip
            return result
    if computed.kind in "iu" and computed.itemsize == 8:
        exact = _through_floats(a, b, axes, outputs, precision, border)
        if exact is not None:
            return exact
    result = _convolve(a.astype(computed, copy=False), b.astype(computed, copy=False), axes, outputs, precision, border)
    return result != 0 if dtype.kind == "b" else result.astype(dtype, copy=False)


@functools.lru_cache(maxsize=1024)
def _line(mode: str, s1: int, s2: int) -> tuple[bool, tuple[tuple[int, int], ...]]:
    """Return whether the second of two lengths is the signal, and the signal's border."""
    n, k = max(s1, s2), min(s1, s2)
    return s2 > s1, (_padding(outputs_of(mode, s1, s2), n, k),)


def convolve_lines(a: Array, b: Array, mode: str, precision: str) -> Array:
    """Return the convolution of two 1-d arrays of one float or complex dtype: `convolve_axes` with less ado."""
    swap, pairs = _line(mode, a.shape[0], b.shape[0])
    x, w = (b, a) if swap else (a, b)
    result: Array = _run(x[None, None], w[None, None, ::-1], pairs, 1, "zeros", precision, None)[0, 0]
    return result


def _through_floats(
    a: Array, b: Array, axes: Sequence[int], outputs: Sequence[Output], precision: str, border: str
) -> Array | None:
    """Return the convolution of 64-bit integers computed in float64, or None where that may not be exact.

    A direct sum is exact while no partial sum passes 2**53. The error of a float64 transform is below
    1e-13 of the largest possible sum, so below 2**40 rounding gives the exact integer.
    """
    products = math.prod(output.size for output in outputs) * min(math.prod(s.shape[i] for i in axes) for s in (a, b))
    if products < _WORTH_CONVERTING or not a.size or not b.size:
        return None
    terms = min(math.prod(s.shape[i] for i in axes) for s in (a, b))
    largest = terms * math.prod(max(abs(int(s.max())), abs(int(s.min()))) for s in (a, b))
    if largest >= 1 << 52:
        return None
    precision = precision if largest < 1 << 40 else "highest"
    sums = _convolve(a.astype(np.float64), b.astype(np.float64), axes, outputs, precision, border)
    return np.rint(sums, out=sums).astype(np.result_type(a, b))


def _convolve(
    a: Array,
    b: Array,
    axes: Sequence[int],
    outputs: Sequence[Output],
    precision: str,
    border: str,
    out: Array | None = None,
) -> Array:
    """Return the convolution of two arrays of the dtype that is computed in."""
    along = [i for i in axes if border != "zeros" or (a.shape[i] != 1 and b.shape[i] != 1)]
    for i, output in enumerate(outputs):
        if i not in along and output.size != max(a.shape[i], b.shape[i]):
            # Along a broadcast axis an output needs its own element only.
            place = (slice(None),) * i + (slice(output.start, output.start + output.size),)
            a, b = (s if s.shape[i] == 1 else s[place] for s in (a, b))
    if not along:
        return np.multiply(a, b, out=out)
    # The longer array is the signal, the other one the kernel; which is which matters to a border only.
    swap = border == "zeros" and math.prod(a.shape[i] for i in along) < math.prod(b.shape[i] for i in along)
    x, w = (b, a) if swap else (a, b)
    if len(along) > 3:
        result = _by_taps(x, w, along, outputs, precision, border)
    else:
        return _dispatch(x, w, along, outputs, precision, border, out)
    if out is None:
        return result
    out[...] = result
    return out


def _by_taps(x: Array, w: Array, along: list[int], outputs: Sequence[Output], precision: str, border: str) -> Array:
    """Convolve along more than three axes: those where w is shortest are summed tap by tap."""
    *looped, p, q, r = sorted(along, key=lambda i: w.shape[i])
    inner = sorted((p, q, r))
    whole = [Output(0, x.shape[i]) if i in looped else output for i, output in enumerate(outputs)]
    shape = [max(x.shape[i], w.shape[i]) if i not in along else output.size for i, output in enumerate(outputs)]
    result = np.zeros(shape, x.dtype if x.dtype.itemsize > 1 else np.int32)
    for taps in itertools.product(*(range(w.shape[i]) for i in looped)):
        source, place, pick = ([slice(None)] * x.ndim for _ in range(3))
        for i, t in zip(looped, taps, strict=True):
            # Output j of the full convolution meets x[j - t].
            first = max(outputs[i].start, t)
            last = min(outputs[i].start + outputs[i].size, t + x.shape[i])
            source[i] = slice(first - t, max(last, first) - t)
            place[i] = slice(first - outputs[i].start, max(last, first) - outputs[i].start)
            pick[i] = slice(t, t + 1)
        part = x[tuple(source)]
        if part.size:
            here = [Output(0, part.shape[i]) if i in looped else output for i, output in enumerate(whole)]
            result[tuple(place)] += _dispatch(part, w[tuple(pick)], inner, here, precision, border)
    return result


def _dispatch(
    x: Array, w: Array, along: list[int], outputs: Sequence[Output], precision: str, border: str,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Convolve along one to three axes by one call: broadcast axes become batch, groups and output channels."""
    others = [i for i in range(x.ndim) if i not in along]
    group = [i for i in others if x.shape[i] == w.shape[i] != 1]
    expand = [i for i in others if x.shape[i] == 1 != w.shape[i]]
    batch = [i for i in others if i not in group and i not in expand]
    order = [*batch, *group, *expand, *along]
    groups, expanded = (math.prod(w.shape[i] for i in axes) for axes in (group, expand))
    signal = x.transpose([*batch, *expand, *group, *along])
    signal = signal.reshape(math.prod(x.shape[i] for i in batch), groups, *(x.shape[i] for i in along))
    kernel = w.transpose([*batch, *group, *expand, *along])
    kernel = kernel.reshape(groups * expanded, 1, *(w.shape[i] for i in along))
    kernel = kernel[(slice(None), slice(None), *(slice(None, None, -1) for _ in along))]
    pairs = tuple(_padding(outputs[i], x.shape[i], w.shape[i]) for i in along)
    sizes = [outputs[i].size if i in along else max(x.shape[i], w.shape[i]) for i in order]
    folded = (signal.shape[0], groups * expanded, *sizes[len(order) - len(along) :])
    target = None
    if out is not None:
        target = out.transpose(order).reshape(folded)
        if not np.may_share_memory(target, out):
            target = None
    result: Array = _run(signal, kernel, pairs, groups, border, precision, target)
    if target is not None and out is not None:
        return out
    result = result.reshape(sizes).transpose(np.argsort(order))
    if out is None:
        return result
    out[...] = result
    return out


def _run(
    x: Array, w: Array, pairs: tuple[tuple[int, int], ...], groups: int, border: str, precision: str, out: Array | None
) -> Any:
    geometry = (1, pairs, 0, 1, groups, border, "channels_first")
    names = ("in1", "in2")
    return run("forward", len(pairs), x, w, None, geometry, precision, "auto", "auto", out, names=names)


def _padding(output: Output, n: int, k: int) -> tuple[int, int]:
    """Return the border, negative where it crops, that makes a correlation with the flipped kernel give `output`."""
    before = k - 1 - output.start
    return before, output.size - n - before + k - 1
