"""One call's work on the GPU: where its arrays are, the stream that it runs on, and the way there and back."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from gpuconv.backends.cuda import launch, memory_kernels, scalars
from gpuconv.backends.cuda.interop import DeviceArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any] | DeviceArray

__all__ = ["Job", "Pipeline", "View", "to_host"]


class View(NamedTuple):
    """An array as kernels see it: a flat device array of real numbers, and a stride for each axis of the array."""

    data: Any
    strides: tuple[int, ...]
    """In real numbers."""


class Job:
    """The GPU work of one call, as a context: its end copies results to where they belong.

    Work is put on the stream of the caller's arrays. Where the result lies on the GPU the call returns before the
    work is done, as the caller's own library does; where it lies in the host's memory the end waits for it.
    """

    def __init__(self, *arrays: Array | None) -> None:
        there = [array for array in arrays if isinstance(array, DeviceArray)]
        self._streams = list(dict.fromkeys(array.stream for array in there if array.stream is not None))
        self.device = next((array.device for array in there if array.device is not None), None)
        self.stream: Any = 0
        self._slot = None if there else _SLOT.get()
        self._contexts = contextlib.ExitStack()
        self._finish: list[Any] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(launch.faults())
            contexts.enter_context(launch.on_device(self.device))
            if self._slot is None:
                self.stream = launch.stream(self._streams[0] if self._streams else 0)
            else:
                self.stream = self._slot.stream
            for other in self._streams[1:]:
                launch.wait_for(other, self.stream)
            self._contexts = contexts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._contexts:
            if error is not None:
                raise error
            for finish in self._finish:
                finish()

    def launch(self, kernel: Any, grid: tuple[int, ...], block: int, *arguments: Any) -> None:
        """Start a kernel on the job's stream."""
        launch.launch(kernel, grid, block, *arguments, on=self.stream)

    def empty(self, size: int, dtype: np.dtype[Any]) -> Any:
        """Return uninitialised flat memory."""
        return launch.empty(size, dtype, self.stream)

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a flat copy of a NumPy array."""
        return launch.to_device(array, self.stream)

    def read(self, array: Array, dtype: str, *, flat: bool = False) -> View:
        """Return an array to read from; with `flat`, one in C order.

        An array of the host is copied. One on the GPU is not, but where a stride is negative or `flat` asks for it.
        """
        kinds = scalars.of(dtype)
        if isinstance(array, np.ndarray):
            plain = _contiguous(array.shape, kinds.parts)
            if self._slot is not None and array.size:
                return View(self._slot.upload(array, kinds.storage), plain)
            return View(self.upload(np.ascontiguousarray(array).reshape(-1).view(kinds.storage)), plain)
        there = self._there(array, kinds.storage)
        plain = _contiguous(array.shape, kinds.parts)
        if not array.size or (min(there.strides, default=0) >= 0 and not flat) or _same(array.shape, there, plain):
            return there
        copy = View(self.empty(array.size * kinds.parts, kinds.storage), plain)
        self._copy(array.shape, there, copy, kinds.storage, kinds.parts)
        return copy

    def write(self, array: Array, dtype: str, *, flat: bool = False, exact: bool = False) -> View:
        """Return where to write an array of the results of `dtype`; with `flat`, in C order.

        With `exact`, `dtype` is that of the results themselves.
        It reaches the array itself at the end of the job, at the latest.
        """
        kinds = scalars.of(dtype)
        kinds = kinds._replace(result_storage=kinds.storage) if exact else kinds
        plain = _contiguous(array.shape, kinds.parts)
        if isinstance(array, np.ndarray):
            made = View(self.empty(array.size * kinds.parts, kinds.result_storage), plain)
            bring = launch.to_host if self._slot is None else self._slot.download
            self._finish.append(lambda: bring(made.data, array, self.stream))
            return made
        there = self._there(array, kinds.result_storage)
        if (min(there.strides, default=0) >= 0 and not flat) or _same(array.shape, there, plain):
            return there
        made = View(self.empty(array.size * kinds.parts, kinds.result_storage), plain)
        self._finish.append(lambda: self._copy(array.shape, made, there, kinds.result_storage, kinds.parts))
        return made

    def _there(self, array: DeviceArray, storage: np.dtype[Any]) -> View:
        """Return an array on the GPU as it lies; strides of axes of one element are 0."""
        low, end = array.bounds()
        pairs = zip(array.strides, array.shape, strict=True)
        strides = tuple(stride // storage.itemsize if n > 1 else 0 for stride, n in pairs)
        if not array.size:
            return View(self.empty(1, storage), strides)
        return View(launch.view(low, (end - low) // storage.itemsize, storage, array.owner), strides)

    def _copy(self, shape: tuple[int, ...], source: View, target: View, storage: np.dtype[Any], parts: int) -> None:
        """Copy an array whose axes have these strides."""
        total = math.prod(shape) * parts
        meta = self.resident(_copying, shape, source.strides, target.strides, parts)
        kernel = memory_kernels.copy(storage.name)
        self.launch(kernel, (launch.blocks_of(total),), launch.THREADS, source.data, target.data, meta)

    def gather(self, array: Array, dtype: str, order: Callable[..., NDArray[Any]], *arguments: Any) -> Any:
        """Return an array's real numbers in the order that ``order(*arguments)`` gives, as kernels sum them.

        An entry i of it means number i, and ~i the negative of number i.
        """
        kinds = scalars.of(dtype)
        source = self.read(array, dtype, flat=True)
        index = self.resident(order, *arguments)
        target = self.empty(index.size, kinds.sums)
        kernel = memory_kernels.gather(kinds.kind)
        self.launch(kernel, (launch.blocks_of(index.size),), launch.THREADS, source.data, index, target)
        return target

    def resident(self, make: Callable[..., NDArray[Any]], *arguments: Any) -> Any:
        """Return on the GPU what a pure function makes of hashable arguments; it stays there for later calls."""
        return _resident(make, self.device, *arguments)

    def synchronize(self) -> None:
        """Wait for the job's work so far."""
        launch.synchronize(self.stream)


class _Slot:
    """One of the two parts of a call that are under way: its stream, and page-locked memory for its copies."""

    def __init__(self) -> None:
        self.stream = launch.new_stream()
        self._memory: list[NDArray[np.uint8]] = []
        self._used = 0
        self._ends: list[Callable[[], None]] = []

    def _pinned(self, size: int) -> NDArray[np.uint8]:
        """Return page-locked memory that nothing else uses until `finish`."""
        if self._used == len(self._memory):
            self._memory.append(launch.pinned(size))
        elif self._memory[self._used].size < size:
            self._memory[self._used] = launch.pinned(size)
        self._used += 1
        return self._memory[self._used - 1][:size]

    def upload(self, array: NDArray[Any], storage: np.dtype[Any]) -> Any:
        """Return a flat copy on the GPU that arrives in the stream's order."""
        pinned = self._pinned(array.nbytes)
        np.copyto(pinned.view(array.dtype).reshape(array.shape), array)
        return launch.to_device(pinned.view(storage), self.stream)

    def download(self, source: Any, target: NDArray[Any], on: Any) -> None:
        """Copy a flat device array into `target`, which has it after `finish`."""
        pinned = self._pinned(target.nbytes)
        launch.start_to_host(source, pinned.view(source.dtype), on)
        self.then(lambda: np.copyto(target, pinned.view(target.dtype).reshape(target.shape)))

    def then(self, function: Callable[[], Any]) -> None:
        """Have a function called when the stream's work is done."""
        self._ends.append(function)

    def finish(self) -> None:
        """Wait for the stream, and bring results to where they belong."""
        launch.synchronize(self.stream)
        for end in self._ends:
            end()
        self._ends.clear()
        self._used = 0


_SLOT: contextvars.ContextVar[_Slot | None] = contextvars.ContextVar("slot", default=None)


class Pipeline:
    """A call in parts, as a context: jobs of one part are under way while the next part's are prepared."""

    def __init__(self) -> None:
        self._slots: tuple[_Slot, ...] = ()
        self._turn = 0

    def __enter__(self) -> Self:
        with launch.faults():
            self._slots = _Slot(), _Slot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for slot in self._slots:
                # The memory of copies that are under way must not go; what failed is known already.
                with contextlib.suppress(Exception):
                    launch.synchronize(slot.stream)
            return
        with launch.faults():
            for i in range(2):
                self._slots[(self._turn + i) % 2].finish()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Return a context for the jobs of a part; it waits until the part before the last is done."""
        slot = self._slots[self._turn % 2]
        self._turn += 1
        with launch.faults():
            slot.finish()
        token = _SLOT.set(slot)
        try:
            yield
        finally:
            _SLOT.reset(token)

    def then(self, function: Callable[[], Any]) -> None:
        """Have a function called when the part whose turn it is is done; parts end in the order of their turns."""
        self._slots[(self._turn - 1) % 2].then(function)


@functools.lru_cache(maxsize=256)
def _resident(make: Callable[..., NDArray[Any]], device: int | None, *arguments: Any) -> Any:
    there = launch.to_device(make(*arguments))
    launch.synchronize(0)
    return there


def _contiguous(shape: tuple[int, ...], parts: int) -> tuple[int, ...]:
    strides = [parts]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    return tuple(strides[: len(shape)])


def _same(shape: tuple[int, ...], there: View, plain: tuple[int, ...]) -> bool:
    """Return whether an array lies in C order: strides of axes of one element do not count."""
    return all(a == b for a, b, n in zip(there.strides, plain, shape, strict=True) if n > 1)


def _copying(shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...], parts: int) -> NDArray[np.int64]:
    """Return the numbers that the copying kernel reads: where element 0 is, and sizes and strides, last axis first."""
    starts = [
        sum(-stride * (n - 1) for stride, n in zip(strides, shape, strict=True) if stride < 0)
        for strides in (source, target)
    ]
    axes = [(parts, 1, 1)] * (parts > 1) + list(zip(shape, source, target, strict=True))[::-1]
    return np.array([math.prod(shape) * parts, len(axes), *starts, *(n for axis in axes for n in axis)], np.int64)


def to_host(array: DeviceArray) -> NDArray[Any]:
    """Return a NumPy copy of an array in a GPU's memory."""
    result = np.empty(array.shape, array.dtype)
    if array.size:
        dtype = array.dtype.name
        with Job(array) as job:
            flat = job.read(array, dtype, flat=True)
            launch.to_host(flat.data, result, job.stream)
    return result
