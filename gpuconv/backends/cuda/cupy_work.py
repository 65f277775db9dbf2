"""One call's work through CuPy's libraries: its arrays as CuPy's, and the stream that it runs on.

Algorithms that are made of whole-array operations are written against `Work.xp`. The tests run the same code with
NumPy in CuPy's place, through `module`.
"""

from __future__ import annotations

import contextlib
import importlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends import cuda
from gpuconv.backends.cuda import raw_loader
from gpuconv.backends.cuda.interop import DeviceArray
from gpuconv.errors import BackendUnavailableError

if TYPE_CHECKING:
    from gpuconv.backends.cuda import Device
    from gpuconv.problem import ConvProblem

__all__ = ["Work", "bits_of", "grouped", "missing", "module"]


def missing(device: Device) -> str | None:
    """Return why a device's calls cannot go through CuPy, or None."""
    if device.simulated:
        return "Numba's simulator has no CuPy"
    # A class of GPU that a choice is explained for is taken to have CuPy.
    if device.name in tuning_cuda.CUDA_DEVICES:
        return None
    return raw_loader.unavailable()


def module() -> Any:
    """Return CuPy.

    Raises
    ------
    BackendUnavailableError
        If it is installed but cannot be imported.
    """
    try:
        return importlib.import_module("cupy")
    except Exception as error:
        raise BackendUnavailableError(
            f"CuPy is installed but cannot be imported ({type(error).__name__}: {str(error).strip()}): {cuda.INSTALL}; "
            "algorithm='direct' needs no CuPy, and backend='cpu' still works"
        ) from error


def bits_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that an array has here: bfloat16, which not every CuPy knows, goes by its bits."""
    return np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype


class Work:
    """The work of one call, as a context: its end brings results to where they belong.

    It runs on the stream of the caller's arrays, and temporary memory comes from CuPy's pool, in that stream's order.
    """

    def __init__(self, *arrays: Any) -> None:
        there = [array for array in arrays if isinstance(array, DeviceArray)]
        self._streams = list(dict.fromkeys(array.stream for array in there if array.stream is not None))
        self._device = next((array.device for array in there if array.device is not None), None)
        self._contexts = contextlib.ExitStack()
        self._results: list[tuple[Any, Any]] = []
        self.xp: Any = None

    def __enter__(self) -> Self:
        from gpuconv.backends.cuda import launch

        with contextlib.ExitStack() as contexts:
            contexts.enter_context(launch.faults())
            xp = self.xp = module()
            if self._device is not None:
                contexts.enter_context(xp.cuda.Device(self._device))
            stream = xp.cuda.ExternalStream(self._streams[0] if self._streams else 0)
            contexts.enter_context(stream)
            for other in self._streams[1:]:
                stream.wait_event(xp.cuda.ExternalStream(other).record())
            self._contexts = contexts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._contexts:
            if error is not None:
                raise error
            for made, array in self._results:
                array[...] = self.xp.asnumpy(made).view(array.dtype)

    def read(self, array: Any) -> Any:
        """Return an array to read from: one in the host's memory is copied."""
        if isinstance(array, DeviceArray):
            return self._view(array)
        return self.xp.asarray(array.view(bits_of(array.dtype)))

    def write(self, array: Any) -> Any:
        """Return where to write an array; its content reaches the array itself at the end, at the latest."""
        if isinstance(array, DeviceArray):
            return self._view(array)
        made = self.xp.empty(array.shape, bits_of(array.dtype))
        self._results.append((made, array))
        return made

    def other(self, array: Any) -> Any:
        """Return an array of `xp` as the other algorithms take it."""
        from gpuconv.backends.cuda import interop

        return interop.adopt(array) if hasattr(array, "__cuda_array_interface__") else array

    def _view(self, array: DeviceArray) -> Any:
        low, end = array.bounds()
        memory = self.xp.cuda.UnownedMemory(low, end - low, array.owner, self.xp.cuda.runtime.getDevice())
        pointer = self.xp.cuda.MemoryPointer(memory, array.pointer - low)
        return self.xp.ndarray(array.shape, bits_of(array.dtype), pointer, array.strides)


def grouped(xp: Any, problem: ConvProblem, array: Any) -> Any:
    """Return a view of x or y as (batch, groups, channels of a group, spatial...), whatever the layout."""
    if not problem.batched:
        array = array[None]
    if problem.layout == "channels_last":
        array = xp.moveaxis(array, -1, 1)
    channels, step = array.shape[1] // problem.groups, array.strides[1]
    shape = (array.shape[0], problem.groups, channels, *array.shape[2:])
    strides = (array.strides[0], channels * step, step, *array.strides[2:])
    return xp.lib.stride_tricks.as_strided(array, shape, strides)
