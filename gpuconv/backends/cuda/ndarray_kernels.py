"""Device code of `GpuArray`: one kernel that applies a function element by element, and a search for false elements."""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from gpuconv.backends.cuda import launch, scalars

__all__ = ["FUNCTIONS", "OPERANDS", "elementwise", "find_false", "loader", "storer"]

u8, u64, i64, f32 = np.uint8, np.uint64, np.int64, np.float32

OPERANDS = 3
"""Arrays that the kernel can read; their numbers in `meta` come first, those of the array that it writes last."""

_quotient = operator.truediv
_TWO = f32(2)
_PLACES = 2
_AXES = _PLACES + OPERANDS + 1
_AXIS_FIELDS = OPERANDS + 2


def _identity(a):  # type: ignore[no-untyped-def]
    return a


def _conjugate(a):  # type: ignore[no-untyped-def]
    return a.conjugate()


def _is_nan(a):  # type: ignore[no-untyped-def]
    return a != a  # noqa: PLR0124


def _is_finite(a):  # type: ignore[no-untyped-def]
    return a - a == 0


def _is_zero(a):  # type: ignore[no-untyped-def]
    return a == 0


# What Numba makes of complex products, quotients and roots calls a function that NVIDIA's compiler has not got.


def _complex_product(a, b):  # type: ignore[no-untyped-def]
    return complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def _complex_quotient(a, b):  # type: ignore[no-untyped-def]
    # Both parts of b divided by the larger one, so that no square passes the largest number.
    if abs(b.real) >= abs(b.imag):
        if b.real == 0:
            return complex(_quotient(a.real, b.real), _quotient(a.imag, b.real))
        ratio = _quotient(b.imag, b.real)
        scale = b.real + b.imag * ratio
        return complex(_quotient(a.real + a.imag * ratio, scale), _quotient(a.imag - a.real * ratio, scale))
    ratio = _quotient(b.real, b.imag)
    scale = b.imag + b.real * ratio
    return complex(_quotient(a.real * ratio + a.imag, scale), _quotient(a.imag * ratio - a.real, scale))


def _complex_root(a):  # type: ignore[no-untyped-def]
    # The square of the larger part could pass the largest number.
    real, imaginary = abs(a.real), abs(a.imag)
    largest = real if real > imaginary else imaginary  # noqa: FURB136 - there is no max() for the CUDA target without a device
    if largest == 0:
        return a
    magnitude = largest
    if largest - largest == 0:
        x, y = _quotient(real, largest), _quotient(imaginary, largest)
        magnitude = largest * math.sqrt(x * x + y * y)
    root = math.sqrt(_quotient(real + magnitude, _TWO))
    other = _quotient(imaginary, root + root)
    if a.real < 0:
        root, other = other, root
    return complex(root, other if a.imag >= 0 else -other)


def _select(mask, a, b):  # type: ignore[no-untyped-def]
    return a if mask != 0 else b


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "copy": _identity,
    "absolute": abs,
    "conjugate": _conjugate,
    "isnan": _is_nan,
    "isfinite": _is_finite,
    "invert": _is_zero,
    "sqrt": math.sqrt,
    "complex multiply": _complex_product,
    "complex divide": _complex_quotient,
    "complex sqrt": _complex_root,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "bitwise_and": operator.and_,
    "less": operator.lt,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "select": _select,
}
"""What can be applied, by NumPy's names; `invert` is that of truth values."""

if launch.SIMULATED:
    # In Python a root of a negative number, a division by zero and a NaN made an integer are errors or warnings.
    FUNCTIONS["sqrt"] = np.sqrt

    def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
        def quiet(*arguments: Any) -> Any:
            with np.errstate(all="ignore"):
                return function(*arguments)

        return quiet

    _to_i64 = _quiet(lambda value: np.asarray(value).astype(np.int64)[()])
    _to_u64 = _quiet(lambda value: np.asarray(value).astype(np.uint64)[()])

else:
    _to_i64, _to_u64 = i64, u64

    def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
        return function


@functools.cache
def loader(dtype: str, computed: str) -> Any:
    """Return the device function that makes a number of dtype `computed` of a stored one."""
    to = np.dtype(computed).type
    if dtype in ("float16", "bfloat16"):
        widen = scalars.loader(dtype)

        def load(stored):  # type: ignore[no-untyped-def]
            return to(widen(stored))

    elif dtype.startswith("uint"):
        # Memory of wider unsigned integers may be seen as one of signed ones.
        own = np.dtype(dtype).type

        def load(stored):  # type: ignore[no-untyped-def]
            return to(own(stored))

    else:

        def load(stored):  # type: ignore[no-untyped-def]
            return to(stored)

    return launch.compile_device_function(load)


@functools.cache
def storer(dtype: str, computed: str) -> Any:
    """Return the device function that makes a number to store of one of dtype `computed`, as C converts it.

    Floats lose their fraction on their way into integers, and integers wrap around.
    """
    stored_kind, kind = np.dtype("uint16" if dtype == "bfloat16" else dtype).kind, np.dtype(computed).kind
    if dtype == "bool":

        def store(value):  # type: ignore[no-untyped-def]
            return u8(value != 0)

    elif dtype == "bfloat16":
        return scalars.storer(dtype)
    elif stored_kind == "i" and kind == "f":
        to = np.dtype(dtype).type

        def store(value):  # type: ignore[no-untyped-def]
            return to(_to_i64(value))

    elif stored_kind == "u" and kind == "f":
        to = np.dtype(dtype).type

        def store(value):  # type: ignore[no-untyped-def]
            return to(_to_i64(value)) if value < 0 else to(_to_u64(value))

    else:
        to = np.dtype(dtype).type

        def store(value):  # type: ignore[no-untyped-def]
            return to(value)

    return launch.compile_device_function(store)


@launch.specialise
def elementwise(name: str, sources: tuple[str, ...], computed: tuple[str, ...], made: str, target: str) -> Any:
    """Return the kernel ``(a, b, c, y, meta)`` that applies one of `FUNCTIONS` to one to three arrays.

    Parameters
    ----------
    name : str
    sources, target : dtypes of the arrays, by name
    computed : dtypes that the elements are converted to first
    made : dtype of what the function gives

    Notes
    -----
    `meta` holds the number of elements, that of axes, the places of the first element in the arrays that are read and
    in that which is written, and for each axis, the last one first, its size and the four strides.
    """
    function = FUNCTIONS[name]
    if isinstance(function, type(_identity)):
        function = launch.compile_device_function(function)
    function = _quiet(function)
    loads = [loader(*pair) for pair in zip(sources, computed, strict=True)]
    load_a, load_b, load_c = (*loads, *loads[-1:] * (OPERANDS - len(loads)))
    store = storer(target, made)
    if len(sources) == 1:

        def apply(a, b, c, at_a, at_b, at_c):  # type: ignore[no-untyped-def]
            return store(function(load_a(a[at_a])))

    elif len(sources) == 2:

        def apply(a, b, c, at_a, at_b, at_c):  # type: ignore[no-untyped-def]
            return store(function(load_a(a[at_a]), load_b(b[at_b])))

    else:

        def apply(a, b, c, at_a, at_b, at_c):  # type: ignore[no-untyped-def]
            return store(function(load_a(a[at_a]), load_b(b[at_b]), load_c(c[at_c])))

    compute = launch.compile_device_function(apply)

    def kernel(a, b, c, y, meta):  # type: ignore[no-untyped-def]
        element = i64(cuda.blockIdx.x) * i64(cuda.blockDim.x) + i64(cuda.threadIdx.x)
        step = i64(cuda.gridDim.x) * i64(cuda.blockDim.x)
        while element < meta[0]:
            rest = element
            at_a = meta[_PLACES]
            at_b = meta[_PLACES + 1]
            at_c = meta[_PLACES + 2]
            at_y = meta[_PLACES + 3]
            for axis in range(meta[1]):
                at = _AXES + _AXIS_FIELDS * axis
                size = meta[u64(at)]
                here = rest % size
                rest = rest // size
                at_a = at_a + here * meta[u64(at + 1)]
                at_b = at_b + here * meta[u64(at + 2)]
                at_c = at_c + here * meta[u64(at + 3)]
                at_y = at_y + here * meta[u64(at + 4)]
            y[u64(at_y)] = compute(a, b, c, u64(at_a), u64(at_b), u64(at_c))
            element = element + step

    return launch.compile_kernel(kernel)


@functools.cache
def find_false() -> Any:
    """Return the kernel ``(mask, found)`` that sets found[0] where an element is 0; threads that do all write 1."""

    def kernel(mask, found):  # type: ignore[no-untyped-def]
        element = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        step = u64(cuda.gridDim.x) * u64(cuda.blockDim.x)
        while element < u64(mask.size):
            if mask[element] == 0:
                found[u64(0)] = u8(1)
            element = u64(element + step)

    return launch.compile_kernel(kernel)
