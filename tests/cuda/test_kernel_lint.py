"""The kernels keep the rules of `kernel_lint`, and it finds what breaks them."""

import pathlib

import kernel_lint
import pytest

import gpuconv

FOLDER = pathlib.Path(gpuconv.__file__).parent / "backends" / "cuda"
FILES = sorted(path for path in FOLDER.glob("*.py") if "launch.compile_" in path.read_text())


def test_there_are_kernels():
    assert {"direct_kernels.py", "stencil_kernels.py", "memory_kernels.py"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kernels_keep_the_rules(path):
    assert kernel_lint.lint(path) == []


BROKEN = {
    "an index that may be negative": "y[i64(x.size) - meta[0]] = x[0]",
    "an index that may be negative (literal)": "y[-1] = x[0]",
    "a return from a kernel": "if meta[0] > 3:\n        return\n    cuda.syncthreads()",
    "a condition around a barrier": "t = cuda.threadIdx.x\n    if t < meta[0]:\n        cuda.syncthreads()",
    "a condition around a barrier (in steps)": (
        "t = cuda.threadIdx.x\n    a = i64(0)\n    if t > 3:\n        a = i64(1)\n    b = x[a]\n"
        "    while b < 2:\n        cuda.syncthreads()"
    ),
    "a loop around a barrier": "for i in range(cuda.threadIdx.x):\n        cuda.syncthreads()",
    "two shared arrays in one line": "a = cuda.shared.array(3, u32); b = cuda.shared.array(3, u32)",
    "a division with /": "y[0] = x[0] / x[1]",
    "a literal of a double": "y[0] = x[0] * 0.5",
    "unsigned and signed integers": "a = u64(3)\n    y[a + meta[0]] = x[0]",
    "unsigned and signed integers (literal)": "a = u64(3)\n    y[a + 1] = x[0]",
    "unsigned and signed integers (comparison)": "b = u32(x[0])\n    if b < i64(4):\n        y[0] = x[0]",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_lint_finds(fault, tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text(f"def kernel(x, y, meta):\n    {BROKEN[fault]}\n\n\nlaunch.compile_kernel(kernel)\n")
    found = kernel_lint.lint(path)
    assert len(found) == 1, found
    assert fault.partition(" (")[0] in found[0]
