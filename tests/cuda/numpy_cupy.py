"""NumPy in CuPy's place, for the algorithms that are made of whole-array operations.

It runs their every line, on the host's memory, and so checks shapes, strides, borders, sums and pointers. It does not
check that CuPy's functions do what NumPy's of the same name do, that streams order the work, or how fast any of it is.
"""

import contextlib
import ctypes
import importlib

import numpy as np
from support import DTYPES

from gpuconv.backends.cuda import cublas, cupy_work, interop
from gpuconv.dtypes import to_numpy

ALGORITHMS = ("gemm", "fft")


class Array(np.ndarray):
    """A NumPy array with what CuPy's have besides: an address as `data.ptr`, and the CUDA array interface."""

    @property
    def data(self):
        return Pointer(None, self.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "strides": self.strides, "version": 3,
                "data": (self.ctypes.data, False), "stream": 1}  # fmt: skip


class Pointer:
    """An address in a memory, as CuPy's MemoryPointer is."""

    def __init__(self, memory, offset):
        self.ptr = offset if memory is None else memory + offset


class Stream(contextlib.nullcontext):
    """A stream, which does nothing: the host's work is done at once. What was made of it is noted."""

    made: list = []

    def __init__(self, handle=0):
        super().__init__()
        Stream.made.append(handle)

    def record(self):
        return self

    def wait_event(self, event):
        """Nothing runs on its own."""


class Cuda:
    """`cupy.cuda`."""

    class runtime:
        getDevice = staticmethod(lambda: 0)

    ExternalStream = Stream
    Device = staticmethod(lambda number: contextlib.nullcontext())
    UnownedMemory = staticmethod(lambda pointer, size, owner, device: pointer)
    MemoryPointer = Pointer


class Module:
    """`cupy`: a function of NumPy's by the same name, but where they differ."""

    cuda = Cuda
    asnumpy = staticmethod(np.array)

    def __getattr__(self, name):
        function = getattr(np, name)
        if not callable(function):
            return function
        return lambda *arguments, **options: wrapped(function(*arguments, **options))

    @staticmethod
    def asarray(array):
        return np.array(array).view(Array)  # a copy, as what goes to a GPU is

    @staticmethod
    def empty(shape, dtype):
        made = np.empty(shape, dtype)
        made.reshape(-1).view(np.uint8)[...] = 0xFF  # NaNs, so that an element that nobody wrote shows
        return made.view(Array)

    @staticmethod
    def ndarray(shape, dtype, pointer, strides):
        low = sum(min(s * (n - 1), 0) for s, n in zip(strides, shape, strict=True) if n)
        high = sum(max(s * (n - 1), 0) for s, n in zip(strides, shape, strict=True) if n) + dtype.itemsize
        raw = (ctypes.c_byte * (high - low)).from_address(pointer.ptr + low)
        return np.ndarray(shape, dtype, raw, -low, strides).view(Array)

    class lib:
        class stride_tricks:
            @staticmethod
            def as_strided(array, shape, strides):
                return np.lib.stride_tricks.as_strided(array, shape, strides, subok=True)

    @property
    def fft(self):
        return Fft()


class Fft:
    """`cupy.fft`, which keeps single precision as NumPy's does."""

    def __getattr__(self, name):
        return lambda *arguments, **options: wrapped(getattr(np.fft, name)(*arguments, **options))


def wrapped(result):
    return result.view(Array) if isinstance(result, np.ndarray) else result


class Cublas:
    """CuPy's binding of cuBLAS: reads and writes what its arguments point to, as the library's manual says."""

    mode = 3
    computed_in: list = []

    def getMathMode(self, handle):
        return self.mode

    def setMathMode(self, handle, mode):
        self.mode = mode

    def gemmStridedBatchedEx(
        self, handle, operation_a, operation_b, m, n, k, alpha, a, a_type, lda, step_a, b, b_type, ldb, step_b,
        beta, c, c_type, ldc, step_c, batch, compute, algorithm,
    ):  # fmt: skip
        """Compute C = A B + beta C for each of a batch, with columns together."""
        assert self.mode == 0
        self.computed_in.append(compute)
        dtype = to_numpy({code: name for name, code in cublas._TYPES.items()}[a_type])
        assert a_type == b_type == c_type
        scalar = {70: {"c": np.complex128}.get(dtype.kind, np.float64)}.get(
            compute, np.complex64 if dtype.kind == "c" else np.float32
        )
        one, scale = (
            np.ctypeslib.as_array((ctypes.c_byte * 16).from_address(p)).view(scalar)[0] for p in (alpha, beta)
        )
        assert one == 1
        rows = (m, k) if operation_a == 0 else (k, m)
        columns = (k, n) if operation_b == 0 else (n, k)
        assert lda >= rows[0]
        assert ldb >= columns[0]
        assert ldc >= m
        for i in range(batch):
            left = at(a, dtype, rows, lda, i * step_a)
            right = at(b, dtype, columns, ldb, i * step_b)
            left, right = (v if op == 0 else v.T for v, op in ((left, operation_a), (right, operation_b)))
            target = at(c, dtype, (m, n), ldc, i * step_c)
            sums = left.astype(scalar) @ right.astype(scalar)
            target[...] = sums + scale * target.astype(scalar) if scale else sums


def at(pointer, dtype, shape, leading, offset):
    """Return the matrix at an address, with columns together."""
    size = leading * (shape[1] - 1) + shape[0]
    raw = (ctypes.c_byte * (size * dtype.itemsize)).from_address(pointer + offset * dtype.itemsize)
    return np.ndarray(shape, dtype, raw, 0, (dtype.itemsize, leading * dtype.itemsize))


def install(monkeypatch, direct):
    """Put it in the place of CuPy; `direct` computes again what is not finite."""
    library = Cublas()
    library.computed_in = []
    monkeypatch.setattr(cupy_work, "module", Module)
    monkeypatch.setattr(cublas, "library", lambda: (library, 7))
    monkeypatch.setattr(importlib.import_module("gpuconv.backends.cuda.fft"), "direct", direct)
    monkeypatch.setattr(cupy_work.Work, "other", lambda work, array: np.asarray(array))
    return library


def there(array):
    """Return an array of the host as one on the GPU."""
    return interop.adopt(array.view(Array))


__all__ = ["ALGORITHMS", "DTYPES", "Array", "install", "there"]
