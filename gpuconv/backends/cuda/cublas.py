"""Products of matrices by cuBLAS, through CuPy's binding.

`cupy.matmul` computes float32 in TF32 where ``CUPY_TF32=1`` is set, for all threads of a process, and copies transposed
operands of batched products. Here each call says what it computes in, and matrices lie as they are.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from gpuconv.backends import cuda
from gpuconv.errors import BackendUnavailableError

__all__ = ["product"]

_TYPES = {"float32": 0, "float64": 1, "float16": 2, "complex64": 4, "complex128": 5, "bfloat16": 14}
"""cudaDataType."""
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_TF32 = 68, 70, 77
"""cublasComputeType: sums of float16, bfloat16 and float32, and of complex64, are of float32."""
_AS_IT_IS, _TRANSPOSED = 0, 1
_DEFAULT_MATH = 0
_LONGEST = (1 << 31) - 1
"""The distance between rows, in elements, that the library's integers hold."""
_DEFAULT_ALGORITHM = -1


class _Operand(NamedTuple):
    """A batch of matrices as cuBLAS, which has columns together, sees it."""

    array: Any
    operation: int
    """What makes the transpose of the matrix of it."""
    leading: int
    step: int
    """From one matrix to the next, in elements."""


def library() -> tuple[Any, int]:
    """Return CuPy's binding of cuBLAS, and its handle for the current thread and GPU."""
    try:
        binding = importlib.import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as error:
        raise BackendUnavailableError(
            f"CuPy cannot load cuBLAS ({str(error).strip()}): {cuda.INSTALL}, which bring it, "
            "or name another algorithm than 'gemm' and 'fft'"
        ) from error
    return binding, importlib.import_module("cupy.cuda.device").get_cublas_handle()


def product(xp: Any, a: Any, b: Any, out: Any, dtype: str, *, tf32: bool = False, add: bool = False) -> None:
    """Write ``out = a @ b``, or with `add` ``out += a @ b`` with one rounding.

    Parameters
    ----------
    xp : module
        CuPy.
    a, b, out : array
        (batch, m, k), (batch, k, n) and (batch, m, n); a batch axis of a or b may have stride 0. Operands whose columns
        and rows both lie apart are copied.
    dtype : str
        What the arrays hold, which of bfloat16 are the bits.
    tf32 : bool
        Whether float32 and complex64 may be multiplied as TF32.
    """
    batch, m, n = out.shape
    k = a.shape[2]
    if 0 in (batch, m, n):
        return
    if k == 0:
        if not add:
            out[...] = 0
        return
    if not _is_fit(out):
        _by_copy(xp, a, b, out, dtype, tf32, add)
        return
    if not _is_row_major(out):
        # The transpose of the whole equation has an output with rows together.
        a, b, out = b.swapaxes(1, 2), a.swapaxes(1, 2), out.swapaxes(1, 2)
        m, n = n, m
    left, right, target = _operand(xp, b), _operand(xp, a), _operand(xp, out)
    compute = _COMPUTE_64F if dtype in ("float64", "complex128") else _COMPUTE_TF32 if tf32 else _COMPUTE_32F
    scalar = np.dtype(dtype if compute == _COMPUTE_64F or dtype == "complex64" else "float32")
    one, beta, kind = np.ones(1, scalar), np.full(1, int(add), scalar), _TYPES[dtype]
    cublas, handle = library()
    # A handle that was told to use TF32 by others would do so here.
    mode = cublas.getMathMode(handle)
    cublas.setMathMode(handle, _DEFAULT_MATH)
    try:
        cublas.gemmStridedBatchedEx(
            handle, left.operation, right.operation, n, m, k, one.ctypes.data,
            left.array.data.ptr, kind, left.leading, left.step, right.array.data.ptr, kind, right.leading, right.step,
            beta.ctypes.data, target.array.data.ptr, kind, target.leading, target.step,
            batch, compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip
    finally:
        cublas.setMathMode(handle, mode)


def _by_copy(xp: Any, a: Any, b: Any, out: Any, dtype: str, tf32: bool, add: bool) -> None:
    made = xp.ascontiguousarray(out) if add else xp.empty(out.shape, out.dtype)
    product(xp, a, b, made, dtype, tf32=tf32, add=add)
    out[...] = made


def _steps(array: Any) -> tuple[int, ...]:
    """Return the strides of the last two axes in elements; those of axes of one element do not count, and are 0."""
    pairs = zip(array.strides[1:], array.shape[1:], strict=True)
    return tuple(stride // array.itemsize if n > 1 else 0 for stride, n in pairs)


def _is_row_major(array: Any) -> bool:
    rows, columns = _steps(array)
    return columns in (0, 1) and (rows == 0 or array.shape[2] <= rows <= _LONGEST)


def _is_fit(array: Any) -> bool:
    """Return whether cuBLAS takes the matrices as they lie."""
    if array.shape[0] > 1 and array.strides[0] < 0:
        return False
    return _is_row_major(array) or _is_row_major(array.swapaxes(1, 2))


def _operand(xp: Any, array: Any) -> _Operand:
    if not _is_fit(array):
        array = xp.ascontiguousarray(array)
    step = array.strides[0] // array.itemsize if array.shape[0] > 1 else 0
    if _is_row_major(array):
        return _Operand(array, _AS_IT_IS, max(_steps(array)[0], array.shape[2]), step)
    return _Operand(array, _TRANSPOSED, max(_steps(array)[1], array.shape[1]), step)
