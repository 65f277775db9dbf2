"""The algorithms of CuPy's libraries, `gemm` and `fft`, with NumPy in CuPy's place (see numpy_cupy.py)."""

import contextlib
import dataclasses
import itertools
import sys
import types

import numpy as np
import numpy_cupy
import pytest
from problems import CASES, EVERY_DTYPE
from support import (
    DTYPES,
    OPERATIONS,
    assert_close,
    assert_same_specials,
    expected,
    inputs,
    makes,
    poisoned,
    reachable,
    reduction_length,
    tolerance,
)

import gpuconv
from gpuconv import dispatch, tuning_cuda
from gpuconv.backends import cuda
from gpuconv.backends.cpu import direct
from gpuconv.backends.cuda import batches, cublas, cupy_work, fft, fft_tiles, gemm, raw_loader
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

DEVICE = cuda.named_device("a100")
MODULES = {"gemm": gemm, "fft": fft}


@pytest.fixture(autouse=True)
def library(monkeypatch):
    return numpy_cupy.install(monkeypatch, direct)


@pytest.fixture
def small_tiles(monkeypatch):
    """Leave the choice among transforms that hardly hold the kernel."""
    monkeypatch.setattr(fft_tiles, "_candidates", lambda extent, outputs: [1] if extent == 1 else [extent + 2])
    fft_tiles.tiling.cache_clear()
    yield
    fft_tiles.tiling.cache_clear()


def write(module, call, first, second, out, bias=None, packed=None):
    if call.operation == "forward":
        module.run(call, first, second, out, bias, packed)
    elif call.operation == "weight_gradient":
        module.run(call, first, out, second, bias)
    else:
        module.run(call, out, second, first, bias, packed)


def check(module, call, *, bias=False, strided=False, on_gpu=False):
    assert module.supports(call, DEVICE) is None
    arrays = inputs(call, "cupy", bias=bias)
    out, intact = poisoned(call.problem.shapes(call.operation)[2], arrays[0].dtype, strided=strided)
    place = numpy_cupy.there if on_gpu else np.asarray
    first, second, offset = (None if a is None else place(a) for a in arrays)
    write(module, call, first, second, place(out), offset)
    intact()
    limit = tolerance(call.dtype, reduction_length(call.problem, call.operation))
    assert_close(out, expected(call, "cupy", bias=bias), limit, f"{module.__name__} {call}")


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("cases", ["every problem", "every dtype"])
def test_the_shared_problems(name, cases):
    served = set()
    for case in CASES if cases == "every problem" else EVERY_DTYPE:
        for operation in OPERATIONS:
            for dtype in case.dtypes if cases == "every problem" else DTYPES:
                call = Call(case.problem(), operation, dtype)
                if reachable(call.problem, operation) and MODULES[name].supports(call, DEVICE) is None:
                    turn = len(served)
                    check(MODULES[name], call, bias=turn % 2 == 0, strided=turn % 3 == 0, on_gpu=turn % 4 < 2)
                    served.add(call)
    assert {call.operation for call in served} == set(OPERATIONS) - ({"weight_gradient"} if name == "fft" else set())
    assert len(served) > 20


TILED = {
    "1d": ((2, 3, 41), (4, 3, 9), {"padding": 4}),
    "2d groups, mirror": ((2, 4, 17, 14), (6, 2, 5, 4), {"padding": 2, "padding_mode": "mirror", "groups": 2}),
    "2d dilated, wrap, cropped": (
        (1, 1, 23, 20), (1, 1, 5, 5), {"dilation": (2, 1), "padding": ((5, -1), (-2, 4)), "padding_mode": "wrap"},
    ),
    "2d constant border, channels last": (
        (2, 11, 12, 2), (3, 2, 4, 4), {"padding": 3, "padding_value": 2.5, "layout": "channels_last"},
    ),
    "2d wider border than the image": ((1, 2, 3, 4), (2, 2, 4, 4), {"padding": 9, "padding_mode": "symmetric"}),
    "3d": ((2, 7, 8, 9), (3, 2, 3, 3, 2), {"padding": 1, "padding_mode": "nearest"}),
}  # fmt: skip


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("temporary", [1, 20_000], ids=["a row at a time", "some at a time"])
@pytest.mark.parametrize("name", TILED)
def test_many_tiles(name, temporary, monkeypatch):
    x, w, arguments = TILED[name]
    problem = ConvProblem.make(x, w, **arguments)
    assert np.prod(fft_tiles.tiling(problem, False, 4).tiles) > 8
    monkeypatch.setattr(tuning_cuda, "CUDA_FFT_TEMPORARY", temporary)
    monkeypatch.setattr(fft, "supports", lambda *_: None)
    for dtype, operation in itertools.product(("float32", "complex128"), ("forward", "input_gradient")):
        if operation == "forward" or (problem.padding_mode == "zeros" and not problem.padding_value):
            check(fft, Call(problem, operation, dtype), bias=operation == "forward")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:overflow encountered")
@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("bad", "where"), [(np.nan, "x"), (np.inf, "x"), (-np.inf, "w"), (3e38, "x")])
def test_what_is_not_finite_stays_in_its_receptive_field(bad, where, layout, on_gpu):
    shape = (2, 2, 15, 16) if layout == "channels_first" else (2, 15, 16, 2)
    problem = ConvProblem.make(shape, (3, 2, 4, 4), padding=2, padding_mode="mirror", layout=layout)
    call = Call(problem, "forward", "float32")
    x, w, bias = inputs(call, "bad", bias=True)
    w[...] = np.abs(w) + np.float32(0.5)
    (x if where == "x" else w)[1, 1, 2, 1] = bad
    y = np.full(problem.y_shape, 7, np.float32)
    place = numpy_cupy.there if on_gpu else np.asarray
    fft.run(call, place(x), place(w), place(y), place(bias))
    wanted = makes(call, x, w, bias)
    assert_same_specials(y, wanted, "fft")
    assert 0 < (~np.isfinite(wanted)).sum() < wanted.size
    near = np.isfinite(wanted) & (np.abs(wanted) < 1e3)
    np.testing.assert_allclose(y[near], wanted[near], rtol=1e-5, atol=1e-5)


def test_complex_input_gradients_are_repaired_with_conjugate_weights():
    call = Call(ConvProblem.make((1, 2, 30), (3, 2, 13), padding=3), "input_gradient", "complex64")
    dy, w, _ = inputs(call, "bad")
    dy[0, 1, 5] = np.nan
    dx = np.zeros(call.problem.x_shape, np.complex64)
    fft.run(call, dx, w, dy, None)
    wanted = makes(call, dy, w)
    assert_close(dx, wanted, tolerance("complex64", 39))


def test_a_plan_keeps_the_weights(monkeypatch):
    for module, w_shape, helper in ((gemm, (3, 2, 1), "_none"), (fft, (3, 2, 15), "_packed")):
        call = Call(ConvProblem.make((2, 2, 30), w_shape), "forward", "float32")
        x, w, _ = inputs(call, "plan")
        wanted, packed = makes(call, x, w), module.pack(call, w)
        w[...] = 0
        y = np.zeros(call.problem.y_shape, np.float32)
        if helper == "_packed":
            monkeypatch.setattr(module, helper, None)
        module.run(call, x, w, y, None, packed)
        assert_close(y, wanted, tolerance("float32", 30))
    assert gemm.pack(Call(ConvProblem.make((1, 2, 4), (3, 2, 1)), "weight_gradient", "float32"), w) is None


@pytest.mark.parametrize("operation", ["forward", "transposed"])
@pytest.mark.parametrize("name", MODULES)
def test_packed_weights_serve_every_part_of_a_call(name, operation, monkeypatch):
    module, size = MODULES[name], {"fft": 5, "gemm": 1}[name]
    call = Call(ConvProblem.make((3, 2, 90, 20), (3, 2, size, size)), operation, "float32")
    first, w, bias = inputs(call, "parts", bias=True)
    packed = module.pack(call, w)
    monkeypatch.setattr(batches, "cut", lambda *_: batches.Cut(1, 7))
    monkeypatch.setitem(sys.modules, "gpuconv.backends.cuda.memory", types.SimpleNamespace(Pipeline=Turns))
    monkeypatch.setattr(cuda, "memory", types.SimpleNamespace(Pipeline=Turns), raising=False)
    out = np.full(call.problem.shapes(operation)[2], np.nan, np.float32)
    write(module, call, first, w, out, bias, packed)
    assert_close(out, makes(call, first, w, bias), tolerance("float32", 75))


class Turns(contextlib.nullcontext):
    """A pipeline for algorithms that have their results at once."""

    def __enter__(self):
        return self

    def turn(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("dtype", "precision", "computed"),
    [
        ("float32", "highest", 68), ("float32", "high", 68), ("float32", "tf32", 77), ("float16", "high", 68),
        ("float64", "tf32", 70), ("complex64", "high", 68), ("complex128", "high", 70),
    ],
)  # fmt: skip
def test_only_tf32_allows_tf32(dtype, precision, computed, library):
    call = Call(ConvProblem.make((2, 4, 6), (3, 4, 1)), "forward", dtype, precision)
    check(gemm, call)
    assert library.computed_in == [computed]
    assert library.mode == 3  # what the caller's own code had set


def test_spectra_are_never_multiplied_as_tf32(library):
    check(fft, Call(ConvProblem.make((1, 4, 30), (3, 4, 9)), "forward", "float32", "tf32"))
    assert library.computed_in == [68]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_few_and_large_products(layout, library):
    """Count the products: one for all images where their memory allows it, else one for each group, or image."""
    shape = {"channels_first": (2, 6, 5, 4), "channels_last": (2, 5, 4, 6)}[layout]
    for groups, count in ((1, 1), (3, 1 if layout == "channels_last" else 2)):
        library.computed_in.clear()
        problem = ConvProblem.make(shape, (9, 6 // groups, 1, 1), groups=groups, layout=layout)
        check(gemm, Call(problem, "forward", "float32"), on_gpu=True)
        assert len(library.computed_in) == count


def test_operands_in_any_order_of_memory():
    rng = np.random.default_rng(0)
    for shape in ((3, 4, 5), (1, 1, 4), (2, 6, 1)):
        orders = list(itertools.permutations(range(3)))
        for of_a, of_b, of_out in itertools.product(orders[:4], orders[2:], orders):
            (batch, m, k), n = shape, 3
            sizes = (batch, m, k), (batch, k, n), (batch, m, n)
            a, b, out = (
                rng.uniform(-1, 1, [size[i] for i in order]).transpose(np.argsort(order)).view(numpy_cupy.Array)
                for size, order in zip(sizes, (of_a, of_b, of_out), strict=True)
            )
            before = np.array(out)
            cublas.product(numpy_cupy.Module(), a, b, out, "float64", add=True)
            np.testing.assert_allclose(np.array(out), before + np.array(a) @ np.array(b), rtol=1e-13, atol=1e-14)


def test_streams_are_the_callers(monkeypatch):
    monkeypatch.setattr(numpy_cupy.Stream, "made", [])
    call = Call(ConvProblem.make((2, 4, 6), (3, 4, 1)), "forward", "float32")
    x, w, _ = (None if a is None else numpy_cupy.there(a) for a in inputs(call, "streams"))
    y = np.zeros(call.problem.y_shape, np.float32)
    gemm.run(call, x._replace(stream=5), w._replace(stream=9, device=0), y, None)
    assert numpy_cupy.Stream.made == [5, 9]


GEMM_REASONS = {
    "int32": ((1, 2, 4), (2, 2, 1), {}, "int32"),
    "has no border": ((1, 2, 4), (2, 2, 1), {"padding": 1}, "float32"),
    "windows overlap": ((1, 2, 8), (2, 2, 3), {"stride": 2}, "float32"),
    "input_dilation": ((1, 2, 8), (2, 2, 1), {"input_dilation": 2}, "float32"),
    "counts to": ((1, 1, 1 << 31), (1, 1, 1), {}, "float32"),
}
FFT_REASONS = {
    "no transforms": ((1, 1, 99), (1, 1, 30), {}, "forward", "float32", "highest"),
    "by the weights": ((1, 1, 99), (1, 1, 30), {}, "weight_gradient", "float32", "high"),
    "int32": ((1, 1, 99), (1, 1, 30), {}, "forward", "int32", "high"),
    "stride": ((1, 1, 99), (1, 1, 30), {"stride": 2}, "forward", "float32", "high"),
    "border only": (
        (1, 1, 99),
        (1, 1, 30),
        {"padding": 2, "padding_mode": "wrap"},
        "input_gradient",
        "float32",
        "high",
    ),
    "fewer than 24": ((1, 1, 99), (1, 1, 23), {}, "forward", "float32", "high"),
    "too many for one": ((1, 1, 1 << 26), (1, 1, 1 << 25), {}, "forward", "float32", "high"),
    "transformed weights of": ((1, 512, 256, 256), (512, 512, 31, 31), {}, "forward", "float32", "high"),
}


def test_reasons():
    for reason, (x, w, arguments, dtype) in GEMM_REASONS.items():
        assert reason in gemm.supports(Call(ConvProblem.make(x, w, **arguments), "forward", dtype), DEVICE)
    half = Call(ConvProblem.make((1, 2, 4), (2, 2, 1)), "forward", "bfloat16")
    assert "bfloat16 on t4" in gemm.supports(half, cuda.named_device("t4"))
    for reason, (x, w, arguments, *rest) in FFT_REASONS.items():
        assert reason in fft.supports(Call(ConvProblem.make(x, w, **arguments), *rest), DEVICE)


def test_without_cupy_the_reason_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(raw_loader.importlib.util, "find_spec", lambda name: None)
    raw_loader.unavailable.cache_clear()
    device = DEVICE._replace(name="A GPU of this machine")
    assert "CuPy is not installed: pip install" in cupy_work.missing(device)
    assert "simulator" in cupy_work.missing(device._replace(simulated=True))
    raw_loader.unavailable.cache_clear()


class OutOfMemoryError(Exception):
    """As CuPy's is called."""


def fails(error):
    def raising(*_arguments, **_options):
        raise error

    return raising


@pytest.mark.parametrize("name", MODULES)
def test_memory_that_runs_out_is_put_in_words_and_leaves_the_cpu_working(name, monkeypatch):
    monkeypatch.setattr(numpy_cupy.Module, "empty", fails(OutOfMemoryError("out of memory to allocate 8 bytes")))
    size = {"fft": 30, "gemm": 1}[name]
    call = Call(ConvProblem.make((2, 4, 60), (3, 4, size)), "forward", "float32")
    x, w, _ = inputs(call, "memory")
    y = np.zeros(call.problem.y_shape, np.float32)
    with pytest.raises(MemoryError, match="give a smaller batch, free other arrays, or compute with backend='cpu'"):
        MODULES[name].run(call, x, w, y, None)
    assert_close(gpuconv.conv1d(x, w, backend="cpu"), makes(call, x, w), tolerance("float32", 4 * size))


def test_cupy_that_cannot_be_imported(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cupy_work.importlib, "import_module", fails(RuntimeError("no libnvrtc")))
    with pytest.raises(gpuconv.BackendUnavailableError, match=r"RuntimeError: no libnvrtc\): pip install"):
        cupy_work.module()


def test_cupy_that_cannot_load_cublas(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cublas.importlib, "import_module", fails(ImportError("no libcublas.so")))
    with pytest.raises(gpuconv.BackendUnavailableError, match=r"cannot load cuBLAS \(no libcublas\.so\): pip install"):
        cublas.library()


def test_arrays_on_the_gpu_without_numba_cuda_and_the_other_way_round(monkeypatch):
    monkeypatch.setattr(cuda, "_simulated", lambda: False)
    monkeypatch.setattr(cuda, "_count_devices", lambda: 1)
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    dispatch.choose.cache_clear()
    x, w = np.ones((1, 2, 5), np.float32), np.ones((1, 2, 1), np.float32)
    with pytest.raises(gpuconv.BackendUnavailableError, match="numba-cuda is not installed: pip install"):
        gpuconv.conv1d(x.view(numpy_cupy.Array), w.view(numpy_cupy.Array))
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    monkeypatch.setattr(cuda, "device", lambda: DEVICE._replace(name="A GPU", cupy=False))
    raw_loader.unavailable.cache_clear()
    with pytest.raises(gpuconv.UnsupportedError, match=r"'gemm' .*: CuPy is not installed: pip install"):
        gpuconv.conv1d(x, w, backend="cuda", algorithm="gemm")
    raw_loader.unavailable.cache_clear()
    dispatch.choose.cache_clear()
    np.testing.assert_array_equal(gpuconv.conv1d(x, w), 2 * x[:, :1])


@pytest.mark.parametrize(
    ("code", "words"), [(803, "different versions; restart"), (804, "update the driver"), (7, "error 7")]
)
def test_a_driver_that_does_not_start(code, words, monkeypatch):
    monkeypatch.setattr(cuda, "_simulated", lambda: False)
    driver = types.SimpleNamespace(cuInit=lambda flags: code)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    cuda._count_devices.cache_clear()
    assert words in cuda.unavailable()
    driver.cuInit = lambda flags: 100
    cuda._count_devices.cache_clear()
    assert "reports no GPU" in cuda.unavailable()
    cuda._count_devices.cache_clear()


def test_transform_sizes():
    for extent, outputs in ((31, 4096), (101, 10_000_000), (2000, 3000)):
        problem = ConvProblem.make((1, 1, outputs), (1, 1, extent), padding=extent // 2)
        cut = fft_tiles.tiling(problem, False, 4)
        assert cut.steps[0] == cut.sizes[0] - extent + 1
        assert cut.tiles[0] * cut.steps[0] >= problem.output[0]
        assert cut.sizes[0] <= fft_tiles._smooth(outputs + 2 * extent)
    assert fft_tiles.tiling(ConvProblem.make((1, 1, 10_000_000), (1, 1, 101)), False, 4).tiles[0] > 100
    assert fft_tiles.tiling(ConvProblem.make((1, 1, 40, 40), (1, 1, 31, 31)), False, 4).tiles == (1, 1)


@pytest.mark.parametrize(
    ("algorithm", "x", "w", "arguments"),
    [
        ("fft", (1, 1, 4096, 4096), (1, 1, 101, 101), {"padding": 50}),
        ("fft", (1, 1, 1 << 22), (1, 1, 4001), {"padding": 2000}),
        ("gemm", (32, 256, 56, 56), (64, 256, 1, 1), {}),
        ("gemm", (64, 3, 224, 224), (768, 3, 16, 16), {"stride": 16}),
    ],
)
def test_choices_for_an_h200(algorithm, x, w, arguments):
    call = Call(ConvProblem.make(x, w, **arguments), "forward", "float32", "high")
    found = dispatch.explain(call, "cuda", device_name="h200")
    assert found.chosen.algorithm == algorithm
    highest = dispatch.explain(dataclasses.replace(call, precision="highest"), "cuda", device_name="h200").chosen
    assert (highest.algorithm == algorithm) == (algorithm == "gemm")
