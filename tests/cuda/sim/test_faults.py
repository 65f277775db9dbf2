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


FAULTS = {
    "memory, by Numba": (DriverError(2, "[2] CUDA_ERROR_OUT_OF_MEMORY"), MemoryError, "give a smaller batch"),
    "memory, by CuPy": (OutOfMemoryError("Out of memory allocating 8 bytes"), MemoryError, "backend='cpu'"),
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
