"""What holds of the raw kernels' loader and choice without a GPU and without CuPy."""

import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import Device, direct, implicit_gemm_mma, raw_loader
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

GPU = Device("a GPU", (9, 0), 132, simulated=False, flops=60e12, bandwidth=4e12, cupy=True)
KERNEL = geometry.Kernel("implicit_gemm", "Float16", "vector", tuning_cuda.TENSOR_TILES["Float16"][0])


class Compiler:
    """NVRTC's stand-in: what it compiles is a count of its calls."""

    version = (12, 9)
    error = None

    def __init__(self):
        self.programs = []

    def getVersion(self):
        return self.version

    def createProgram(self, source, name, headers, names):
        self.programs.append((source, name, dict(zip(names, headers, strict=True)), []))
        return len(self.programs) - 1

    def compileProgram(self, program, options):
        self.programs[program][3].extend(options)
        if self.error:
            raise ValueError(self.error)

    def getProgramLog(self, program):
        return "the log"

    def getCUBIN(self, program):
        return f"cubin {program}".encode()

    def destroyProgram(self, program):
        pass


@pytest.fixture
def compiler():
    return Compiler()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CUBINS", str(tmp_path / "cubins"))
    monkeypatch.setattr(raw_loader, "unavailable", lambda: None)
    return tmp_path / "cubins"


def load(compiler, kernel=KERNEL, architecture="sm_90"):
    return raw_loader.cached_cubin(compiler, kernel, architecture)


def test_what_the_compiler_is_given(compiler):
    assert load(compiler) == b"cubin 0\0"
    source, name, headers, options = compiler.programs[0]
    assert name == "implicit_gemm.cu"
    assert '#include "implicit_gemm.cuh"' in source
    assert {b"implicit_gemm.cuh", b"device.cuh", b"tile.cuh", b"problem.cuh", b"element.cuh"} <= set(headers)
    assert "-arch=sm_90" in options
    assert "-DELEMENT=Float16" in options
    assert "-DTILE=128, 128, 2, 2, 64, 4" in options


def test_a_kernel_is_compiled_once(compiler, cache):
    assert load(compiler) == load(compiler) == b"cubin 0\0"
    assert len(compiler.programs) == len(list(cache.iterdir())) == 1


def test_each_of_what_a_cubin_depends_on_makes_another(compiler, monkeypatch):
    load(compiler)
    load(compiler, KERNEL._replace(element="BFloat16"))
    load(compiler, KERNEL._replace(tile=KERNEL.tile._replace(stages=3)))
    load(compiler, architecture="sm_80")
    compiler.version = (13, 0)
    load(compiler)
    texts = {**raw_loader.sources(), "tile.cuh": "changed"}
    monkeypatch.setattr(raw_loader, "sources", lambda: texts)
    load(compiler)
    assert len(compiler.programs) == 6


def test_a_damaged_file_is_compiled_again(compiler, cache):
    load(compiler)
    (file,) = cache.iterdir()
    for content in (b"", file.read_bytes()[:-3]):
        file.write_bytes(content)
        load(compiler)
    assert len(compiler.programs) == 3
    assert load(compiler) == b"cubin 2\0"


def test_a_cache_that_cannot_be_written_costs_only_time(compiler, cache, monkeypatch):
    cache.write_text("a file in the folder's place")
    assert load(compiler) == b"cubin 0\0"
    monkeypatch.setenv("GPUCONV_CUBINS", "")
    assert raw_loader.folder() is None
    assert load(compiler) == b"cubin 1\0"


def test_the_cache_s_place(monkeypatch, tmp_path):
    assert raw_loader.folder() == tmp_path / "cubins"
    monkeypatch.delenv("GPUCONV_CUBINS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert raw_loader.folder() == tmp_path / "gpuconv" / "cubins"


def test_the_compiler_s_words_reach_the_user(compiler):
    compiler.error = "no"
    with pytest.raises(RuntimeError, match=r"implicit_gemm\.cu does not compile for sm_90: no\nthe log"):
        load(compiler)


def test_threads_load_a_kernel_once(monkeypatch):
    loaded = []
    monkeypatch.setattr(raw_loader, "cached_cubin", lambda *_: b"cubin")
    monkeypatch.setattr(raw_loader, "binding", lambda: None)

    class Module:
        def load(self, cubin):
            loaded.append(cubin)

        def get_function(self, name):
            return types.SimpleNamespace(ptr=len(loaded))

    asked = []
    driver = types.SimpleNamespace(funcSetAttribute=lambda *arguments: asked.append(arguments))
    cuda = types.SimpleNamespace(function=types.SimpleNamespace(Module=Module), driver=driver)
    runtime = object.__new__(raw_loader.CupyRuntime)
    runtime.xp, runtime._architecture = types.SimpleNamespace(cuda=cuda), "sm_90"
    runtime._functions, runtime._lock = {}, threading.Lock()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: runtime._function(KERNEL, KERNEL.name, 69632), range(32)))
    assert len(loaded) == 1
    assert len({id(function) for function in found}) == 1
    assert asked == [(1, 8, 69632)]


CALL = Call(ConvProblem.make((8, 64, 28, 28), (64, 64, 3, 3), padding=1), "forward", "float16")


def test_reasons(monkeypatch):
    def reason(device=GPU, dtype="float16", operation="forward", precision="high", **keywords):
        shapes = ((8, 64, 28, 28), (64, 64, 3, 3))
        return implicit_gemm_mma.supports(
            Call(ConvProblem.make(*shapes, **keywords), operation, dtype, precision), device
        )

    assert reason() is None
    assert reason(operation="weight_gradient", padding=1, padding_mode="wrap") is None
    assert "float64" in reason(dtype="float64")
    assert "'highest'" in reason(dtype="float32", precision="highest")
    assert reason(dtype="float16", precision="highest") is None
    assert "padding_value=1.0" in reason(padding=1, padding_value=1.0)
    assert "'mirror'" in reason(operation="input_gradient", padding=1, padding_mode="mirror")
    assert "capability 7.5" in reason(device=GPU._replace(compute_capability=(7, 5)))
    assert "simulator" in reason(device=GPU._replace(simulated=True))
    monkeypatch.setattr(raw_loader, "unavailable", lambda: "CuPy is not installed")
    assert reason() == "CuPy is not installed"


def test_without_cupy_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(raw_loader.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "gpuconv[cuda12]"' in raw_loader.unavailable.__wrapped__()


def test_an_axis_beyond_32_bits_is_refused():
    long = ConvProblem.make((1, 1, 1 << 30), (1, 1, 1))
    assert "32-bit" in implicit_gemm_mma.supports(Call(long, "forward", "float16"), GPU)


def test_the_estimate_prefers_tensor_cores_where_there_are_many_channels():
    wide = Call(ConvProblem.make((32, 256, 56, 56), (256, 256, 3, 3), padding=1), "forward", "float32")
    assert implicit_gemm_mma.cost(wide, GPU) < direct.cost(wide, GPU)
    fewer_parts = Call(wide.problem, "forward", "float32", "tf32")
    assert implicit_gemm_mma.cost(fewer_parts, GPU) < implicit_gemm_mma.cost(wide, GPU)


def chosen(x_shape, w_shape, operation="forward", layout="channels_last"):
    call = Call(ConvProblem.make(x_shape, w_shape, layout=layout), operation, "float16")
    reads = geometry.reads_of(call, (layout, layout))
    (launch,) = geometry.launches(call, GPU.multiprocessors, reads, (layout, layout))
    return launch


def test_the_tile_follows_the_shape():
    assert chosen((64, 56, 56, 256), (256, 256, 1, 1)).kernel.tile[:2] == (128, 128)
    assert chosen((64, 56, 56, 256), (32, 256, 1, 1)).kernel.tile.columns == 32
    assert chosen((64, 56, 56, 256), (256, 256, 1, 1)).kernel.reads == "vector"
    assert chosen((64, 56, 56, 255), (256, 255, 1, 1)).kernel.reads == "gather"
    assert chosen((64, 256, 56, 56), (256, 256, 1, 1), layout="channels_first").kernel.reads == "gather"


def test_sums_are_split_where_blocks_are_few_only():
    assert chosen((64, 56, 56, 256), (256, 256, 1, 1)).grid[1] == 1
    few = chosen((1, 9, 9, 512), (64, 512, 3, 3))
    assert few.grid[1] > 1
    assert few.sums == few.grid[1] * 49 * 64
    gradient = chosen((64, 56, 56, 64), (64, 64, 1, 1), "weight_gradient")
    assert gradient.grid[1] > 16


@pytest.mark.parametrize("element", tuning_cuda.TENSOR_TILES)
def test_shared_memory_holds_two_blocks_on_every_gpu_served(element):
    for family in ("implicit_gemm", "weight_gradient"):
        for tile in geometry.tiles_of(family, element, "gather"):
            kernel = geometry.Kernel(family, element, "gather", tile)
            assert kernel.shared <= 99 * 1024
            assert 2 * kernel.shared <= 163 * 1024


def test_packed_weights_are_taps_then_channels_rounded_up():
    call = Call(ConvProblem.make((1, 3, 9), (2, 3, 4), stride=2), "forward", "float16")
    w = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    packed = geometry.packed(np, call, w).reshape(2, 4, 8)
    np.testing.assert_array_equal(packed[..., :3], np.moveaxis(w, 1, 2))
    assert not packed[..., 3:].any()
    gradient = Call(call.problem, "input_gradient", "float16")
    parts = geometry.packed(np, gradient, w)
    assert parts.size == 3 * 4 * 8  # Two phases of two taps each, the two outputs rounded up to eight.
