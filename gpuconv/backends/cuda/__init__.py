"""The CUDA backend: Numba-CUDA kernels on an NVIDIA GPU, or in Numba's simulator.

``NUMBA_ENABLE_CUDASIM=1``, set before Numba is imported, runs the same kernels on the host, one Python thread for each
CUDA thread: slow, and meant for tests. Nothing here imports Numba until a device is asked for.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from typing import NamedTuple

__all__ = ["ALGORITHMS", "Device", "device", "unavailable"]

ALGORITHMS = ("direct", "implicit_gemm", "raw_depthwise")

_INSTALL = 'pip install "gpuconv[cuda12]" or, for a driver of CUDA 13, "gpuconv[cuda13]"'
_SIMULATOR = "NUMBA_ENABLE_CUDASIM=1, set before Python starts, runs the kernels in Numba's simulator instead"


class Device(NamedTuple):
    """What kernels and cost models need to know of the GPU."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    simulated: bool


def unavailable() -> str | None:
    """Return None where a GPU or the simulator can run kernels, else what is missing and how to get it."""
    if _simulated():
        return None
    devices = _count_devices()
    if devices is None:
        return f"no NVIDIA driver was found on this machine; on one with an NVIDIA GPU: {_INSTALL}; {_SIMULATOR}"
    if devices == 0:
        return f"the NVIDIA driver reports no GPU that this process may use; {_SIMULATOR}"
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed: {_INSTALL}"
    return _import_failure()


@functools.cache
def _import_failure() -> str | None:
    """Return why numba-cuda cannot be imported, or None: it needs libraries that only its own extras install."""
    try:
        importlib.import_module("numba.cuda")
    except Exception as error:  # noqa: BLE001 - whatever the package raises, it is what is missing
        return f"numba-cuda cannot be imported ({type(error).__name__}: {str(error).strip()}): {_INSTALL}"
    return None


@functools.cache
def device() -> Device:
    """Return the GPU that Numba's current context uses, or a stand-in for the simulator."""
    if _simulated():
        return Device("Numba CUDA simulator", (0, 0), 1, True)
    from gpuconv.backends.cuda import launch

    return Device(*launch.describe_device(), simulated=False)


def _simulated() -> bool:
    """Whether Numba's simulator is on; Numba reads the variable once, when it is imported."""
    numba = sys.modules.get("numba")
    if numba is not None:
        return bool(numba.config.ENABLE_CUDASIM)
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0").strip() not in ("", "0")


@functools.cache
def _count_devices() -> int | None:
    """Return how many GPUs the driver shows, or None without a driver. Asks the driver itself: Numba takes a second."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
