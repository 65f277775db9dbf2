"""How SciPy's linear filters become convolutions: outputs, borders, folded axes, complex parts.

`gpuconv.ndimage` has the names and signatures; every filter there ends in `correlate_into` here.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv import arrays
from gpuconv.api import run
from gpuconv.boundary import canonical
from gpuconv.dispatch import Call, Factors, choose
from gpuconv.dtypes import name_of
from gpuconv.errors import UnsupportedError
from gpuconv.problem import ConvProblem

if TYPE_CHECKING:
    from types import ModuleType

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
_WORTH_FACTORING = 1 << 14
"""Elements of an image from which on its weights are looked at for factors."""


class Pass(NamedTuple):
    """One 1-d correlation of a separable filter."""

    axis: int
    weights: Array
    mode: str
    origin: int = 0
    divisor: float = 1.0


def adopt(value: Any) -> Array:
    """Return a caller's array as NumPy's; an array in a GPU's memory is refused."""
    return arrays.adopt_host(value)


def prepare_output(output: Any, x: Array, *, is_complex: bool = False) -> Array:
    """Return the array that SciPy's `output` argument means: None, a dtype or its name, or an array.

    Raises
    ------
    RuntimeError
        If it has the wrong shape, a dtype that is not numeric, or a real dtype for a complex result.
    """
    if output is None:
        dtype = np.promote_types(x.dtype, np.complex64) if is_complex else x.dtype
        return np.empty(x.shape, dtype)
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
    return np.empty(x.shape, dtype)


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
    dtype = np.dtype(np.float32 if name_of(x.dtype) in _SINGLE and name_of(output.dtype) in _SINGLE else np.float64)
    fold = _Fold(weights.shape)
    pairs = tuple((k // 2 + shift, k - 1 - k // 2 - shift) for k, shift in zip(weights.shape, origins, strict=True))
    padding = fold.pick(pairs, (0, 0))
    kernel = fold.kernel(weights)
    w: Array | Factors = _rounded(kernel, dtype)
    if divisor != 1.0:
        # Filters with a divisor are one pass along one axis.
        w = Factors(tuple(kernel.reshape(-1) if k > 1 else np.ones(1) for k in kernel.shape[2:]), divisor)
    elif x.size >= _WORTH_FACTORING and fold.rank == 2 and min(kernel.shape[2:]) > 2:
        w = _factors(kernel[0, 0], dtype) or w
    if _compute(output, x, fold, w, kernel.shape, padding, mode, cval, dtype):
        return
    geometry = (1, padding, 0, 1, 1, mode, "channels_first")
    target = fold.view(output) if output.dtype == dtype and not np.may_share_memory(output, x) else None
    result = run(
        "forward", fold.rank, fold.apply(x.astype(dtype, copy=False)), _rounded(kernel, dtype), None,
        geometry, "high", "auto", "auto", target, names=("input", "weights"),
        padding_value=float(cval) if mode == "zeros" else 0.0,
    )  # fmt: skip
    if divisor != 1.0:
        np.divide(result, divisor, out=result)
    if target is None:
        store(output, fold.undo(result, x.shape))


def _compute(
    output: Array, x: Array, fold: _Fold, w: Array | Factors, w_shape: tuple[int, ...], padding: tuple[Any, ...],
    mode: str, cval: Any, dtype: np.dtype[Any],
) -> bool:  # fmt: skip
    """Run the algorithm that reads `x` and writes `output` in their own dtypes; return whether there is one."""
    source = fold.apply(x)
    found = _ready(
        source.shape, w_shape, padding, mode, float(cval) if mode == "zeros" else 0.0, name_of(x.dtype),
        dtype.name, name_of(output.dtype), isinstance(w, Factors),
    )  # fmt: skip
    if found is None or not (source.dtype.isnative and output.dtype.isnative):
        return False
    call, module = found
    target = None if np.may_share_memory(output, x) else fold.view(output)
    y = np.empty(source.shape, output.dtype) if target is None else target
    module.run(call, source, w, y)
    if target is None:
        output[...] = fold.undo(y, x.shape)
    return True


@functools.lru_cache(maxsize=4096)
def _ready(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], padding: tuple[Any, ...], mode: str, fill: float,
    source: str, sums: str, result: str, factored: bool,
) -> tuple[Call, ModuleType] | None:  # fmt: skip
    """Return the call that a filter is and the algorithm that serves it; None where none does."""
    problem = ConvProblem.make(x_shape, w_shape, padding=padding, padding_mode=mode, padding_value=fill)
    other = {} if source == sums == result else {"sums": sums, "result": result}
    call = Call(problem, "forward", source, factored=factored, **other)
    try:
        return call, choose(call, "cpu")
    except UnsupportedError:
        return None


def _factors(weights: Array, dtype: np.dtype[Any]) -> Factors | None:
    """Return the two vectors whose outer product the weights are to the dtype's rounding; None if there are none."""
    row, column = np.unravel_index(np.argmax(np.abs(weights)), weights.shape)
    pivot = weights[row, column]
    if not np.isfinite(pivot) or pivot == 0:
        return None
    # Both of the size of the pivot's root, so that sums of one pass neither overflow nor vanish.
    scale = math.sqrt(abs(pivot))
    down, across = weights[:, column] / math.copysign(scale, pivot), weights[row] / scale
    if not (np.abs(np.outer(down, across) - weights) <= 2 * np.finfo(dtype).eps * np.abs(weights)).all():
        return None
    return Factors((down, across))


def _rounded(weights: Array, dtype: np.dtype[Any]) -> Array:
    """Return the weights in `dtype`; the largest takes up what rounding changed in their sum.

    The sum is the filter's response to a constant: a Gaussian's must not brighten or darken an image.
    """
    rounded = weights.astype(dtype)
    if rounded.dtype != weights.dtype and np.isfinite(rounded).all():
        largest = np.unravel_index(np.argmax(np.abs(weights)), weights.shape)
        rounded[largest] = rounded[largest] + (weights - rounded).sum()
    return rounded


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
    # Around a constant other than 0 the second pass of SciPy's meets that constant, not what the first makes of it.
    pair = () if cval != 0 and any(step.mode == "zeros" for step in passes) else _pair(x, passes, output)
    single = [step for step in passes if all(step is not other for other in pair)] if pair else list(passes)
    x = _run_each(x, single, cval, np.empty_like(output) if pair and single else output)
    if pair and not _run_pair(x, pair, cval, output):
        _run_each(x, pair, cval, output)
    if not passes:
        output[...] = x
    return output


def _run_each(x: Array, passes: Sequence[Pass], cval: Any, output: Array) -> Array:
    """Run passes one by one into `output`; return it, or `x` where there are none."""
    scratch = np.empty(output.shape, output.dtype) if len(passes) > 1 else None
    for index, step in enumerate(passes):
        is_output = (len(passes) - 1 - index) % 2 == 0
        target = output if is_output or scratch is None else scratch
        shape, origins = [1] * x.ndim, [0] * x.ndim
        shape[step.axis], origins[step.axis] = -1, step.origin
        correlate_into(target, x, step.weights.reshape(shape), origins, step.mode, cval, step.divisor)
        x = target
    return x


def _pair(x: Array, passes: Sequence[Pass], output: Array) -> tuple[Pass, ...]:
    """Return the passes along the last two axes if they can run as one: floats, and the same border for both."""
    if x.dtype != output.dtype or name_of(x.dtype) not in ("float32", "float64") or not x.size:
        return ()
    pair = tuple(step for axis in (x.ndim - 2, x.ndim - 1) for step in passes if step.axis == axis)
    if len(pair) != 2 or pair[0].axis == pair[1].axis or pair[0].mode != pair[1].mode:
        return ()
    return pair if all(step.weights.size > 1 and step.weights.dtype.kind != "c" for step in pair) else ()


def _run_pair(x: Array, pair: tuple[Pass, ...], cval: Any, output: Array) -> bool:
    """Run a pass along each of the last two axes as one filter; return whether there is an algorithm for it."""
    sizes = tuple(step.weights.size for step in pair)
    padding = tuple((k // 2 + step.origin, k - 1 - k // 2 - step.origin) for k, step in zip(sizes, pair, strict=True))
    w = Factors(tuple(_rounded(step.weights, x.dtype) for step in pair), math.prod(step.divisor for step in pair))
    fold = _Fold((1,) * (x.ndim - 2) + sizes)
    return _compute(output, x, fold, w, (1, 1, *sizes), padding, pair[0].mode, cval, x.dtype)


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
