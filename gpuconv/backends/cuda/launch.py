"""What every CUDA kernel needs around it: compiling, launching, memory on the GPU, and faults in words.

The one place for what differs between a GPU, the simulator and the versions of Numba.
"""

# mypy: disable-error-code="attr-defined, no-untyped-call"
# numba puts many of its names together when it is imported, where mypy does not see them, and annotates few.

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

from gpuconv.errors import BackendUnavailableError

if importlib.util.find_spec("numba_cuda") is not None and not hasattr(np, "row_stack"):
    # NumPy 2.5 removed a name that numba-cuda looks up when it first compiles (NVIDIA/numba-cuda#907).
    np.row_stack = np.vstack  # noqa: NPY201

from numba import cuda

__all__ = [
    "GRID_Y",
    "SIMULATED",
    "blocks_of",
    "compile_device_function",
    "compile_kernel",
    "describe_device",
    "empty",
    "faults",
    "free_memory",
    "launch",
    "new_stream",
    "on_device",
    "pinned",
    "specialise",
    "start_to_host",
    "stream",
    "synchronize",
    "to_device",
    "to_host",
    "view",
    "wait_for",
]

SIMULATED = bool(numba.config.ENABLE_CUDASIM)

GRID_Y = 65535
"""The largest grid along its second and third axis; the first may have 2^31 - 1 blocks."""

THREADS = 2 if SIMULATED else 256
"""Threads of a block of the kernels that only move elements."""

_LOCK = threading.Lock()

specialise = functools.lru_cache(maxsize=256)
"""Decorator of a function that makes kernels: one kernel a set of constants, the least used forgotten."""


# Compiling


def compile_kernel(function: Callable[..., None], **options: Any) -> Any:
    """Return `function` as a kernel that compiles at its first launch.

    `options` are those of `numba.cuda.jit`. The simulator refuses most, and none changes a result: there they are
    left out.
    """
    return cuda.jit(**({} if SIMULATED else options))(function)


def compile_device_function(function: Callable[..., Any]) -> Any:
    """Return `function` for calls from kernels."""
    return cuda.jit(device=True)(function)


def describe_device() -> tuple[str, tuple[int, int], int, float, float]:
    """Return the current GPU's name, compute capability, multiprocessors, cycles and bytes of memory a second."""
    current = cuda.get_current_device()
    name = current.name
    return (
        name.decode() if isinstance(name, bytes) else str(name),
        tuple(current.compute_capability),
        int(current.MULTIPROCESSOR_COUNT),
        current.CLOCK_RATE * 1e3,
        current.MEMORY_CLOCK_RATE * 1e3 * 2 * current.GLOBAL_MEMORY_BUS_WIDTH / 8,
    )


# Streams and devices


def stream(handle: int) -> Any:
    """Return Numba's object for a stream: 0 and 1 are the legacy default stream, 2 is the thread's own."""
    if SIMULATED or handle == 0:
        return 0
    if handle == 1:
        return cuda.legacy_default_stream()
    return cuda.per_thread_default_stream() if handle == 2 else cuda.external_stream(handle)


def new_stream() -> Any:
    """Return a stream of its own."""
    return 0 if SIMULATED else cuda.stream()


def wait_for(other: int, then: Any) -> None:
    """Let what is put on the stream `then` from now on wait for what the stream of handle `other` has."""
    if not SIMULATED:
        event = cuda.event(timing=False)
        event.record(stream(other))
        event.wait(then)


def synchronize(on: Any) -> None:
    """Wait for a stream."""
    if not SIMULATED:
        (cuda.default_stream() if on == 0 else on).synchronize()


def on_device(number: int | None) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which a GPU is the current one; None leaves things as they are."""
    return contextlib.nullcontext() if SIMULATED or number is None else cuda.gpus[number]


# Memory


class _Memory:
    """A range of a GPU's memory, as Numba adopts it."""

    def __init__(self, pointer: int, size: int, dtype: np.dtype[Any], owner: Any) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {
            "shape": (size,), "strides": None, "typestr": dtype.str, "data": (pointer, False), "version": 3,
        }  # fmt: skip


def view(pointer: int, size: int, dtype: np.dtype[Any], owner: Any) -> Any:
    """Return a flat device array of memory that `owner` keeps alive."""
    if SIMULATED:
        raw = (ctypes.c_byte * (size * dtype.itemsize)).from_address(pointer)
        fakes = importlib.import_module("numba.cuda.simulator.cudadrv.devicearray")
        return fakes.FakeCUDAArray(np.ctypeslib.as_array(raw).view(dtype))
    return cuda.as_cuda_array(_Memory(pointer, size, dtype, owner), sync=False)


def to_device(array: np.ndarray[Any, Any], on: Any = 0) -> Any:
    """Return a flat copy of `array` on the GPU, in C order; an empty array gets one element of zero."""
    flat = np.ascontiguousarray(array).reshape(-1)
    flat = flat if flat.size else np.zeros(1, flat.dtype)
    target = empty(flat.size, flat.dtype, on)
    target.copy_to_device(flat, stream=on)
    return target


def empty(size: int, dtype: np.dtype[Any], on: Any = 0) -> Any:
    """Return an uninitialised flat array on the GPU, from CuPy's pool where CuPy is installed."""
    pool = _cupy()
    if pool is None:
        return cuda.device_array(size, dtype)
    with pool.cuda.ExternalStream(int(on)):
        memory = pool.cuda.alloc(max(size, 1) * dtype.itemsize)
    return view(memory.ptr, size, dtype, memory)


def to_host(source: Any, target: np.ndarray[Any, Any], on: Any = 0) -> None:
    """Copy a flat device array into `target`, which may have any strides, and wait for it."""
    if target.flags.c_contiguous:
        source.copy_to_host(target.reshape(-1).view(source.dtype), stream=on)
        synchronize(on)
    else:
        copy = source.copy_to_host(stream=on)
        synchronize(on)
        target[...] = copy.view(target.dtype).reshape(target.shape)


def start_to_host(source: Any, target: np.ndarray[Any, Any], on: Any) -> None:
    """Begin to copy a flat device array into page-locked memory, in a stream's order."""
    source.copy_to_host(target, stream=on)


def pinned(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return page-locked memory of the host, from and to which copies run beside other work."""
    made = np.empty(size, np.uint8) if SIMULATED else cuda.pinned_array(size, np.uint8)
    return np.asarray(made)


def free_memory() -> float:
    """Return the bytes that the current GPU has free; the simulator's memory has no end."""
    return math.inf if SIMULATED else float(cuda.current_context().get_memory_info()[0])


@functools.cache
def _cupy() -> Any:
    """Return CuPy, or None where it is not installed or cannot be imported."""
    if SIMULATED or importlib.util.find_spec("cupy") is None:
        return None
    try:
        return importlib.import_module("cupy")
    except Exception:  # noqa: BLE001 - whatever it lacks, its pool is not needed
        return None


# Launching


def blocks_of(elements: int, threads: int = THREADS) -> int:
    """Return how many blocks go over so many elements; their threads take several where there are very many."""
    return max(min(-(-elements // threads), 1 << 16), 1)


def launch(kernel: Any, grid: tuple[int, ...], block: int, *arguments: Any, on: Any = 0) -> None:
    """Start `kernel` on a stream; safe from several threads at once."""
    with _LOCK if SIMULATED else contextlib.nullcontext():
        with _no_occupancy_warning():
            configured = kernel[grid, block, on]
        configured(*arguments)


@contextlib.contextmanager
def _no_occupancy_warning() -> Iterator[None]:
    """Keep Numba from warning of a small grid: a small problem is no mistake of the user's."""
    if SIMULATED:
        yield
        return
    with _LOCK:
        kept = numba.config.CUDA_LOW_OCCUPANCY_WARNINGS
        numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
        try:
            yield
        finally:
            numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = kept


# Faults

_OUT_OF_MEMORY = 2
_OLD_DRIVER = (35, 222, 803, 804)
"""The codes of a driver that is older than what asks it: insufficient, PTX of a later version, and mismatched parts."""
_LOST = {
    46: "it is busy or unavailable",
    214: "its memory reported an uncorrectable error",
    219: "its link failed",
    700: "a kernel read or wrote an address that is not its own",
    702: "a kernel ran for longer than the system allows",
    709: "its context was destroyed",
    715: "a kernel met an illegal instruction",
    716: "a kernel met a misaligned address",
    719: "a kernel failed",
    999: "the driver reports an unknown error",
}
"""The driver's codes after which a process cannot use the GPU any more, in words."""


def _code_of(error: Exception) -> int | None:
    """Return the code of an error of the driver or the runtime, which are one for what is told apart here.

    CuPy's errors of other libraries have a status too, with codes of their own.
    """
    if type(error).__name__ in {"CUDARuntimeError", "CUDADriverError"}:
        return getattr(error, "status", None)
    return getattr(error, "code", None)


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Turn what the driver, Numba and CuPy raise into errors that say what to do.

    Raises
    ------
    MemoryError
        If the GPU's memory is exhausted.
    BackendUnavailableError
        If the GPU is lost to this process, or its driver is older than what compiles for it.
    """
    try:
        yield
    except (MemoryError, BackendUnavailableError):
        raise  # in words already
    except Exception as error:
        code, text = _code_of(error), str(error)
        exhausted = "CUDA_ERROR_OUT_OF_MEMORY" in text or "ALLOC_FAILED" in text
        if code == _OUT_OF_MEMORY or "OutOfMemory" in type(error).__name__ or exhausted:
            raise MemoryError(
                f"the GPU's memory is exhausted ({text.strip()}): give a smaller batch, free other arrays, "
                "or compute with backend='cpu'"
            ) from error
        if "UNSUPPORTED_PTX_VERSION" in text or code in _OLD_DRIVER:
            raise BackendUnavailableError(
                "the NVIDIA driver is older than the CUDA toolkit that Numba or CuPy brings "
                f"({text.strip()}): update the driver, or install gpuconv[cuda12] in place of gpuconv[cuda13]"
            ) from error
        if code in _LOST:
            raise BackendUnavailableError(
                f"the GPU is lost to this process: {_LOST[code]} ({text.strip()}); "
                "start a new process to use it again, backend='cpu' still works in this one"
            ) from error
        raise
