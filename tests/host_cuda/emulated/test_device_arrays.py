"""Arrays in a GPU's memory on their way to the raw kernels: CuPy is played by NumPy, the GPU by the host."""

import contextlib
import ctypes
import sys
import types

import numpy as np
import pytest
from support import assert_close, inputs, makes, reduction_length, tolerance

from gpuconv.backends.cuda import implicit_gemm_mma, memory, raw_depthwise, raw_loader, raw_stencil
from gpuconv.backends.cuda.interop import DeviceArray
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem


class There(np.ndarray):
    """A CuPy array's stand-in: of memory that something else owns."""

    def __new__(cls, shape, dtype, pointer, strides):
        (low, size), offset = pointer
        return super().__new__(cls, shape, dtype, (ctypes.c_byte * size).from_address(low), offset, strides)


class Cupy:
    """CuPy's names, with NumPy behind them."""

    ndarray = There

    def __init__(self):
        self.entered = []
        runtime = types.SimpleNamespace(getDevice=lambda: 0)
        self.cuda = types.SimpleNamespace(
            UnownedMemory=lambda low, size, owner, index: (low, size),
            MemoryPointer=lambda memory, offset: (memory, offset),
            Device=lambda number: self.context("device", number),
            ExternalStream=lambda handle: self.context("stream", handle),
            runtime=runtime,
        )

    @contextlib.contextmanager
    def context(self, *what):
        self.entered.append(what)
        yield

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            # As NumPy's function, with CuPy's kind of array for a result.
            return np.array(getattr(np, name)(*arguments, **keywords), copy=None).view(There)

        return call

    def asnumpy(self, array):
        return np.asarray(array)


class Runtime(raw_loader.CupyRuntime):
    """The runtime for CuPy, whose kernels run on the host."""

    def __init__(self, host):
        self.host, self.xp, self._index, self.multiprocessors = host, Cupy(), 0, 1

    def pointer(self, array):
        return array.ctypes.data

    def launch(self, *arguments):
        self.host.launch(*arguments)

    def synchronize(self):
        """Nothing runs on its own."""


def device_array(array):
    return DeviceArray(array.shape, array.dtype, array.strides, array.ctypes.data, 0, None, True, array)


def last(array):
    """Return an array in torch's channels_last format."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def spaced(array):
    wide = np.full(tuple(2 * n for n in array.shape), np.nan, array.dtype)
    wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
    return wide[tuple(slice(None, None, 2) for _ in array.shape)]


def turned(array):
    return array[..., ::-1].copy()[..., ::-1]


CALLS = {
    implicit_gemm_mma: Call(ConvProblem.make((1, 16, 5, 6), (8, 16, 3, 3), padding=1), "forward", "float16"),
    raw_depthwise: Call(
        ConvProblem.make((1, 5, 6, 8), (8, 1, 3, 3), padding=1, groups=8, layout="channels_last"),
        "forward",
        "float32",
    ),
    raw_stencil: Call(ConvProblem.make((1, 1, 6, 8), (1, 1, 3, 3), padding=1), "transposed", "float32"),
}


@pytest.mark.parametrize("arrange", [np.ascontiguousarray, last, spaced, turned])
@pytest.mark.parametrize("module", CALLS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_arrays_on_the_gpu(runtime, module, arrange):
    call = CALLS[module]
    first, w, bias = inputs(call, "there", bias=True)
    wanted = makes(call, first, w, bias)
    out = arrange(np.full_like(wanted, np.nan))
    result = device_array(out)
    read = device_array(arrange(first))
    x, y = (read, result) if call.operation == "forward" else (result, read)
    module.compute(Runtime(runtime), call, x, device_array(turned(w)), y, device_array(bias))
    assert_close(out, wanted, tolerance(call.dtype, reduction_length(call.problem, call.operation)))


def test_a_plan_s_weights_and_arrays_of_the_host(runtime):
    call = CALLS[implicit_gemm_mma]
    x, w, _ = inputs(call, "plan")
    played = Runtime(runtime)
    packed = implicit_gemm_mma.packed_for(played, call, w)
    out = np.zeros(call.problem.y_shape, np.float16)
    implicit_gemm_mma.compute(played, call, x, w, out, None, packed)
    assert_close(out, makes(call, x, w), tolerance("float16", 144))


def test_work_is_on_the_stream_of_the_arrays(monkeypatch):
    cupy = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(raw_loader, "runtime", lambda: "the runtime")
    seen = []

    class Job:
        device, stream = 3, 17

        def __init__(self, *arrays):
            seen.extend(arrays)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731

    monkeypatch.setattr(memory, "Job", Job)
    with raw_loader.working("x", "w", None) as found:
        assert found == "the runtime"
    assert cupy.entered == [("device", 3), ("stream", 17)]
    assert seen == ["x", "w", None]
