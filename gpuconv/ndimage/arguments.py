"""The arguments of SciPy's filters: arrays, outputs, axes, borders, origins; what they mean and what is refused."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import arrays
from gpuconv.boundary import canonical
from gpuconv.dtypes import name_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "adopt",
    "border",
    "check_axes",
    "check_axis",
    "check_centred",
    "check_cval",
    "check_origin",
    "check_steps",
    "finish",
    "per_axis",
    "prepare_output",
]

_REAL = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
_COMPLEX = ("complex64", "complex128")


def adopt(value: Any) -> Array:
    """Return a caller's array in a form that the dispatcher takes.

    Raises
    ------
    RuntimeError
        For a dtype that filters do not take; SciPy's kind of error.
    """
    array = arrays.workable(value)
    if name_of(array.dtype) not in (*_REAL, *_COMPLEX):
        raise RuntimeError(
            f"an array has dtype {array.dtype}, which is not supported; valid are {', '.join((*_REAL, *_COMPLEX))}"
        )
    return array


def prepare_output(
    output: Any, x: Array, shape: tuple[int, ...], *, is_complex: bool = False, promotes: int = 0, out: Any = None
) -> Array:
    """Return the array that `output` (None, a dtype or its name, or an array) and `out` mean.

    Parameters
    ----------
    output, out : see the public functions
    x : array
        The input.
    shape : tuple of int
        The result's.
    is_complex : bool
        Whether the result is.
    promotes : int
        0 where a real dtype is then refused; else it becomes complex, with a warning at so many calls' distance.

    Raises
    ------
    RuntimeError
        If `output` has the wrong shape, a dtype that is not numeric, or a real dtype for a complex result.
    ShapeError, DtypeError, ValueError
        If `out` does not fit.
    """
    own = np.promote_types(x.dtype, np.complex64) if is_complex else x.dtype
    if out is not None:
        if output is not None:
            raise TypeError("both output and out are given; give one of them")
        return arrays.check_workable_out(out, shape, own, (x,))
    if output is None:
        return np.empty(shape, own, like=x)
    if isinstance(output, str):
        dtype = np.dtype(output)
        if not issubclass(dtype.type, np.number):
            raise RuntimeError(f"output={output!r}: output must have numeric dtype")
    elif isinstance(output, (type, np.dtype)):
        dtype = np.dtype(output)
        if promotes and is_complex and dtype.kind != "c":
            warnings.warn("promoting specified output dtype to complex", stacklevel=promotes)
            dtype = np.promote_types(dtype, np.complex64)
    else:
        arrays.check_same_memory("output", output, x)
        given = output if isinstance(output, np.ndarray) else arrays.workable(output)
        if given.shape != shape:
            raise RuntimeError(f"output has shape {given.shape}; it must have the result's: {shape}")
        if not given.flags.writeable:
            raise ValueError("output is read-only; it must be writable")
        _check_output(given.dtype, is_complex=is_complex)
        return given
    _check_output(dtype, is_complex=is_complex)
    return np.empty(shape, dtype, like=x)


def _check_output(dtype: np.dtype[Any], *, is_complex: bool) -> None:
    if is_complex and dtype.kind != "c":
        raise RuntimeError(
            f"output has dtype {dtype.name}; with complex input or weights output must have complex dtype"
        )
    valid = _COMPLEX if is_complex else _REAL
    if name_of(dtype) not in valid:
        raise RuntimeError(f"output has dtype {dtype}, which is not supported here; valid are {', '.join(valid)}")


def finish(result: Array, output: Any, out: Any, like: Any) -> Array:
    """Return what a function gives: the caller's own array, or the result in the kind of its input."""
    given: Any = output if out is None else out
    if given is None or isinstance(given, (str, type, np.dtype)):
        given = arrays.give_back(result, like)
    final: Array = given if hasattr(given, "shape") or arrays.home(given) == "cuda" else result
    return final


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


def check_centred(mode: str, origin: Any) -> None:
    """Raise for an origin where there is no border for it to move into."""
    if mode == "valid" and np.any(origin):
        raise ValueError(f"origin={origin!r} has no meaning with mode='valid'; it must be 0")


def check_steps(step: Any, count: int) -> list[int]:
    """Return one step per filtered axis."""
    steps = [operator.index(entry) for entry in per_axis("step", step, count)]
    if any(entry < 1 for entry in steps):
        raise ValueError(f"step={step!r} must be at least 1")
    return steps


def check_cval(cval: Any, x: Array, weights: Array | None = None) -> None:
    """Raise for a complex `cval` around real input: a TypeError, or with complex weights a ValueError, as in SciPy."""
    if type(cval) is not float and x.dtype.kind != "c" and np.iscomplexobj(cval):
        kind = TypeError if weights is None or weights.dtype.kind != "c" else ValueError
        raise kind(f"cval={cval!r}: Cannot provide a complex-valued cval when the input is real.")


def border(mode: Any) -> str:
    """Return the canonical name of a SciPy border mode, or "valid"; "reflect" repeats the edge element, as SciPy's."""
    if not isinstance(mode, str) and isinstance(mode, Iterable):
        raise RuntimeError(f"mode={mode!r}: A sequence of modes is not supported here; give one string")
    return "valid" if mode == "valid" else canonical(mode, argument="mode", reflect="symmetric")
