"""Compile every kernel for real GPUs, on a machine without one; started by test_compile_gate.py in its own process.

Each kernel is compiled once, to PTX for the oldest target, and that by ptxas, where there is one, for four targets;
kernels of other dtypes than float32, whose only difference is in the numbers, for two.
Prints a line of JSON with the compilers' versions, and one for each kernel: its name, whether it computes in double
precision, for each target what ptxas says, and for one target what nvdisasm finds in its inner loop. With an argument
only kernels whose names contain it; with ``--table`` the lines of the table of docs/kernels_cuda_registers.md, with
which the test compares. Ends with status 3 and the reason where NVIDIA's compiler libraries are missing.
"""

import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import types as python_types

import numba
import sass
from numba import types

try:
    from numba import cuda
except Exception as error:
    print(f"numba.cuda cannot be imported here ({type(error).__name__})")
    sys.exit(3)

import gate_kernels

OLDEST = (7, 5)
TARGETS = ("sm_80", "sm_90")
FLOAT32_TARGETS = ("sm_75", "sm_80", "sm_90", "sm_100")
LISTED = "sm_90"
"""The target whose machine code is looked at, of kernels that are about a loop of products."""
LOOPS = ("direct", "gradient", "implicit_gemm", "stencil")


def nothing():
    """Be the simplest kernel."""


def pretend_runtime():
    """Answer the question for the CUDA runtime's version, which Numba turns into a list of targets."""
    runtime = importlib.import_module("numba.cuda.cudadrv.runtime").runtime
    try:
        runtime.get_version()
    except Exception:
        runtime.get_version = lambda: (12, 9)


def require_compiler():
    """Leave with status 3 where not even the simplest kernel compiles, for want of NVIDIA's libraries."""
    try:
        pretend_runtime()
        cuda.compile(nothing, (), device=False, abi="numba", cc=OLDEST)
    except Exception as error:
        print(f"Numba cannot compile for CUDA here ({type(error).__name__})")
        sys.exit(3)


def pretend_device(capability):
    """Answer the question that Numba asks the driver before it compiles a device function."""
    dispatcher = importlib.import_module("numba.cuda.dispatcher")
    dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=capability)


def find_ptxas():
    beside = pathlib.Path(os.environ.get("CUDA_HOME", ""), "bin", "ptxas")
    return str(beside) if beside.is_file() else shutil.which("ptxas")


def resources(ptxas, source, target):
    """Return what ptxas reports: registers, bytes of spills and stack, and bytes of shared memory."""
    command = [ptxas, "-v", f"-arch={target}", source, "-o", source.with_suffix(".cubin")]
    log = subprocess.run(command, capture_output=True, text=True, check=False)
    if log.returncode != 0:
        return {"error": log.stderr[:500]}
    shared = re.search(r"(\d+) bytes smem", log.stderr)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log.stderr)[1]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes (?:spill|stack)", log.stderr))),
        "shared": int(shared[1]) if shared else 0,
    }


def find_nvdisasm():
    home = pathlib.Path(os.environ.get("CUDA_HOME", ""))
    found = [home / "bin" / "nvdisasm", *sorted(home.parent.glob("*/bin/nvdisasm"))]
    return next((str(path) for path in found if path.is_file()), shutil.which("nvdisasm"))


def listing(nvdisasm, cubin):
    return subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout


def version(program):
    if program is None:
        return None
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release ([\d.]+)", text)[1]


def rows(wanted):
    """Yield what is found of the compilers, then of each kernel."""
    ptxas, nvdisasm = find_ptxas(), find_nvdisasm()
    host = f"Numba {numba.__version__} on Python {sys.version_info.major}.{sys.version_info.minor}"
    yield {"compilers": f"{host}, ptxas {version(ptxas)}, nvdisasm {version(nvdisasm)}"}
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "kernel.ptx")
        for variant in gate_kernels.variants(types):
            if wanted not in variant.name:
                continue
            ptx, _ = cuda.compile(variant.function, variant.signature, device=False, abi="numba", cc=OLDEST)
            source.write_text(ptx)
            row = {
                "kernel": variant.name,
                "threads": variant.threads,
                "entry": ".entry" in ptx,
                "double": ".f64" in ptx,
                "targets": {},
            }
            for target in FLOAT32_TARGETS if "float32" in variant.name else TARGETS:
                if ptxas:
                    row["targets"][target] = resources(ptxas, source, target)
                if ptxas and nvdisasm and target == LISTED and variant.name.startswith(LOOPS):
                    products = sass.INTEGERS if "int" in variant.name and "float" not in variant.name else sass.FLOATS
                    row["mix"] = sass.mix(listing(nvdisasm, source.with_suffix(".cubin")), products)
            yield row


HEADER = """\
| kernel | threads | registers, sm_75 / 80 / 90 / 100 | spills | shared memory | multiply-adds | LDS.128 | LDG.128 |
|---|---|---|---|---|---|---|---|"""


def line(row):
    """Return a kernel's line of the table."""
    targets = row["targets"]
    registers = " / ".join(str(targets[t]["registers"]) if t in targets else "-" for t in FLOAT32_TARGETS)
    spilled, shared = max(found["spilled"] for found in targets.values()), f"{targets[LISTED]['shared']:,}"
    cells = [row["kernel"], row["threads"], registers, spilled, shared, "-", "-", "-"]
    if "mix" in row:
        mix = row["mix"]
        cells[5:] = f"{mix['multiply_adds']} of {mix['loop']}", mix["shared_128"], mix["global_128"]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    require_compiler()
    pretend_device(OLDEST)
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    found = rows(names[0] if names else "")
    if "--table" not in sys.argv:
        for row in found:
            print(json.dumps(row), flush=True)
        return
    print(f"{next(found)['compilers']}.\n\n{HEADER}")
    for row in found:
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
