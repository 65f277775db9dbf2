"""How SciPy's linear filters become convolutions: outputs, borders, folded axes, complex parts.

`gpuconv.ndimage` has the names and signatures; every filter there ends in `correlate_into` here.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import arrays
from gpuconv.api import run
from gpuconv.boundary import canonical
from gpuconv.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "Pass",
    "adopt",
    "border",
    "check_axes",
    "check_axis",
    "check_cval",
    "check_origin",
    "correlate_into",
    "per_axis",
    "prepare_output",
    "run_passes",
]

_SINGLE = ("float16", "bfloat16", "float32")


class Pass(NamedTuple):
    """One 1-d correlation of a separable filter."""

    axis: int
    weights: Array
    mode: str
    origin: int = 0
    divisor: float = 1.0


def adopt(value: Any) -> Array:
    """Return a caller's array as NumPy's; an array in a GPU's memory is refused."""
    arrays.home(value)
    return arrays.adopt(value)


def prepare_output(output: Any, x: Array, *, is_complex: bool = False) -> Array:
    """Return the array that SciPy's `output` argument means: None, a dtype or its name, or an array.

    Raises
    ------
    RuntimeError
        If it has the wrong shape, a dtype that is not numeric, or a real dtype for a complex result.
    """
    if output is None:
        dtype = np.promote_types(x.dtype, np.complex64) if is_complex else x.dtype
        return np.zeros(x.shape, dtype)
    if isinstance(output, str):
        dtype = np.dtype(output)
        if not issubclass(dtype.type, np.number):
            raise RuntimeError(f"output={output!r}: output must have numeric dtype")
    elif isinstance(output, (type, np.dtype)):
        dtype = np.dtype(output)
        if is_complex and dtype.kind != "c":
            warnings.warn("promoting specified output dtype to complex", stacklevel=4)
            dtype = np.promote_types(dtype, np.complex64)
    else:
        given = output if isinstance(output, np.ndarray) else np.asarray(output)
        if given.shape != x.shape:
            raise RuntimeError(f"output has shape {given.shape}; it must have the input's: {x.shape}")
        if not given.flags.writeable:
            raise ValueError("output is read-only; it must be writable")
        _refuse_real(given.dtype, is_complex)
        return given
    _refuse_real(dtype, is_complex)
    return np.zeros(x.shape, dtype)


def _refuse_real(dtype: np.dtype[Any], is_complex: bool) -> None:
    if is_complex and dtype.kind != "c":
        raise RuntimeError(
            f"output has dtype {dtype.name}; with complex input or weights output must have complex dtype"
        )


def per_axis(name: str, value: Any, count: int) -> list[Any]:
    """Return one value per filtered axis from a scalar, a string or a sequence of that length."""
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise RuntimeError(
            f"{name} has {len(values)} entries, but a sequence argument must have length equal to input rank, "
            f"or to the number of axes: {count}"
        )
    return values


def check_axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes that are filtered, none negative: all of them for None."""
    if axes is None:
        return tuple(range(ndim))
    if not np.isscalar(axes) and not isinstance(axes, Iterable):
        raise ValueError(f"axes={axes!r} must be an integer, an iterable of integers, or None")
    given: Any = axes if isinstance(axes, Iterable) else (axes,)
    wanted = [operator.index(axis) for axis in given]
    for axis in wanted:
        if not -ndim <= axis < ndim:
            raise ValueError(f"specified axis: {axis} is out of range; the input has {ndim} axes")
    found = tuple(axis % ndim for axis in wanted)
    if len(set(found)) != len(found):
        raise ValueError(f"axes={tuple(wanted)}: axes must be unique")
    return found


def check_axis(axis: Any, ndim: int) -> int:
    """Return one axis, not negative."""
    index = operator.index(axis)
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(index, ndim)
    return index % ndim


def check_origin(origin: Any, size: int) -> int:
    """Return the shift of a filter of `size` once it is known to leave the filter over its output."""
    shift = operator.index(origin)
    if not -(size // 2) <= shift <= (size - 1) // 2:
        raise ValueError(
            f"Invalid origin; origin={shift} must satisfy {-(size // 2)} <= origin <= {(size - 1) // 2} "
            f"for {size} weights"
        )
    return shift


def check_cval(cval: Any, x: Array) -> None:
    """Raise for a complex `cval` around real input."""
    if x.dtype.kind != "c" and np.iscomplexobj(cval):
        raise ValueError(f"cval={cval!r}: Cannot provide a complex-valued cval when the input is real.")


def border(mode: Any) -> str:
    """Return the canonical name of a SciPy border mode; "reflect" is SciPy's, which repeats the edge element."""
    if not isinstance(mode, str) and isinstance(mode, Iterable):
        raise RuntimeError(f"mode={mode!r}: A sequence of modes is not supported here; give one string")
    return canonical(mode, argument="mode", reflect="symmetric")


def correlate_into(
    output: Array, x: Array, weights: Array, origins: Sequence[int], mode: str, cval: Any, divisor: float = 1.0
) -> None:
    """Write the correlation of `x` with `weights`, one axis of it per axis of `x`, into `output`.

    Complex weights are multiplied as they are; conjugating them is the caller's part. `output` may overlap `x`.
    `mode` is canonical. The sums are divided by `divisor` before they take the output's dtype.
    """
    if not x.size:
        return
    if x.dtype.kind == "c" or weights.dtype.kind == "c":
        _complex_into(output, x, weights, origins, mode, cval, divisor)
        return
    dtype = np.dtype(np.float32 if x.dtype.name in _SINGLE and output.dtype.name in _SINGLE else np.float64)
    fold = _Fold(weights.shape)
    pairs = tuple((k // 2 + shift, k - 1 - k // 2 - shift) for k, shift in zip(weights.shape, origins, strict=True))
    target = fold.view(output) if output.dtype == dtype and not np.may_share_memory(output, x) else None
    geometry = (1, fold.pick(pairs, (0, 0)), 0, 1, 1, mode, "channels_first")
    result = run(
        "forward", fold.rank, fold.apply(x.astype(dtype, copy=False)), fold.kernel(weights.astype(dtype)), None,
        geometry, "high", "auto", "auto", target, names=("input", "weights"),
        padding_value=float(cval) if mode == "zeros" else 0.0,
    )  # fmt: skip
    if divisor != 1.0:
        np.divide(result, divisor, out=result)
    if target is None:
        store(output, fold.undo(result, x.shape))


def _complex_into(
    output: Array, x: Array, weights: Array, origins: Sequence[int], mode: str, cval: Any, divisor: float
) -> None:
    """Correlate real and imaginary parts apart, so that each meets its own part of `cval`, as SciPy does."""
    x = x.copy() if np.may_share_memory(output, x) else x
    correlate_into(output.real, x.real, weights.real, origins, mode, np.real(cval), divisor)
    if x.dtype.kind != "c":
        correlate_into(output.imag, x, weights.imag, origins, mode, cval, divisor)
        return
    correlate_into(output.imag, x.imag, weights.real, origins, mode, np.imag(cval), divisor)
    if weights.dtype.kind == "c":
        part = np.empty(x.shape, output.real.dtype)
        correlate_into(part, x.imag, weights.imag, origins, mode, np.imag(cval), divisor)
        output.real -= part
        correlate_into(part, x.real, weights.imag, origins, mode, np.real(cval), divisor)
        output.imag += part


def store(output: Array, values: Array) -> None:
    """Write floats into `output` as C converts them: integers lose their fraction, unsigned ones wrap around.

    NumPy leaves a negative float's conversion to an unsigned integer to the processor.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if output.dtype.kind == "u":
            magnitude = np.abs(values).astype(np.uint64)
            output[...] = np.where(values < 0, np.uint64(0) - magnitude, magnitude).astype(output.dtype)
        elif output.dtype.kind == "i":
            output[...] = values.astype(np.int64).astype(output.dtype)
        elif output.dtype.kind == "b":
            output[...] = np.trunc(values) != 0
        else:
            np.copyto(output, values, casting="unsafe")


def run_passes(x: Array, passes: Sequence[Pass], cval: Any, output: Array) -> Array:
    """Run 1-d correlations one after the other; each result has the output's dtype, as in SciPy."""
    scratch = np.empty(output.shape, output.dtype) if len(passes) > 1 else None
    for index, step in enumerate(passes):
        is_output = (len(passes) - 1 - index) % 2 == 0
        target = output if is_output or scratch is None else scratch
        shape, origins = [1] * x.ndim, [0] * x.ndim
        shape[step.axis], origins[step.axis] = -1, step.origin
        correlate_into(target, x, step.weights.reshape(shape), origins, step.mode, cval, step.divisor)
        x = target
    if not passes:
        output[...] = x
    return output


class _Fold:
    """An array of any rank as (N, 1, up to three spatial axes), without a copy wherever strides allow.

    Neighbouring axes along which the kernel has size 1 become one; the first such group is the batch. If more than
    three groups are left, every unfiltered axis goes to the batch.
    """

    def __init__(self, kernel: tuple[int, ...]) -> None:
        groups: list[list[int]] = []
        for axis, k in enumerate(kernel):
            if groups and k == 1 and kernel[groups[-1][0]] == 1:
                groups[-1].append(axis)
            else:
                groups.append([axis])
        batch = groups.pop(0) if len(groups) > 1 and kernel[groups[0][0]] == 1 else []
        if len(groups) > 3:
            batch = [axis for axis, k in enumerate(kernel) if k == 1]
            groups = [[axis] for axis, k in enumerate(kernel) if k != 1]
        if len(groups) > 3:
            raise UnsupportedError(
                f"weights of shape {kernel} are longer than 1 along {len(groups)} axes; "
                "at most 3 axes are supported, of an input of any rank"
            )
        self._batch, self._groups, self._full = batch, groups or [[]], kernel
        self._order = [*batch, *(axis for group in groups for axis in group)]

    @property
    def rank(self) -> int:
        return len(self._groups)

    def pick(self, values: Sequence[Any], default: Any) -> tuple[Any, ...]:
        """Return one value per spatial axis from one per axis: the filtered axis's, or `default`."""
        return tuple(next((values[axis] for axis in group if self._full[axis] != 1), default) for group in self._groups)

    def kernel(self, weights: Array) -> Array:
        return weights.reshape(1, 1, *self.pick(weights.shape, 1))

    def apply(self, a: Array) -> Array:
        size = [math.prod(a.shape[axis] for axis in group) for group in (self._batch, *self._groups)]
        return a.transpose(self._order).reshape(size[0], 1, *size[1:])

    def view(self, a: Array) -> Array | None:
        """Return `apply(a)` if that is a view into `a`'s memory."""
        folded = self.apply(a)
        return folded if np.may_share_memory(folded, a) else None

    def undo(self, folded: Array, shape: tuple[int, ...]) -> Array:
        opened = folded.reshape([shape[axis] for axis in self._order])
        return opened.transpose(np.argsort(self._order)) if self._order else opened
