"""Compile the raw kernels for real GPUs, on a machine without one; started by test_raw_gate.py in its own process.

Prints a line of JSON for each kernel and target: registers, spilled bytes, shared memory and, where there is an
nvdisasm, how often the instructions occur that the kernels are about. ``--all`` takes every kernel that can be chosen
and not only some of each kind, ``--table`` prints the table of docs/kernels_cuda_raw.md; a word, only kernels whose
names contain it. Ends with status 3 and the reason where NVIDIA's compiler library is missing.
"""

import collections
import ctypes
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from gpuconv.backends.cuda.raw_loader import compile_cubin
from gpuconv.gpu_checks import every_kernel

TARGETS = ("sm_80", "sm_90")
COUNTED = ("HMMA", "IMMA", "LDSM", "LDGSTS", "LDG", "LDS", "DFMA", "LDL", "STL")


SOME = (
    "implicit_gemm_Float16_vector_128x128_gelu",
    "implicit_gemm_TF32_gather_128x64",
    "implicit_gemm_Int8_vector_128x128",
    "weight_gradient_BFloat16_vector_128x128",
    "weight_gradient_TF32x3_vector_128x64",
    "weight_gradient_UInt8_planes_64x32",
    "depthwise_Float16_7",
    "depthwise_Float32_any",
    "depthwise_Float16_7_gelu",
    "stencil_Float32_7x7_at1",
    "stencil_Float16_anyx31_at1",
    "stencil_UInt8_3x3_at15",
)


def kernels(*, every):
    """Return every kernel, or some of each kind."""
    # An activation lengthens the code after the products; gelu's is the longest.
    found = [kernel for kernel in (*every_kernel(), *every_kernel("gelu")) if every or kernel.name in SOME]
    assert every or len(found) == len(SOME)
    return found


def packaged(pattern):
    """Return the first file of NVIDIA's packages that matches."""
    spec = importlib.util.find_spec("nvidia")
    for folder in map(pathlib.Path, spec.submodule_search_locations or () if spec else ()):
        for path in sorted(folder.glob(pattern)):
            return str(path)
    return None


class Nvrtc:
    """The library, under the names of CuPy's binding."""

    def __init__(self, path):
        self._library = ctypes.CDLL(path)

    def _call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {self._library.nvrtcGetErrorString(status).decode()}")

    def _text(self, name, program):
        size = ctypes.c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(name, program, buffer)
        return buffer.raw

    def getVersion(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def createProgram(self, source, name, headers, names):
        program = ctypes.c_void_p()
        texts = ctypes.c_char_p * len(headers)
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), len(headers),
            texts(*headers), texts(*names),
        )  # fmt: skip
        return program

    def compileProgram(self, program, options):
        texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        self._call("nvrtcCompileProgram", program, len(options), texts)

    def getProgramLog(self, program):
        return self._text("nvrtcGetProgramLog", program).decode()

    def getCUBIN(self, program):
        return self._text("nvrtcGetCUBIN", program)

    def destroyProgram(self, program):
        self._call("nvrtcDestroyProgram", ctypes.byref(program))


def library():
    """Return NVRTC, or leave with status 3."""
    for path in (packaged("*/lib/libnvrtc.so.1[0-9]"), "libnvrtc.so.13", "libnvrtc.so.12"):
        if path is not None:
            try:
                return Nvrtc(path)
            except OSError:
                continue
    print("there is no NVRTC")
    sys.exit(3)


def resources(log, name):
    """Return the registers and spilled bytes that the compiler reports of one kernel."""
    (part,) = (text for text in log.split("Compiling entry function")[1:] if f"'{name}'" in text.splitlines()[0])
    return {
        "registers": int(re.search(r"Used (\d+) registers", part)[1]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", part))),
    }


def instructions(nvdisasm, cubin, name):
    """Return how often each counted instruction occurs in one kernel, and how many there are."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=True).stdout
    text = listing.split(f".text.{name}:")[1].split(".section")[0]
    found = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", text, re.MULTILINE)
    counts = collections.Counter(word.split(".")[0] for word in found)
    wide = sum(word.startswith(("LDGSTS", "LDG")) and ".128" in word for word in found)
    return {"instructions": len(found), "wide_loads": wide} | {word: counts[word] for word in COUNTED}


def main():
    nvrtc, nvdisasm = library(), packaged("*/bin/nvdisasm") or shutil.which("nvdisasm")
    rows, word = [], next((word for word in sys.argv[1:] if not word.startswith("--")), "")
    for target in TARGETS:
        for kernel in (one for one in kernels(every="--all" in sys.argv) if word in one.name):
            compiled = compile_cubin(nvrtc, kernel, target)
            row = {
                "kernel": kernel.name, "target": target, "compiler": nvrtc.getVersion(),
                "shared": getattr(kernel, "shared", 0), "integer": "Int8" in kernel.name,
                "reads": getattr(kernel, "reads", "chunks"), **resources(compiled.log, kernel.name),
            }  # fmt: skip
            if nvdisasm:
                row |= instructions(nvdisasm, compiled.cubin, kernel.name)
            rows.append(row)
            if "--table" not in sys.argv:
                print(json.dumps(row), flush=True)
    if "--table" in sys.argv:
        table(rows)


def table(rows):
    """Print a line of Markdown for each kernel, with the figures of both targets."""
    print(f"NVRTC {'.'.join(map(str, rows[0]['compiler']))}")
    print("| kernel | registers 8.0 / 9.0 | spills | shared memory, bytes | HMMA or IMMA | LDSM | 128-bit loads |")
    print("|---|---|---|---|---|---|---|")
    for one in (row for row in rows if row["target"] == TARGETS[0]):
        other = next(r for r in rows if r["kernel"] == one["kernel"] and r["target"] == TARGETS[1])
        products = other.get("HMMA", 0) + other.get("IMMA", 0)
        print(
            f"| {one['kernel']} | {one['registers']} / {other['registers']} | {one['spilled'] + other['spilled']} "
            f"| {one['shared']:,} | {products} | {other.get('LDSM', '-')} | {other.get('wide_loads', '-')} |"
        )


if __name__ == "__main__":
    main()
