"""Every kernel compiles for real GPUs: the simulator has no types, and accepts what a compiler refuses."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
import sass

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.xdist_group("compile gate")  # one compilation serves all tests here


def environment():
    """Return the environment of a process whose Numba finds the NVVM library of the wheel nvidia-cuda-nvcc-cu12."""
    found = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parents[1]), found.get("PYTHONPATH")]))
    spec = importlib.util.find_spec("nvidia")
    for folder in map(pathlib.Path, spec.submodule_search_locations or () if spec else ()):
        library = folder / "cuda_nvcc" / "nvvm" / "lib64"
        if library.is_dir():
            found["CUDA_HOME"] = str(folder / "cuda_nvcc")
            found["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(library), found.get("LD_LIBRARY_PATH")]))
    return found


@pytest.fixture(scope="session")
def gate():
    if "CUDA_HOME" not in environment():
        pytest.skip("nvidia-cuda-nvcc-cu12 is not installed (gpuconv[gate] brings it, a compiler of its own version)")
    command = [sys.executable, str(HERE / "compile_gate.py")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900, check=False)
    if done.returncode == 3:
        pytest.skip(f"{done.stdout.strip()} (gpuconv[gate] brings what it needs)")
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def compiled(gate):
    return gate[1:]


def test_every_kernel_compiles(compiled):
    assert len(compiled) > 30
    assert [row["kernel"] for row in compiled if not row["entry"]] == []


def test_only_kernels_of_doubles_compute_in_double(compiled):
    assert {row["kernel"] for row in compiled if row["double"] and "float64" not in row["kernel"]} == set()
    assert {row["double"] for row in compiled if "float64" in row["kernel"]} == {True}


def test_kernels_fit_the_machine(compiled):
    if not compiled[0]["targets"]:
        pytest.skip("no ptxas (gpuconv[gate] brings one)")
    for row in compiled:
        for found in row["targets"].values():
            assert "error" not in found, row
            assert found["spilled"] == 0, row
            assert found["shared"] <= 48 * 1024, row
            assert found["registers"] * row["threads"] <= 65536, row


TABLE = HERE.parents[1] / "docs" / "kernels_cuda_registers.md"


def recorded():
    """Return the table's figures: registers of each target, spilled bytes, products of the loop, and wide loads."""
    rows = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    found = {}
    for kernel, _, registers, spilled, _, products, shared_128, global_128 in rows:
        loop = [int(n) for n in products.split(" of ")] if products != "-" else None
        loads = None if loop is None else (int(shared_128), int(global_128))
        found[kernel] = [r if r == "-" else int(r) for r in registers.split(" / ")], int(spilled), loop, loads
    return found


def test_nothing_got_worse_than_recorded(gate):
    if gate[0]["compilers"] not in TABLE.read_text():
        pytest.skip(
            f"{TABLE.name} was recorded with other compilers than {gate[0]['compilers']}: "
            "compile_gate.py --table prints it anew"
        )
    table, targets = recorded(), ("sm_75", "sm_80", "sm_90", "sm_100")
    names = {row["kernel"] for row in gate[1:]}
    assert not set(table) - names, "kernels that are no more"
    # `compile_gate.py --table NAME` prints the lines of kernels whose names contain NAME.
    assert not {row["kernel"] for row in gate[1:] if "mix" in row} - set(table), "kernels of products without a line"
    for row in gate[1:]:
        if row["kernel"] not in table:
            continue
        registers, spilled, loop, loads = table[row["kernel"]]
        for target, most in zip(targets, registers, strict=True):
            assert (target in row["targets"]) == (most != "-"), row
            if most != "-":
                assert row["targets"][target]["registers"] <= most, (target, most, row)
                assert row["targets"][target]["spilled"] <= spilled, (target, row)
        assert ("mix" in row) == (loop is not None), row
        if loop is not None:
            mix = row["mix"]
            assert mix["multiply_adds"] * loop[1] >= loop[0] * mix["loop"], (loop, row)
            assert mix["shared_128"] >= loads[0], (loads, row)
            assert mix["global_128"] >= loads[1], (loads, row)


LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_0:
        /*0020*/                   LDS.128 R8, [R0] ;
        /*0030*/                   FFMA R4, R8, R9, R4 ;
        /*0040*/              @!P0 IMAD.MOV.U32 R3, RZ, RZ, R5 ;
        /*0050*/                   FFMA R5, R8, R9, R5 ;
        /*0060*/               @P0 BRA `(.L_x_0) ;
        /*0070*/                   FFMA R5, R8, R9, R5 ;
        /*0080*/               @P1 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
.L_x_2:
        /*00a0*/                   BRA `(.L_x_2);
"""


def test_the_inner_loop_is_the_innermost_one():
    assert sass.loops(LISTING) == [["LDS.128", "FFMA", "IMAD.MOV.U32", "FFMA", "BRA"]]
    assert sass.mix(LISTING) == {"loop": 5, "multiply_adds": 2, "shared_128": 1, "global_128": 1}
    assert sass.mix("")["loop"] == 0
