"""Builds the raw kernels for the host and runs them: g++, one file for all, and a runtime in CuPy's place."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from gpuconv.backends.cuda.implicit_gemm_mma_geometry import Kernel, tiles_of
from gpuconv.backends.cuda.raw_depthwise import Kernel as Depthwise
from gpuconv.backends.cuda.raw_loader import as_bits
from gpuconv.backends.cuda.raw_stencil import Kernel as Stencil

HERE = Path(__file__).parent
RAW = HERE.parents[1] / "gpuconv" / "backends" / "cuda" / "raw"
SANITIZERS = (
    "-fsanitize=address,bounds,alignment,null,shift,signed-integer-overflow,integer-divide-by-zero",
    "-fno-sanitize-recover=undefined",
)


def _kernel(family, element, reads, rows, columns, activation=""):
    (tile,) = (t for t in tiles_of(family, element, reads) if (t.rows, t.columns) == (rows, columns))
    return Kernel(family, element, reads, tile, activation)


KERNELS = (
    _kernel("implicit_gemm", "Float16", "vector", 128, 128),
    _kernel("implicit_gemm", "Float16", "gather", 128, 32),
    _kernel("implicit_gemm", "BFloat16", "vector", 64, 64),
    _kernel("implicit_gemm", "BFloat16", "gather", 128, 128),
    _kernel("implicit_gemm", "Int8", "vector", 128, 32),
    _kernel("implicit_gemm", "Int8", "gather", 64, 64),
    _kernel("implicit_gemm", "UInt8", "vector", 64, 64),
    _kernel("implicit_gemm", "UInt8", "gather", 64, 64),
    _kernel("implicit_gemm", "TF32", "vector", 64, 64),
    _kernel("implicit_gemm", "TF32", "gather", 128, 32),
    _kernel("implicit_gemm", "TF32x3", "vector", 128, 64),
    _kernel("implicit_gemm", "TF32x3", "gather", 64, 64),
    _kernel("weight_gradient", "Float16", "vector", 128, 128),
    _kernel("weight_gradient", "Float16", "planes", 64, 64),
    _kernel("weight_gradient", "Float16", "gather", 64, 64),
    _kernel("weight_gradient", "BFloat16", "vector", 64, 64),
    _kernel("weight_gradient", "BFloat16", "planes", 64, 64),
    _kernel("weight_gradient", "BFloat16", "gather", 64, 64),
    _kernel("weight_gradient", "Int8", "planes", 64, 32),
    _kernel("weight_gradient", "Int8", "gather", 64, 32),
    _kernel("weight_gradient", "UInt8", "planes", 64, 32),
    _kernel("weight_gradient", "UInt8", "gather", 64, 32),
    _kernel("weight_gradient", "TF32", "vector", 64, 64),
    _kernel("weight_gradient", "TF32", "planes", 64, 64),
    _kernel("weight_gradient", "TF32", "gather", 64, 64),
    _kernel("weight_gradient", "TF32x3", "vector", 128, 64),
    _kernel("weight_gradient", "TF32x3", "planes", 64, 64),
    _kernel("weight_gradient", "TF32x3", "gather", 64, 64),
    _kernel("implicit_gemm", "Float16", "vector", 128, 128, "gelu"),
    _kernel("implicit_gemm", "BFloat16", "vector", 64, 64, "relu"),
    _kernel("implicit_gemm", "TF32", "gather", 128, 32, "gelu_tanh"),
    _kernel("implicit_gemm", "TF32x3", "gather", 64, 64, "silu"),
)
"""What is built for the host: every element in every way of reading, and among them every tile."""

DEPTHWISE = (
    Depthwise("Float16", 3),
    Depthwise("Float16", 0),
    Depthwise("BFloat16", 5),
    Depthwise("BFloat16", 0),
    Depthwise("Float32", 2),
    Depthwise("Float32", 7),
    Depthwise("Float32", 0),
    Depthwise("Float16", 3, "silu"),
    Depthwise("Float32", 0, "gelu"),
)

STENCIL = (
    Stencil("Float32", 3, 3, 3, True),
    Stencil("Float32", 3, 3, 3, False),
    Stencil("Float32", 2, 4, 0, False),
    Stencil("Float32", 0, 9, 1, True),
    Stencil("Float16", 5, 5, 6, True),
    Stencil("Float16", 3, 3, 7, False, "gelu"),
    Stencil("BFloat16", 3, 3, 7, True, "silu"),
    Stencil("BFloat16", 0, 2, 0, False),
    Stencil("UInt8", 3, 3, 15, True),
    Stencil("Int8", 0, 9, 12, False),
)

BUILT = KERNELS + DEPTHWISE + STENCIL


def compiler():
    return shutil.which(os.environ.get("CXX", "g++"))


def sanitizer_library():
    """Return the address sanitizer's library, which a process must load before all others, or None."""
    command = [compiler(), "-print-file-name=libasan.so"]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return name if Path(name).is_absolute() else None


def translation_unit(kernels):
    """Return C++ with every kernel, each included from its source with its constants, and a function to start it."""
    lines = []
    for kernel in kernels:
        lines += [f"#define {name} {value}" for name, value in kernel.constants.items()]
        lines += [f'#include "{kernel.source}"', *(f"#undef {name}" for name in kernel.constants)]
        names = [kernel.constants[name] for name in ("NAME", "NAME_OF_SECOND_PASS") if name in kernel.constants]
        for name in names:
            lines.append(
                f'extern "C" void start_{name}(const int64_t* grid, int threads, size_t shared, int backwards, '
                f"const Problem* p) {{ emulation::launch(grid, threads, shared, backwards, "
                f"[p] {{ {name}(*p); }}); }}"
            )
    lines.append('extern "C" size_t size_of_problem() { return sizeof(Problem); }')
    return "\n".join(lines) + "\n"


def build(kernels, folder, *, sanitize):
    """Compile the kernels into a library in `folder`, and return its path."""
    source = folder / "kernels.cpp"
    source.write_text(translation_unit(kernels))
    return compile_library(source, folder / "kernels.so", sanitize=sanitize)


def compile_library(source, library, *, sanitize):
    command = [
        compiler(), "-std=c++17", "-O1", "-shared", "-fPIC", "-DGPUCONV_EMULATION", "-U_FORTIFY_SOURCE", "-w",
        f"-I{HERE}", f"-I{RAW}", *(SANITIZERS if sanitize else ()), "-x", "c++", str(source), "-o", str(library),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return library


class HostRuntime:
    """What `raw_loader.CupyRuntime` is to a GPU, on the host."""

    xp = np
    multiprocessors = 1
    backwards = False

    def __init__(self, library):
        self._library = ctypes.CDLL(str(library))
        self.launched = []

    def size_of_problem(self):
        return self._library.size_of_problem()

    def view(self, array):
        return array

    def adopt(self, array):
        return as_bits(np.ascontiguousarray(array))

    def target(self, array):
        return self.empty(array.size, np.dtype(f"u{array.dtype.itemsize}"))

    def deliver(self, result, array):
        array[...] = result.view(array.dtype).reshape(array.shape)

    def empty(self, size, dtype):
        """Return an array of NaNs, or of numbers that no test expects, so that an element left out shows."""
        array = np.empty(size, dtype)
        array.view(np.uint8)[:] = 0xFF
        return array

    def pointer(self, array):
        return array.ctypes.data

    def synchronize(self):
        """Nothing runs on its own."""

    def launch(self, instance, name, grid, threads, shared, struct):
        self.launched.append((name, grid))
        start = getattr(self._library, f"start_{name}")
        start.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
        size = np.array(grid, np.int64)
        start(size.ctypes.data, threads, shared, int(self.backwards), struct.ctypes.data)
