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

from gpuconv import tuning_cuda
from gpuconv.errors import UnsupportedError

__all__ = ["ALGORITHMS", "INSTALL", "Device", "device", "named_device", "unavailable", "wait"]

ALGORITHMS = (
    "direct", "implicit_gemm", "winograd", "stencil", "separable", "implicit_gemm_mma", "raw_depthwise", "raw_stencil",
    "gemm", "fft",
)  # fmt: skip

INSTALL = 'pip install "gpuconv[cuda12]" or, for a driver of CUDA 13, "gpuconv[cuda13]"'
_SIMULATOR = "NUMBA_ENABLE_CUDASIM=1, set before Python starts, runs the kernels in Numba's simulator instead"


_NO_DEVICE = 100
_START_FAULTS = {
    46: "the GPU is busy or unavailable; another process may have it for itself",
    802: "the GPUs are not ready yet; on machines with NVSwitch the service nvidia-fabricmanager must run",
    803: "its library and its kernel module are of different versions; restart the machine after an update",
    804: "its library is newer than this GPU's kernel module can serve; update the driver",
}
"""What to do about the driver's codes at its start."""


class Device(NamedTuple):
    """What kernels and cost models need to know of the GPU."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    simulated: bool
    flops: float
    """Peak float32 operations a second of the ordinary cores."""
    bandwidth: float
    """Peak bytes a second of its memory."""
    cupy: bool
    """Whether CuPy is there, whose cuBLAS and cuFFT some algorithms are."""


def unavailable() -> str | None:
    """Return None where a GPU or the simulator can run kernels, else what is missing and how to get it."""
    if _simulated():
        return None
    devices = _count_devices()
    if devices is None:
        return f"no NVIDIA driver was found on this machine; on one with an NVIDIA GPU: {INSTALL}; {_SIMULATOR}"
    if devices < 0:
        words = _START_FAULTS.get(-devices, "nvidia-smi may tell more")
        return f"the NVIDIA driver does not start (error {-devices}): {words}; backend='cpu' needs none"
    if devices == 0:
        return f"the NVIDIA driver reports no GPU that this process may use; {_SIMULATOR}"
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed: {INSTALL}"
    return _import_failure()


def wait() -> None:
    """Return when all that was put on the current GPU is done."""
    if not _simulated():
        from numba import cuda

        cuda.synchronize()


@functools.cache
def _import_failure() -> str | None:
    """Return why numba-cuda cannot be imported, or None: it needs libraries that only its own extras install."""
    try:
        importlib.import_module("numba.cuda")
    except Exception as error:  # noqa: BLE001 - whatever the package raises, it is what is missing
        return f"numba-cuda cannot be imported ({type(error).__name__}: {str(error).strip()}): {INSTALL}"
    return None


@functools.cache
def device() -> Device:
    """Return the GPU that Numba's current context uses, or a stand-in for the simulator."""
    if _simulated():
        return Device("Numba CUDA simulator", (0, 0), 1, True, 1e6, 1e6, False)
    from gpuconv.backends.cuda import launch

    name, capability, multiprocessors, clock, bandwidth = launch.describe_device()
    # Some drivers do not tell the clocks; an estimate needs some number.
    clock = clock or tuning_cuda.CUDA_DEVICES["a100"].clock
    bandwidth = bandwidth or tuning_cuda.CUDA_DEVICES["a100"].bandwidth
    flops = multiprocessors * tuning_cuda.cuda_lanes(capability) * 2 * clock
    return Device(name, capability, multiprocessors, False, flops, bandwidth, _has_cupy())


def named_device(name: str) -> Device:
    """Return a class of GPU as its data sheet describes it, to explain choices for it where there is none.

    Raises
    ------
    UnsupportedError
        If the class is unknown; the message lists those that are known.
    """
    known = tuning_cuda.CUDA_DEVICES.get(str(name).lower())
    if known is None:
        valid = ", ".join(map(repr, tuning_cuda.CUDA_DEVICES))
        raise UnsupportedError(f"device={name!r} is unknown; valid are {valid}")
    flops = known.multiprocessors * tuning_cuda.cuda_lanes(known.compute_capability) * 2 * known.clock
    return Device(name.lower(), known.compute_capability, known.multiprocessors, False, flops, known.bandwidth, True)


@functools.cache
def _has_cupy() -> bool:
    return importlib.util.find_spec("cupy") is not None


def _simulated() -> bool:
    """Whether Numba's simulator is on; Numba reads the variable once, when it is imported."""
    numba = sys.modules.get("numba")
    if numba is not None:
        return bool(numba.config.ENABLE_CUDASIM)
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0").strip() not in ("", "0")


@functools.cache
def _count_devices() -> int | None:
    """Return how many GPUs the driver shows, None without a driver, or the negative of the code that it fails with.

    Asks the driver itself: Numba takes a second.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed:
        return 0 if failed == _NO_DEVICE else -int(failed)
    return count.value
