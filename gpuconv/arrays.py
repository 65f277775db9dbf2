"""Arrays in, the same kind out: adopt, allocate, check and give back arrays of the host's memory and of a GPU's."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpuconv.errors import DtypeError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

    from gpuconv.backends.cuda.interop import DeviceArray

__all__ = [
    "address_of",
    "adopt",
    "allocate",
    "bare",
    "check_bias",
    "check_home",
    "check_out",
    "check_same_memory",
    "check_workable_out",
    "give_back",
    "home",
    "shown",
    "snapshot",
    "workable",
]


def home(*values: Any) -> str:
    """Return the backend that `backend="auto"` means for these arrays: "cuda" where one lies in a GPU's memory."""
    for value in values:
        if type(value) is not np.ndarray and value is not None and _on_gpu(value):
            return "cuda"
    return "cpu"


def check_home(backend: str, *values: Any) -> None:
    """Raise UnsupportedError where a backend of the host's memory is named for arrays in a GPU's."""
    if backend != "cpu":
        return
    for value in values:
        if type(value) is not np.ndarray and value is not None and _on_gpu(value):
            raise UnsupportedError(
                f"an argument of type {type(value).__name__} lies in a GPU's memory, and this call computes on "
                "the CPU (backend='cpu'): copy it to the host"
            )


def _on_gpu(value: Any) -> bool:
    if isinstance(value, (list, tuple, int, float)):
        return False
    from gpuconv.backends.cuda import interop

    return interop.is_on_gpu(value)


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def adopt(value: Any) -> Array | DeviceArray:
    """Return `value` as an aligned NumPy array of native byte order, without a copy wherever there need be none.

    An array in a GPU's memory stays there, as a `gpuconv.backends.cuda.interop.DeviceArray`.

    The caller's array is never written through the result unless it was passed as ``out``.
    """
    if type(value) is not np.ndarray and _on_gpu(value):
        from gpuconv.backends.cuda import interop

        return interop.adopt(value)
    return _adopt_host(value)


def workable(value: Any, like: Any = None) -> Array:
    """Return an array that NumPy's functions take, without a copy: for one in a GPU's memory a `GpuArray`.

    With `like`, one in a GPU's memory, a copy on that GPU of an array that is not.
    """
    array = None
    if type(value) is not np.ndarray and _on_gpu(value):
        array = _gpu_array(value)
    elif like is None or not _on_gpu(like):
        return _adopt_host(value)
    else:
        array = np.asarray(_adopt_host(value), like=_gpu_array(like))
    return cast("Array", array)


def _gpu_array(value: Any) -> Any:
    from gpuconv.backends.cuda.ndarray import GpuArray

    return GpuArray.of(value)


def bare(array: Any) -> Array | DeviceArray:
    """Return what an algorithm takes of an array that `workable` gave."""
    return array if type(array) is np.ndarray else adopt(array)


def _adopt_host(value: Any) -> Array:
    if type(value) is np.ndarray:
        array = value
    elif _is_torch(value):
        array = _from_torch(value)
    else:
        array = np.asarray(value)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


def snapshot(value: Any) -> Array:
    """Return a NumPy array of a value as it is now, which later changes of the value leave alone."""
    array = adopt(value)
    if isinstance(array, np.ndarray):
        return array.copy()
    from gpuconv.backends.cuda import memory

    return memory.to_host(array)


def _from_torch(tensor: Any) -> Array:
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return tensor.numpy()  # type: ignore[no-any-return]


def give_back(result: Any, like: Any) -> Any:
    """Return `result` in the kind of `like`: a torch tensor sharing its memory, or itself."""
    if not isinstance(result, np.ndarray):
        from gpuconv.backends.cuda.ndarray import GpuArray

        if isinstance(result, GpuArray):
            return result.in_kind_of(like)
        return GpuArray(result, like.kin) if isinstance(like, GpuArray) else result.owner
    if type(like) is np.ndarray or not _is_torch(like):
        return result
    import torch

    if result.dtype.name == "bfloat16":
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(result)


def shown(array: Any) -> Any:
    """Return what `workable` gave as a caller's own function may know it: not as a `GpuArray`."""
    return array if isinstance(array, np.ndarray) else give_back(array, array.kin)


@functools.cache
def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_HEAD = object.__basicsize__
"""An array's memory address follows the head that every object begins with: `PyArrayObject_fields` of NumPy's ABI."""


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Return the address of an array's first element; ``ctypes.data`` and the like build an object of many parts."""
    return ctypes.c_int64.from_address(id(array) + _HEAD).value


@functools.lru_cache(maxsize=4096)
def check_size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes of an array; raise MemoryError where this machine's memory cannot hold it."""
    needed = math.prod(shape) * dtype.itemsize
    if needed > _physical_memory():
        raise MemoryError(
            f"a result of shape {shape} and dtype {dtype.name} needs {needed / 2**30:.3g} GiB; "
            f"this machine has {_physical_memory() / 2**30:.3g} GiB"
        )
    return needed


_ALIGNED_BYTES = 16 << 10
"""Arrays from this size on begin at a cache line."""


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], like: Any = None) -> Array | DeviceArray:
    """Return an uninitialised array where `like` lies, or raise MemoryError before touching any memory."""
    if type(like) is not np.ndarray and like is not None and _on_gpu(like):
        from gpuconv.backends.cuda import interop, launch

        with launch.faults():
            return interop.allocate(shape, dtype, like)
    size = check_size(shape, dtype)
    if size < _ALIGNED_BYTES:
        return np.empty(shape, dtype)
    # NumPy aligns to 16 bytes; vectors that straddle two cache lines cost a kernel up to a third of its time.
    memory = np.empty(size + 63, np.uint8)
    return np.ndarray(shape, dtype, memory, -address_of(memory) % 64)


def check_out(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: tuple[Array | DeviceArray, ...]
) -> Array | DeviceArray:
    """Return `out` as an array to write to once it is fit to be written.

    Raises
    ------
    ShapeError, DtypeError, ValueError
        For a wrong shape, a wrong dtype, a read-only array or one that overlaps an input.
    """
    array: Array | DeviceArray
    if isinstance(out, np.ndarray):
        array = np.asarray(out)
    elif _is_torch(out) and (out.is_conj() or out.is_neg()):
        raise ValueError("out is a lazily conjugated or negated tensor; it must hold its own values")
    elif _on_gpu(out):
        from gpuconv.backends.cuda import interop

        array = interop.adopt(out)
    elif _is_torch(out):
        array = _from_torch(out)
    else:
        raise DtypeError(f"out has type {type(out).__name__}; it must be a NumPy array, a tensor or a GPU's array")
    if array.shape != shape:
        raise ShapeError(f"out has shape {array.shape}; it must be {shape}")
    if array.dtype != dtype:
        raise DtypeError(f"out has dtype {array.dtype}; it must be {dtype}")
    if not (array.flags.writeable if isinstance(array, np.ndarray) else array.writeable):
        raise ValueError("out is read-only; it must be writable")
    if _repeats(array):
        raise ValueError(f"out, of strides {array.strides}, repeats memory; every element must have its own")
    for other in inputs:
        if _overlap(array, other):
            raise ValueError("out overlaps an input in memory; it must be an array of its own")
    return array


def check_workable_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: tuple[Array, ...]) -> Array:
    """Return what `check_out` does as `workable` gives it, for inputs that `workable` gave."""
    check_same_memory("out", out, inputs[0])
    array = check_out(out, shape, dtype, tuple(map(bare, inputs)))
    if not isinstance(array, np.ndarray):
        from gpuconv.backends.cuda.ndarray import GpuArray

        array = cast("Array", GpuArray(array, out))
    return array


def check_same_memory(name: str, value: Any, x: Array) -> None:
    """Raise UnsupportedError where one of two arrays lies in a GPU's memory and the other in the host's."""
    if type(value) is type(x) is np.ndarray:
        return
    if _on_gpu(value) != _on_gpu(x):
        places = ("a GPU's memory", "the host's") if _on_gpu(value) else ("the host's memory", "a GPU's")
        raise UnsupportedError(
            f"{name}, of type {type(value).__name__}, lies in {places[0]} and the input in {places[1]}: "
            "both must lie in the same"
        )


def _repeats(array: Array | DeviceArray) -> bool:
    """Return whether two elements of an array may share memory: whether an axis is as long as the next one's step."""
    span = array.itemsize
    for stride, n in sorted((abs(stride), n) for stride, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < span:
            return True
        span = stride * (n - 1) + span
    return False


def _overlap(a: Array | DeviceArray, b: Array | DeviceArray) -> bool:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            return False
        (first, end), (other_first, other_end) = a.bounds(), b.bounds()
        return a.size > 0 and b.size > 0 and first < other_end and other_first < end
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def check_bias(bias: Any, channels: int, dtype: np.dtype[Any]) -> Array | DeviceArray | None:
    """Return the bias as an array, or None; it has one entry a channel and the result's dtype."""
    if bias is None:
        return None
    array = adopt(bias)
    if array.shape != (channels,):
        raise ShapeError(f"bias has shape {array.shape}; it must be ({channels},), one entry per output channel")
    if array.dtype != dtype:
        raise DtypeError(f"bias has dtype {array.dtype.name}; it must have the result's: {dtype.name}")
    return array
