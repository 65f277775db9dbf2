"""What only a GPU can show: real sizes against the CPU backend, other libraries' arrays, streams, exhausted memory.

``pytest -m gpu`` runs these and, of the other tests, every problem with the CUDA algorithms. Under compute-sanitizer:
``compute-sanitizer --tool memcheck python -m pytest -m gpu -n 0 tests/cuda/test_gpu.py``, and so with ``racecheck``.
"""

import numpy as np
import pytest
from problems import Case, network
from support import Engine, assert_close, expected, inputs, reduction_length, tolerance

import gpuconv
from gpuconv.backends import cuda
from gpuconv.dispatch import Call

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.unavailable() is not None, reason=f"needs an NVIDIA GPU: {cuda.unavailable()}"),
]

IMAGES = (
    Case("image 3x3", (1, 2048, 2050), (1, 1, 3, 3), {"padding": 1, "padding_mode": "mirror"}),
    Case("image 7x7", (1, 1001, 1003), (1, 1, 7, 7), {"padding": 3, "padding_mode": "wrap"}),
    Case("image 16x32", (1, 700, 900), (1, 1, 16, 32), {"padding": 8, "padding_mode": "nearest"}),
    Case("volume", (2, 16, 33, 65, 40), (24, 16, 3, 3, 3), {"padding": 1}),
    Case("transposed", (4, 64, 33, 35), (64, 48, 4, 4), {"stride": 2, "padding": 1}, transposed=True),
)


@pytest.mark.parametrize("algorithm", cuda.ALGORITHMS)
@pytest.mark.parametrize("case", [*network(1), *IMAGES], ids=str)
def test_real_sizes_against_the_cpu(case, algorithm):
    problem = case.problem()
    for operation in ("transposed",) if case.transposed else ("forward", "input_gradient", "weight_gradient"):
        call = Call(problem, operation, "float32")
        engine = Engine("cuda", algorithm)
        if engine.reason(call) is not None:
            continue
        first, second, bias = inputs(call, "real", bias=operation == "forward")
        results = []
        for one in (engine, Engine("cpu", "direct")):
            results.append(np.full(problem.shapes(operation)[2], np.nan, np.float32))
            one.write(call, first, second, results[-1], bias)
        assert_close(*results, tolerance("float32", reduction_length(problem, operation)), f"{algorithm} {operation}")


def test_a_result_is_the_same_in_every_run():
    call = Call(network(1)[1].problem(), "weight_gradient", "float32")
    first, second, _ = inputs(call, "again")
    results = [np.empty(call.problem.w_shape, np.float32) for _ in range(3)]
    for result in results:
        Engine("cuda", "direct").write(call, first, second, result)
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64", "int32"])
def test_cupy_arrays(dtype):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    call = Call(network(8)[1].problem(), "forward", dtype)
    x, w, bias = inputs(call, "cupy", bias=True)
    for arrange in (
        cupy.asarray,
        lambda a: cupy.asfortranarray(cupy.asarray(a)),
        lambda a: cupy.asarray(a[::-1])[::-1],
    ):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            y = gpuconv.conv2d(arrange(x), arrange(w), cupy.asarray(bias), padding=1)
            assert isinstance(y, cupy.ndarray)
            stream.synchronize()
        limit = tolerance(dtype, reduction_length(call.problem, "forward"))
        assert_close(y.get(), expected(call, "cupy", bias=True), limit)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "complex64"])
def test_filters_of_cupy_arrays(dtype):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    rng = np.random.default_rng(0)
    x, w = (100 * rng.random((700, 901))).astype(dtype), rng.random((5, 4))
    for name, arguments in (
        ("correlate", (w,)), ("gaussian_filter", (3,)), ("uniform_filter", (9,)), ("gaussian_gradient_magnitude", (1,)),
    ):  # fmt: skip
        function = getattr(gpuconv.ndimage, name)
        with cupy.cuda.Stream(non_blocking=True) as stream:
            y = function(cupy.asarray(x), *arguments, mode="mirror")
            assert isinstance(y, cupy.ndarray)
            stream.synchronize()
        # A sum beside a whole number may lose its fraction to the other side of it.
        limit = (0, 1) if dtype == "uint8" else (1e-5, 1e-2)
        np.testing.assert_allclose(y.get().astype(complex), function(x, *arguments, mode="mirror"), *limit)
    a, b = x[0], x[1, :300]
    y = gpuconv.signal.convolve(cupy.asarray(a), cupy.asarray(b), "same")
    np.testing.assert_allclose(y.get().astype(complex), gpuconv.signal.convolve(a, b, "same"), 1e-4, 10)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_torch_tensors(dtype, torch):
    if not torch.cuda.is_available():
        pytest.skip("this build of torch has no CUDA")
    x = torch.randn(2, 16, 20, 21, device="cuda", dtype=getattr(torch, dtype))
    w = torch.randn(8, 16, 3, 3, device="cuda", dtype=getattr(torch, dtype))
    wanted = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    for form in (torch.contiguous_format, torch.channels_last):
        with torch.cuda.stream(torch.cuda.Stream()) as stream:
            y = gpuconv.conv2d(x.contiguous(memory_format=form), w.contiguous(memory_format=form), padding=1)
            torch.cuda.current_stream().synchronize()
        del stream
        assert y.dtype == x.dtype
        assert y.device == x.device
        assert_close(y.double().cpu().numpy(), wanted.cpu().numpy(), tolerance(dtype, 144))


def test_offsets_past_32_bits():
    numba_cuda = pytest.importorskip("numba.cuda")
    free, _ = numba_cuda.current_context().get_memory_info()
    if free < 20 << 30:
        pytest.skip(f"needs 20 GiB of free memory on the GPU, which has {free / 2**30:.0f}")
    x = numba_cuda.device_array((1, 1, (1 << 31) + 64), np.uint8)
    x[0, 0, -8:] = np.arange(8, dtype=np.uint8)
    w = numba_cuda.to_device(np.ones((1, 1, 2), np.uint8))
    y = gpuconv.conv1d(x, w)
    np.testing.assert_array_equal(y[0, 0, -7:].copy_to_host(), np.arange(1, 15, 2))


@pytest.mark.parametrize(("precision", "exact"), [("highest", True), ("high", True), ("tf32", False)])
def test_products_by_cublas_are_tf32_only_where_that_is_asked_for(precision, exact, monkeypatch):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    if cuda.device().compute_capability < (8, 0):
        pytest.skip("this GPU has no TF32")
    monkeypatch.setenv("CUPY_TF32", "1")
    x = np.full((1, 64, 4096), 1 + 2.0**-13, np.float32)
    w = np.eye(64, dtype=np.float32)[:, :, None]
    y = gpuconv.conv1d(x, w, backend="cuda", algorithm="gemm", precision=precision)
    assert (y == x).all() == exact


@pytest.mark.parametrize("limit", [None, 24 << 20])
@pytest.mark.parametrize("algorithm", ["direct", "gemm", "fft"])
def test_large_arrays_go_in_parts(algorithm, limit, monkeypatch):
    if limit:
        monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(limit))
    size = {"direct": 3, "gemm": 1, "fft": 15}[algorithm]
    shape = ((4, 4, 1500, 900), (4, 4, size, size)) if algorithm == "gemm" else ((4, 1, 2500, 1700), (1, 1, size, size))
    call = Call(Case("large", *shape, {"padding": size // 2}).problem(), "forward", "float32")
    if Engine("cuda", algorithm).reason(call) is not None:
        pytest.skip(Engine("cuda", algorithm).reason(call))
    x, w, _ = inputs(call, "large")
    wanted = gpuconv.conv2d(x, w, padding=size // 2, backend="cpu")
    actual = gpuconv.conv2d(x, w, padding=size // 2, backend="cuda", algorithm=algorithm)
    assert_close(actual, wanted, tolerance("float32", 2 * reduction_length(call.problem, "forward")))


def test_exhausted_memory_says_what_to_do_and_leaves_the_cpu_working():
    numba_cuda = pytest.importorskip("numba.cuda")
    _, total = numba_cuda.current_context().get_memory_info()
    one = numba_cuda.device_array((1, 1, 1), np.float64)
    huge = (total // 8 + 1, 1, 1)

    class Huge:
        __cuda_array_interface__ = {
            "shape": huge, "typestr": "<f8", "strides": (0, 8, 8), "version": 3,
            "data": (one.__cuda_array_interface__["data"][0], False),
        }  # fmt: skip

    with pytest.raises(MemoryError, match="the GPU's memory is exhausted"):
        gpuconv.conv1d(Huge(), np.ones((1, 1, 1)))
    np.testing.assert_array_equal(gpuconv.conv1d(np.ones((1, 3)), np.ones((1, 1, 2))), [[2, 2]])
