"""Arrays in a GPU's memory: what they are, and how to make one of the caller's kind.

CuPy's and Numba's arrays, torch's tensors, and anything with ``__cuda_array_interface__`` (version 3) or DLPack are
taken without a copy. Nothing here imports Numba, CuPy or torch: who passes an array has imported its library.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from gpuconv.dtypes import to_numpy
from gpuconv.errors import DtypeError, UnsupportedError

__all__ = ["DeviceArray", "Holder", "adopt", "allocate", "is_on_gpu"]


class DeviceArray(NamedTuple):
    """An array in a GPU's memory, whatever library made it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    """Bytes, as NumPy's."""
    pointer: int
    device: int | None
    """The GPU's number; None for the current one."""
    stream: int | None
    """The handle of the stream that orders work on it; None where there is nothing to wait for."""
    writeable: bool
    owner: Any
    """Keeps the memory alive; of an array made here, what the caller gets."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def c_contiguous(self) -> bool:
        """Whether it lies in C order, without gaps."""
        span = self.itemsize
        for stride, n in zip(self.strides[::-1], self.shape[::-1], strict=True):
            if n != 1 and stride != span:
                return False
            span *= n
        return True

    def bounds(self) -> tuple[int, int]:
        """Return the first address of its memory and the one past the last."""
        if not self.size:
            return self.pointer, self.pointer
        spans = [stride * (n - 1) for stride, n in zip(self.strides, self.shape, strict=True)]
        low = self.pointer + sum(s for s in spans if s < 0)
        return low, self.pointer + sum(s for s in spans if s > 0) + self.itemsize


class Holder:
    """Base class of what gpuconv makes of an array in a GPU's memory to compute with."""

    __slots__ = ("kin", "memory")
    memory: DeviceArray
    kin: Any
    """The caller's array whose kind arrays made from this one have."""


def is_on_gpu(value: Any) -> bool:
    """Return whether a value is an array in a GPU's memory."""
    if isinstance(value, Holder):
        return True
    if _is_torch(value):
        return bool(value.device.type != "cpu")
    if hasattr(value, "__cuda_array_interface__") or hasattr(value, "__cuda_ndarray__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and not isinstance(value, np.ndarray) and device()[0] in _GPU_DEVICES


def adopt(value: Any) -> DeviceArray:
    """Return what is known of an array in a GPU's memory, which is not copied.

    Raises
    ------
    UnsupportedError
        For an array on a GPU of another maker, one with a mask, or one whose elements overlap in part.
    DtypeError
        For a dtype that NumPy has not got.
    """
    if isinstance(value, Holder):
        return value.memory
    if _is_torch(value):
        array = _of_torch(value)
    elif hasattr(value, "__cuda_array_interface__"):
        array = _of_interface(value)
    elif hasattr(value, "__cuda_ndarray__"):
        array = _of_simulator(value)
    else:
        array = _of_dlpack(value)
    if not array.dtype.isnative:
        raise DtypeError(f"an array in a GPU's memory has dtype {array.dtype.str}; its byte order must be native")
    if any(stride % array.itemsize for stride, n in zip(array.strides, array.shape, strict=True) if n > 1):
        raise UnsupportedError(
            f"an array in a GPU's memory has strides {array.strides}, which are not multiples of its itemsize, "
            f"{array.itemsize}: pass a contiguous copy"
        )
    return array


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    return tuple(strides[: len(shape)]) if shape else ()


# Libraries


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _of_torch(tensor: Any) -> DeviceArray:
    import torch

    if tensor.device.type != "cuda":
        raise UnsupportedError(
            f"a tensor lies on {str(tensor.device)!r}; gpuconv computes on 'cpu' and, with NVIDIA GPUs, on 'cuda'"
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    name = str(plain.dtype).removeprefix("torch.")
    try:
        dtype = to_numpy(name)
    except TypeError:
        raise DtypeError(f"a tensor has dtype {plain.dtype}, which gpuconv does not compute in") from None
    return DeviceArray(
        tuple(plain.shape), dtype, tuple(s * dtype.itemsize for s in plain.stride()), plain.data_ptr(),
        plain.device.index, torch.cuda.current_stream(plain.device).cuda_stream, True, plain,
    )  # fmt: skip


def _of_interface(value: Any) -> DeviceArray:
    interface = value.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise UnsupportedError("an array in a GPU's memory has a mask, which gpuconv does not take")
    try:
        dtype = np.dtype(interface["typestr"])
    except TypeError:
        raise DtypeError(f"an array in a GPU's memory has typestr {interface['typestr']!r}, unknown to NumPy") from None
    if dtype.kind == "V":
        # CuPy has bfloat16 from ml_dtypes, whose type string says two bytes and no more.
        dtype = np.dtype(getattr(value, "dtype", dtype))
    shape = tuple(interface["shape"])
    pointer, read_only = interface["data"]
    strides = interface.get("strides") or _contiguous(shape, dtype.itemsize)
    number = getattr(getattr(value, "device", None), "id", None)
    return DeviceArray(
        shape, dtype, tuple(strides), pointer, number if isinstance(number, int) else None,
        interface.get("stream"), not read_only, value,
    )  # fmt: skip


def _of_simulator(value: Any) -> DeviceArray:
    """Return what the simulator's stand-in for a device array is: NumPy's memory."""
    host = value.copy_to_host() if not hasattr(value, "ctypes") else value
    return DeviceArray(
        tuple(host.shape), host.dtype, tuple(host.strides), host.ctypes.data, None, None,
        bool(host.flags.writeable), value,
    )  # fmt: skip


# DLPack

_GPU_DEVICES = (2, 13)
"""DLPack's codes of CUDA memory and of CUDA's managed memory."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}


def _of_dlpack(value: Any) -> DeviceArray:
    """Return what a DLPack capsule tells; the capsule owns the memory, and frees it when it goes unused.

    The producer is asked to have its work done in the order of the legacy default stream, where ours then runs.
    """
    capsule = value.__dlpack__(stream=1)
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer_of(capsule, b"dltensor"))
    kind = _DLPACK_KINDS.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        raise DtypeError(f"a DLPack array has dtype code {tensor.code} and {tensor.lanes} lanes, unknown to gpuconv")
    dtype = to_numpy(f"{kind}{tensor.bits}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = _contiguous(shape, dtype.itemsize)
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(shape, dtype, strides, address, value.__dlpack_device__()[1], 1, False, (value, capsule))


# Results


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], like: Any) -> DeviceArray:
    """Return an uninitialised array in the kind of `like`, its owner.

    A torch tensor for a tensor, a Numba device array for one of Numba's; for CuPy's arrays, and those of libraries
    that gpuconv does not know, a CuPy array where CuPy is installed, else one of Numba's.
    """
    if isinstance(like, Holder):
        # Work on what is made here goes to the stream of what it is made for.
        made = allocate(shape, dtype, like.kin)
        return made._replace(stream=like.memory.stream, device=like.memory.device)
    if _is_torch(like):
        import torch

        return adopt(torch.empty(shape, dtype=getattr(torch, dtype.name), device=like.device))
    numbas = type(like).__module__.startswith("numba")
    if not numbas and importlib.util.find_spec("cupy") is not None:
        cupy = importlib.import_module("cupy")
        number = getattr(getattr(like, "device", None), "id", None)
        stream = getattr(like, "__cuda_array_interface__", {}).get("stream")
        # CuPy's pool gives memory that is free in the order of the stream that it is asked on.
        on = contextlib.nullcontext() if stream is None else cupy.cuda.ExternalStream(stream)
        with cupy.cuda.Device(number), on:
            return adopt(cupy.empty(shape, dtype))
    cuda = importlib.import_module("numba.cuda")
    return adopt(cuda.device_array(shape, dtype))
