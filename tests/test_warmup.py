"""`gpuconv warmup`: what it compiles, no later process compiles again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from support import python

from gpuconv import cli, dispatch, warmup
from gpuconv.problem import OPERATIONS
from gpuconv.workload import Workload

if TYPE_CHECKING:
    import pytest

_WARM = """
from gpuconv import cli, warmup
warmup._filters = lambda dtype: 0  # they compile kernels of other dtypes, too, which takes long
cli.main(['warmup', '--dtype', 'int16'])
"""
_CALLS = """
from numba.core import event
class Names(list, event.Listener):
    def on_start(self, found):
        function = found.data["dispatcher"].py_func
        if function.__module__.startswith("gpuconv"):
            self.append(function.__qualname__)
    def on_end(self, found):
        pass
names = Names()
event.register("numba:compile", names)
import numpy as np, gpuconv
for rank in (1, 2, 3):
    for size, channels, kernel in ((9, 5, 2), (17, 33, 3), (30, 1, 7)):
        x, w = np.ones((2, channels) + (size,) * rank, np.int16), np.ones((40, channels) + (kernel,) * rank, np.int16)
        y = getattr(gpuconv, f"conv{rank}d")(x, w, stride=2)
        getattr(gpuconv.grad, f"conv{rank}d_weight")(x, w.shape, y, stride=2)
        getattr(gpuconv, f"conv_transpose{rank}d")(y, w)
print(*names)
"""


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_after_a_warmup_nothing_is_compiled(tmp_path: Path) -> None:
    python(_WARM, timeout=300, NUMBA_CACHE_DIR=str(tmp_path))
    before = files(tmp_path)
    assert before
    assert python(_CALLS, NUMBA_CACHE_DIR=str(tmp_path)).split() == []
    python(_WARM, NUMBA_CACHE_DIR=str(tmp_path))
    assert files(tmp_path) == before


def test_every_algorithm_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With functions that note what they were called for, and compute nothing."""
    reached = set()
    for name in dispatch.backend("cpu").ALGORITHMS:
        module = dispatch.algorithm("cpu", name)
        monkeypatch.setattr(module, "run", lambda call, *_, name=name: reached.add((name, call.operation)))
    with np.errstate(all="ignore"):  # of results that nobody wrote
        warmup.warm_up(["float32", "complex64"])
    assert {name for name, _ in reached} == set(dispatch.backend("cpu").ALGORITHMS)
    assert {("direct", operation) for operation in OPERATIONS} <= reached


def test_only_served_calls_are_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one = Workload("grad.conv1d_weight", (1, 2, 5), (2, 2, 3), {})
    monkeypatch.setattr(warmup, "workloads", lambda: (one,))
    monkeypatch.setattr(warmup, "_filters", lambda dtype: 1000)
    device, call, names = dispatch.backend("cpu").device(), one.call("int16"), dispatch.backend("cpu").ALGORITHMS
    served = [name for name in names if dispatch.algorithm("cpu", name).supports(call, device) is None]
    assert warmup.warm_up(["int16"]) == 1000 + len(served) < 1000 + len(names)
    assert capsys.readouterr().err.endswith(f"{len(names) + 1}/{len(names) + 1} {1000 + len(served)} runs\n")


def test_an_unknown_dtype_is_an_argument_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["warmup", "--dtype", "float8"]) == 2
    assert capsys.readouterr().err.startswith("gpuconv warmup: --dtype float8 is not supported; valid are float16")
