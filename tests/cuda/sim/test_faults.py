"""What the driver and the libraries raise becomes an error that says what to do; the CPU backend works on."""

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cuda import launch
from gpuconv.errors import BackendUnavailableError


class DriverError(Exception):
    """As Numba raises it: with the driver's code."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class OutOfMemoryError(Exception):
    """As CuPy's and torch's are called."""


class CUDARuntimeError(RuntimeError):
    """As CuPy raises it."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class CUBLASError(CUDARuntimeError):
    """As CuPy raises it, whose codes are not the driver's."""


FAULTS = {
    "memory, by Numba": (DriverError(2, "[2] CUDA_ERROR_OUT_OF_MEMORY"), MemoryError, "give a smaller batch"),
    "memory, by CuPy": (OutOfMemoryError("Out of memory allocating 8 bytes"), MemoryError, "backend='cpu'"),
    "memory, by the runtime": (CUDARuntimeError(2, "cudaErrorMemoryAllocation"), MemoryError, "free other arrays"),
    "memory, by cuBLAS": (CUBLASError(3, "CUBLAS_STATUS_ALLOC_FAILED"), MemoryError, "backend='cpu'"),
    "cuBLAS": (CUBLASError(35, "CUBLAS_STATUS_SOMETHING"), CUBLASError, "SOMETHING"),
    "driver older than CuPy's runtime": (
        CUDARuntimeError(35, "cudaErrorInsufficientDriver"),
        BackendUnavailableError,
        "cuda12. in place of",
    ),
    "lost, by CuPy": (CUDARuntimeError(719, "cudaErrorLaunchFailure"), BackendUnavailableError, "backend='cpu' still"),
    "lost": (DriverError(700, "[700] illegal address"), BackendUnavailableError, "start a new process"),
    "failed": (DriverError(719, "[719] launch failed"), BackendUnavailableError, "a kernel failed"),
    "old driver": (
        DriverError(222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        BackendUnavailableError,
        "update the driver",
    ),
    "anything else": (KeyError("x"), KeyError, "x"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["empty", "launch"])
def test_faults_in_words(fault, place, monkeypatch):
    raised, kind, words = FAULTS[fault]

    def fail(*_arguments, **_options):
        raise raised

    monkeypatch.setattr(launch, place, fail)
    x, w = np.ones((1, 5)), np.ones((1, 1, 2))
    with pytest.raises(kind, match=words):
        gpuconv.conv1d(x, w, backend="cuda")
    monkeypatch.undo()
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, backend="cpu"), [[2, 2, 2, 2]])
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, backend="cuda"), [[2, 2, 2, 2]])
