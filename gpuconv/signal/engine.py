"""How SciPy's convolutions become problems of the dispatcher: roles, modes, broadcast axes, ranks, dtypes.

`gpuconv.signal` has the names and signatures; every function there ends in `convolve_axes` here.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import operator
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
    "MODES",
    "How",
    "Output",
    "adopt",
    "as_computed",
    "check_plain",
    "convolve_axes",
    "convolve_lines",
    "is_foreign",
    "outputs_of",
    "reversed_conjugate",
    "scipys",
    "swap_needed",
    "target_of",
    "with_steps",
]

MODES = ("valid", "same", "full")

_WORTH_CONVERTING = 2e6
"""Multiplications from which 64-bit integers are worth a conversion to float64."""


class How(NamedTuple):
    """How sums are computed: see `gpuconv.conv2d`."""

    precision: str = "high"
    backend: str = "auto"


class Output(NamedTuple):
    """The part of a full convolution that a mode keeps along one axis, and the distance of what is computed of it."""

    start: int
    size: int
    step: int = 1

    @property
    def length(self) -> int:
        """The size of the result."""
        return -(-self.size // self.step)

    @property
    def place(self) -> slice:
        """Where the result stands in the full convolution."""
        return slice(self.start, self.start + self.size, self.step)


def adopt(*values: Any, backend: str = "auto") -> list[Array]:
    """Return callers' arrays, all on a GPU where one of them is; a matrix or a masked array is refused."""
    arrays.check_home(backend, *values)
    like = next((value for value in values if arrays.home(value) == "cuda"), None)
    for value in values:
        if isinstance(value, (np.matrix, np.ma.MaskedArray)):
            raise TypeError(f"inputs of type {type(value).__name__} are not supported; pass a plain array")
    if like is not None:
        for value in values:
            # SciPy computes these, which knows no GPU.
            dtype = arrays.adopt(value).dtype
            if dtype.kind == "O" or dtype.char in "gG":
                name = "object" if dtype.kind == "O" else "longdouble"
                raise DtypeError(f"an input has dtype {name}, which no GPU computes in; copy the arrays to the host")
    return [arrays.workable(value, like) for value in values]


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


def with_steps(outputs: Sequence[Output], axes: Sequence[int], step: Any) -> list[Output]:
    """Return the outputs with a caller's steps, one for all axes or one for each of them.

    Raises
    ------
    ValueError
        If there are not so many, or one is less than 1.
    """
    steps = [operator.index(s) for s in step] if np.iterable(step) else [operator.index(step)] * len(axes)
    if len(steps) != len(axes):
        raise ValueError(f"step={step!r} has {len(steps)} entries; it must be an int or have one an axis: {len(axes)}")
    if any(s < 1 for s in steps):
        raise ValueError(f"step={step!r} must be at least 1")
    found = list(outputs)
    for axis, s in zip(axes, steps, strict=True):
        found[axis] = found[axis]._replace(step=s)
    return found


def target_of(out: Any, a: Array, b: Array, outputs: Sequence[Output]) -> Array | None:
    """Return the caller's `out` as an array once it is known to fit."""
    if out is None:
        return None
    return arrays.check_workable_out(out, tuple(output.length for output in outputs), np.result_type(a, b), (a, b))


def reversed_conjugate(a: Array, axes: Sequence[int]) -> Array:
    """Return an array turned around along some axes and, if complex, conjugated."""
    turned = np.flip(a, tuple(axes)) if a.ndim else a
    return turned.conj() if a.dtype.kind == "c" else turned


def check_plain(a: Array, b: Array, **additions: Any) -> None:
    """Raise where SciPy computes, for objects and long doubles, and has not what is asked for."""
    for name, given in additions.items():
        if given is not None and np.any(given != (1 if name == "step" else None)):
            raise DtypeError(
                f"{name}= is not available for dtypes {a.dtype} and {b.dtype}, which SciPy computes; "
                "convert to float64 or complex128"
            )


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
    a: Array,
    b: Array,
    axes: Sequence[int],
    outputs: Sequence[Output],
    how: How,
    border: str = "zeros",
    out: Array | None = None,
) -> Array:
    """Return the convolution of a and b along `axes`, broadcast along the others, in their common dtype.

    Parameters
    ----------
    a, b : array
        Of equal rank.
    axes : sequence of int
    outputs : sequence of Output
        For each axis of a, the part of the full (or broadcast) result that is wanted.
    how : How
    border : str
        What lies outside of a; other than "zeros" only where every axis of b fits a role as kernel.
    out : array, optional
        Of the result's shape and dtype: written and returned.
    """
    dtype = np.result_type(a, b)
    computed = as_computed(dtype)
    if out is not None and (computed != dtype or dtype.itemsize == 1):
        out[...] = convolve_axes(a, b, axes, outputs, how, border)
        return out
    if computed.kind == "c":
        complex_first, complex_second = a.dtype.kind == "c", b.dtype.kind == "c"
        if complex_first != complex_second:
            # A real factor meets the two parts apart: half of the work of a product of complex numbers.
            part = np.zeros((), computed).real.dtype
            result = np.empty([o.length for o in outputs], computed, like=a) if out is None else out
            for name in ("real", "imag"):
                x = getattr(a, name) if complex_first else a
                w = b if complex_first else getattr(b, name)
                _convolve(x.astype(part, copy=False), w.astype(part, copy=False), axes, outputs, how, border,
                          getattr(result, name))  # fmt: skip
            return result
    # On a GPU a product of integers takes no longer than the conversion.
    if computed.kind in "iu" and computed.itemsize == 8 and isinstance(a, np.ndarray):
        exact = _through_floats(a, b, axes, outputs, how, border)
        if exact is not None:
            if out is None:
                return exact
            out[...] = exact
            return out
    result = _convolve(a.astype(computed, copy=False), b.astype(computed, copy=False), axes, outputs, how, border, out)
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
    how = How(precision)
    result: Array = _run(x[None, None], w[None, None, ::-1], pairs, (1,), 1, "zeros", how, None)[0, 0]
    return result


def _through_floats(
    a: Array, b: Array, axes: Sequence[int], outputs: Sequence[Output], how: How, border: str
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
    how = how if largest < 1 << 40 else how._replace(precision="highest")
    sums = _convolve(a.astype(np.float64), b.astype(np.float64), axes, outputs, how, border)
    return np.rint(sums, out=sums).astype(np.result_type(a, b))


def _convolve(
    a: Array,
    b: Array,
    axes: Sequence[int],
    outputs: Sequence[Output],
    how: How,
    border: str,
    out: Array | None = None,
) -> Array:
    """Return the convolution of two arrays of the dtype that is computed in."""
    along = [i for i in axes if border != "zeros" or (a.shape[i] != 1 and b.shape[i] != 1)]
    for i, output in enumerate(outputs):
        if i not in along and output.length != max(a.shape[i], b.shape[i]):
            # Along a broadcast axis an output needs its own element only.
            place = (slice(None),) * i + (output.place,)
            a, b = (s if s.shape[i] == 1 else s[place] for s in (a, b))
    if not along:
        return np.multiply(a, b, out=out)
    # The longer array is the signal, the other one the kernel; which is which matters to a border only.
    swap = border == "zeros" and math.prod(a.shape[i] for i in along) < math.prod(b.shape[i] for i in along)
    x, w = (b, a) if swap else (a, b)
    if len(along) > 3:
        result = _by_taps(x, w, along, outputs, how, border)
    else:
        return _dispatch(x, w, along, outputs, how, border, out)
    if out is None:
        return result
    out[...] = result
    return out


def _by_taps(x: Array, w: Array, along: list[int], outputs: Sequence[Output], how: How, border: str) -> Array:
    """Convolve along more than three axes: those where w is shortest are summed tap by tap."""
    *looped, p, q, r = sorted(along, key=lambda i: w.shape[i])
    inner = sorted((p, q, r))
    whole = [Output(0, x.shape[i]) if i in looped else output for i, output in enumerate(outputs)]
    shape = [max(x.shape[i], w.shape[i]) if i not in along else output.length for i, output in enumerate(outputs)]
    result = np.zeros(shape, x.dtype if x.dtype.itemsize > 1 else np.int32, like=x)
    for taps in itertools.product(*(range(w.shape[i]) for i in looped)):
        source, place, pick = ([slice(None)] * x.ndim for _ in range(3))
        for i, t in zip(looped, taps, strict=True):
            # Output m, at j = start + m*step in the full convolution, meets x[j - t].
            start, _, step = outputs[i]
            first = max(0, -((start - t) // step))
            last = max(first, min(outputs[i].length, (t + x.shape[i] - 1 - start) // step + 1))
            j = start + first * step - t
            source[i] = slice(j, j + (last - first) * step, step)
            place[i] = slice(first, last)
            pick[i] = slice(t, t + 1)
        part = x[tuple(source)]
        if part.size:
            here = [Output(0, part.shape[i]) if i in looped else output for i, output in enumerate(whole)]
            result[tuple(place)] += _dispatch(part, w[tuple(pick)], inner, here, how, border)
    return result


def _dispatch(
    x: Array, w: Array, along: list[int], outputs: Sequence[Output], how: How, border: str, out: Array | None = None
) -> Array:
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
    steps = tuple(outputs[i].step for i in along)
    sizes = [outputs[i].length if i in along else max(x.shape[i], w.shape[i]) for i in order]
    folded = (signal.shape[0], groups * expanded, *sizes[len(order) - len(along) :])
    target = None
    if out is not None:
        target = out.transpose(order).reshape(folded)
        if not np.may_share_memory(target, out):
            target = None
    result: Array = _run(signal, kernel, pairs, steps, groups, border, how, target)
    if target is not None and out is not None:
        return out
    result = result.reshape(sizes).transpose(np.argsort(order))
    if out is None:
        return result
    out[...] = result
    return out


def _run(
    x: Array, w: Array, pairs: tuple[tuple[int, int], ...], steps: tuple[int, ...], groups: int, border: str, how: How,
    out: Array | None,
) -> Any:  # fmt: skip
    geometry = (steps, pairs, 0, 1, groups, border, "channels_first")
    names = ("in1", "in2")
    return run("forward", len(pairs), x, w, None, geometry, how.precision, how.backend, "auto", out, names=names)


def _padding(output: Output, n: int, k: int) -> tuple[int, int]:
    """Return the border, negative where it crops, that makes a correlation with the flipped kernel give `output`."""
    before = k - 1 - output.start
    return before, output.size - n - before + k - 1
