"""Compile every kernel for real GPUs, on a machine without one; started by test_compile_gate.py in its own process.

Prints a line of JSON for each kernel and target: its name, the target, and what ptxas says where there is a ptxas. Ends
with status 3 and the reason where Numba finds no NVVM library.
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

from numba import cuda, types

from gpuconv import tuning
from gpuconv.backends.cuda import direct_kernels

TARGETS = ((8, 0), (9, 0))


def kernels():
    """Yield the name, the Python function and the argument types of every kernel."""
    for dtype, tiles in tuning.CUDA_DIRECT_TILES.items():
        scalar = getattr(types, dtype)
        array, numbers = scalar[::1], types.int64[::1]
        for tile in tiles:
            for halo in (True, False):
                name = f"direct {dtype} {tile.positions}x{tile.outputs} {'halo' if halo else 'single'}"
                signature = (array, array, array, array, scalar, numbers, types.int64)
                yield name, direct_kernels.convolution(dtype, tile, halo).py_func, signature
        yield f"fold {dtype}", direct_kernels.fold(dtype).py_func, (array, array, numbers)


def require_nvvm():
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as error:
        print(f"Numba finds no NVVM library: {type(error).__name__}")
        sys.exit(3)


def pretend_device(capability):
    """Answer the question that Numba asks the driver before it compiles a device function."""
    dispatcher = importlib.import_module("numba.cuda.dispatcher")
    dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=capability)


def find_ptxas():
    beside = pathlib.Path(os.environ.get("CUDA_HOME", ""), "bin", "ptxas")
    return str(beside) if beside.is_file() else shutil.which("ptxas")


def resources(ptxas, ptx, target):
    """Return the registers, spilled bytes and bytes of shared memory that ptxas reports."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [ptxas, "-v", f"-arch=sm_{target[0]}{target[1]}", source, "-o", source.with_suffix(".cubin")]
        log = subprocess.run(command, capture_output=True, text=True, check=False)
    if log.returncode != 0:
        return {"error": log.stderr[:500]}
    shared = re.search(r"(\d+) bytes smem", log.stderr)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log.stderr)[1]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", log.stderr))),
        "shared": int(shared[1]) if shared else 0,
    }


def main():
    require_nvvm()
    ptxas = find_ptxas()
    for target in TARGETS:
        pretend_device(target)
        for name, function, signature in kernels():
            ptx, _ = cuda.compile(function, signature, device=False, abi="numba", cc=target)
            row = {"kernel": name, "target": f"sm_{target[0]}{target[1]}", "entry": ".entry" in ptx}
            print(json.dumps(row | (resources(ptxas, ptx, target) if ptxas else {})), flush=True)


if __name__ == "__main__":
    main()
