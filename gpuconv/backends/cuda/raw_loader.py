"""Raw CUDA kernels through CuPy: compiled by NVRTC when first used, kept on disk, loaded and launched.

The sources are the files of the folder raw. A compiled kernel (a cubin) is kept in the user's cache under a name that
says all that it depends on: the sources, the constants, the architecture, the compiler's version and its options.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpuconv.backends.cuda.interop import DeviceArray

__all__ = [
    "OPTIONS",
    "CupyRuntime",
    "Instance",
    "compile_cubin",
    "folder",
    "runtime",
    "sources",
    "unavailable",
    "working",
]

OPTIONS = ("-std=c++17", "--ptxas-options=-v")
_INSTALL = 'pip install "gpuconv[cuda12]" or, for a driver of CUDA 13, "gpuconv[cuda13]"'
_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: above 48 KiB a kernel must ask for it."""


class Instance(Protocol):
    """A kernel's name, its source file and the constants that make one kernel of it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def constants(self) -> dict[str, str]: ...  # noqa: D102


class Nvrtc(Protocol):
    """What is called of NVRTC, under the names of CuPy's binding."""

    def getVersion(self) -> tuple[int, int]: ...  # noqa: N802
    def createProgram(self, source: str, name: str, headers: Any, names: Any) -> Any: ...  # noqa: N802
    def compileProgram(self, program: Any, options: Any) -> None: ...  # noqa: N802
    def getProgramLog(self, program: Any) -> str: ...  # noqa: N802
    def getCUBIN(self, program: Any) -> bytes: ...  # noqa: N802
    def destroyProgram(self, program: Any) -> None: ...  # noqa: N802


class Compiled(NamedTuple):
    """A cubin, and what the compiler said."""

    cubin: bytes
    log: str


@functools.cache
def unavailable() -> str | None:
    """Return None where CuPy is installed, else what is missing and how to get it. Imports nothing."""
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed: {_INSTALL}"
    return None


@functools.cache
def sources() -> dict[str, str]:
    """Return the text of every source file, by name."""
    files = sorted(Path(__file__).with_name("raw").glob("*.cu*"))
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def folder() -> Path | None:
    """Return where cubins are kept; ``GPUCONV_CUBINS`` names another folder or, if empty, none."""
    named = os.environ.get("GPUCONV_CUBINS")
    if named is not None:
        return Path(named).expanduser() if named else None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gpuconv" / "cubins"


def compile_cubin(nvrtc: Nvrtc, instance: Instance, architecture: str) -> Compiled:
    """Compile one kernel for an architecture such as "sm_90".

    Raises
    ------
    RuntimeError
        If the compiler refuses it; the message is the compiler's.
    """
    texts = sources()
    headers = {name: text for name, text in texts.items() if name.endswith(".cuh")}
    program = nvrtc.createProgram(
        texts[instance.source], instance.source, [text.encode() for text in headers.values()],
        [name.encode() for name in headers],
    )  # fmt: skip
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"-arch={architecture}", *_definitions(instance)))
        # CuPy's binding leaves out the last byte, as of a string; an ELF file's own is a 0 too.
        return Compiled(nvrtc.getCUBIN(program) + b"\0", nvrtc.getProgramLog(program))
    except Exception as error:
        log = nvrtc.getProgramLog(program)
        raise RuntimeError(f"{instance.source} does not compile for {architecture}: {error}\n{log}") from error
    finally:
        nvrtc.destroyProgram(program)


def _definitions(instance: Instance) -> tuple[str, ...]:
    return tuple(f"-D{name}={value}" for name, value in instance.constants.items())


def cached_cubin(nvrtc: Nvrtc, instance: Instance, architecture: str) -> bytes:
    """Return a kernel's cubin from the cache, or compile it and keep it there if that can be."""
    compiler = (architecture, OPTIONS, nvrtc.getVersion())
    known = (sorted(sources().items()), compiler, instance.source, _definitions(instance))
    key = hashlib.sha256(repr(known).encode()).hexdigest()
    kept = folder()
    path = None if kept is None else kept / f"{Path(instance.source).stem}-{architecture}-{key[:32]}.cubin"
    if path is not None:
        try:
            return _checked(path.read_bytes())
        except (OSError, ValueError):
            pass
    cubin = compile_cubin(nvrtc, instance, architecture).cubin
    if path is not None:
        _write(path, hashlib.sha256(cubin).digest() + cubin)
    return cubin


def _checked(content: bytes) -> bytes:
    """Return the cubin of a cached file, which begins with its hash: a file cut short must not reach the driver."""
    digest, cubin = content[:32], content[32:]
    if hashlib.sha256(cubin).digest() != digest:
        raise ValueError("the file is damaged")
    return cubin


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a cache that cannot be written only costs time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def binding() -> Nvrtc:
    """Return CuPy's binding of NVRTC."""
    from cupy_backends.cuda.libs import nvrtc

    found: Nvrtc = nvrtc
    return found


class CupyRuntime:
    """Arrays and launches on one GPU, through CuPy; what tests replace to run the same kernels on the host."""

    def __init__(self, index: int) -> None:
        import cupy

        self.xp: Any = cupy
        self._index = index
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.multiprocessors: int = properties["multiProcessorCount"]
        self._architecture = f"sm_{properties['major']}{properties['minor']}"
        self._functions: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def _is_there(self, array: Any) -> bool:
        return isinstance(array, self.xp.ndarray)

    def view(self, array: Any) -> Any:
        """Return an array with the methods of NumPy's: itself, or CuPy's of the same memory, as unsigned integers."""
        if not isinstance(array, DeviceArray):
            return array
        kind = np.dtype(f"u{array.itemsize}")
        if not array.size:
            return self.xp.empty(array.shape, kind)
        low, end = array.bounds()
        memory = self.xp.cuda.UnownedMemory(low, end - low, array.owner, self._index)
        pointer = self.xp.cuda.MemoryPointer(memory, array.pointer - low)
        return self.xp.ndarray(array.shape, kind, pointer, array.strides)

    def adopt(self, array: Any) -> Any:
        """Return an array on the GPU in C order, itself where it is there already."""
        view = self.view(array)
        if not self._is_there(view):
            view = self.xp.asarray(as_bits(np.ascontiguousarray(view)))
        return as_bits(self.xp.ascontiguousarray(view))

    def target(self, array: Any) -> Any:
        """Return an array on the GPU in C order to write the result into: a `view` itself if it is one."""
        if self._is_there(array) and array.flags.c_contiguous:
            return as_bits(array)
        return self.empty(array.size, np.dtype(f"u{array.dtype.itemsize}"))

    def deliver(self, result: Any, array: Any) -> None:
        """Bring what was written into the `target` of an array into the array."""
        if not self._is_there(array):
            array[...] = self.xp.asnumpy(result).view(array.dtype).reshape(array.shape)
            return
        if not array.flags.c_contiguous or self.pointer(array) != self.pointer(result):
            as_bits(array)[...] = result.reshape(array.shape)

    def empty(self, size: int, dtype: Any) -> Any:
        """Return an uninitialised flat array on the GPU."""
        return self.xp.empty(size, dtype)

    def pointer(self, array: Any) -> int:
        """Return where an array begins."""
        address: int = array.data.ptr
        return address

    def synchronize(self) -> None:
        """Wait for what was launched on CuPy's current stream."""
        self.xp.cuda.get_current_stream().synchronize()

    def launch(
        self, instance: Instance, name: str, grid: tuple[int, int, int], threads: int, shared: int, struct: Any
    ) -> None:
        """Start a kernel, whose one argument is the content of `struct`, on CuPy's current stream."""
        function = self._function(instance, name, shared)
        argument = ctypes.c_void_p(struct.ctypes.data)
        stream = self.xp.cuda.get_current_stream().ptr
        # The driver copies the argument before it returns.
        self.xp.cuda.driver.launchKernel(
            function.ptr, *grid, threads, 1, 1, shared, stream, ctypes.addressof(argument), 0
        )

    def compile(self, instance: Instance) -> bytes:
        """Return a kernel's cubin for this GPU, which is then in the cache."""
        return cached_cubin(binding(), instance, self._architecture)

    def _function(self, instance: Instance, name: str, shared: int) -> Any:
        key = (instance.source, name, *instance.constants.values())
        with self._lock:
            found = self._functions.get(key)
            if found is None:
                module = self.xp.cuda.function.Module()
                module.load(self.compile(instance))
                found = module.get_function(name)
                if shared > 48 << 10:
                    self.xp.cuda.driver.funcSetAttribute(found.ptr, _DYNAMIC_SHARED, shared)
                self._functions[key] = found
        return found


_RUNTIMES: dict[int, CupyRuntime] = {}
_LOCK = threading.Lock()


def runtime() -> CupyRuntime:
    """Return the runtime of CuPy's current GPU."""
    import cupy

    index = cupy.cuda.runtime.getDevice()
    with _LOCK:
        if index not in _RUNTIMES:
            _RUNTIMES[index] = CupyRuntime(index)
        return _RUNTIMES[index]


@contextlib.contextmanager
def working(*arrays: Any) -> Iterator[CupyRuntime]:
    """Give the runtime of the GPU that a call's arrays lie on, in whose context CuPy is on those arrays' stream."""
    import cupy

    from gpuconv.backends.cuda import memory

    with memory.Job(*arrays) as job, cupy.cuda.Device(job.device), cupy.cuda.ExternalStream(int(job.stream)):
        yield runtime()


def as_bits(array: Any) -> Any:
    """Return an array's view as unsigned integers: NumPy knows bfloat16 only through ml_dtypes, CuPy not at all."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))
