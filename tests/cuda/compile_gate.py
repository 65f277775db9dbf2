"""Compile every kernel for real GPUs, on a machine without one; started by test_compile_gate.py in its own process.

Each kernel is compiled once, to PTX for the oldest target, and that by ptxas, where there is one, for four targets;
kernels of other dtypes than float32, whose only difference is in the numbers, for two.
Prints a line of JSON for each kernel: its name, whether it computes in double precision, and for each target what
ptxas says. With an argument only kernels whose names contain it. Ends with status 3 and the reason where NVIDIA's
compiler libraries are missing.
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


def main():
    require_compiler()
    pretend_device(OLDEST)
    ptxas, wanted = find_ptxas(), sys.argv[1] if len(sys.argv) > 1 else ""
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
            }
            targets = FLOAT32_TARGETS if "float32" in variant.name else TARGETS
            found = {target: resources(ptxas, source, target) for target in targets} if ptxas else {}
            print(json.dumps({**row, "targets": found}), flush=True)


if __name__ == "__main__":
    main()
