"""What an algorithm says it takes besides the arrays is what a call allocates, but for tables of a few kilobytes."""

import numpy as np
import pytest
from support import Engine, inputs
from test_arrays import Foreign

import gpuconv
from gpuconv.backends import cuda
from gpuconv.backends.cuda import interop, launch, memory
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

CALLS = {
    "dense": (((1, 40, 9, 11), (48, 40, 3, 3), {"padding": 1}), "forward"),
    "transposed": (((1, 64, 2, 2), (96, 64, 2, 2), {"stride": 2, "padding": 1}), "transposed"),
    "image": (((1, 1, 4, 5), (1, 1, 12, 12), {"padding": 6}), "forward"),
}
PAIRS = [(name, algorithm) for name in CALLS for algorithm in ("direct", "implicit_gemm")]


@pytest.mark.parametrize(("name", "algorithm"), [*PAIRS, ("dense", "winograd"), ("image", "stencil")])
def test_stated_workspace_is_what_is_taken(name, algorithm, monkeypatch):
    (x, w, arguments), operation = CALLS[name]
    dtype = "complex64" if (name, algorithm) == ("transposed", "direct") else "float32"
    call, engine = Call(ConvProblem.make(x, w, **arguments), operation, dtype), Engine("cuda", algorithm)
    assert engine.reason(call) is None
    monkeypatch.setattr(launch, "launch", lambda *arguments, **options: None)
    taken = []
    empty = launch.empty
    monkeypatch.setattr(launch, "empty", lambda n, kind, on=0: taken.append(n * kind.itemsize) or empty(n, kind, on))
    memory._resident.cache_clear()
    arrays = [interop.adopt(Foreign(a)) for a in inputs(call, "workspace")[:2]]
    out = interop.adopt(Foreign(np.zeros(call.problem.shapes(operation)[2], dtype)))
    engine.write(call, *arrays, out)
    assert 0 <= sum(taken) - engine.module.workspace(call) <= 8 << 10


def test_every_algorithm_states_its_workspace():
    for name in cuda.ALGORITHMS:
        assert callable(getattr(Engine("cuda", name).module, "workspace", None)), name
    plan = gpuconv.plan(gpuconv.conv1d, (1, 4), np.ones((1, 1, 3)), backend="cuda")
    assert plan.workspace_bytes > 0
