"""`gpuconv bench --backend cuda`: this GPU beside torch (cuDNN) and CuPy's filters, on arrays in the GPU's memory.

The libraries take turns within each case, and each one's least time counts, as events on the GPU measure it: launches
are part of it, transfers are not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuconv.benchmark import OURS, Report, Row
from gpuconv.errors import BackendUnavailableError
from gpuconv.workload import Workload

__all__ = ["CASES", "GROUPS", "Case", "least_time", "run", "to_device"]

PEERS = {"torch": "torch", "cupyx": "cupyx.scipy.ndimage"}
"""Libraries to compare with, and the modules that they are imported as."""
_TURNS = 5
_TOLERANCE = 1e-3
"""Of the largest value: torch's Winograd rounds more than a direct sum does."""


class Case(NamedTuple):
    """One line of the table: a call on float32 arrays."""

    group: str
    name: str
    work: Workload

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition."""
        return self.work.problem.flops


def _case(group: str, name: str, function: str, x: Any, w: Any, **arguments: Any) -> Case:
    return Case(group, name, Workload(function, x, w, arguments))


def _image(name: str, size: int, taps: int, mode: str = "mirror") -> Case:
    padding = {"padding": taps // 2, "padding_mode": mode}
    return _case("filters", name, "conv2d", (1, 1, size, size), (1, 1, taps, taps), **padding)


CASES = (
    _case("3x3", "64 channels, 56x56, batch 64", "conv2d", (64, 64, 56, 56), (64, 64, 3, 3), padding=1),
    _case("3x3", "256 channels, 14x14, batch 64", "conv2d", (64, 256, 14, 14), (256, 256, 3, 3), padding=1),
    _case("3x3", "512 channels, 7x7, batch 64", "conv2d", (64, 512, 7, 7), (512, 512, 3, 3), padding=1),
    _case("1x1", "256 to 64 channels, 56x56", "conv2d", (32, 256, 56, 56), (64, 256, 1, 1)),
    _case("strided", "7x7, 3 to 64 channels, 224x224", "conv2d", (32, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    _case("dilated", "3x3, 256 channels, by 4", "conv2d", (8, 256, 64, 64), (256, 256, 3, 3), padding=4, dilation=4),
    _case("grouped", "3x3, 32 groups of 4, 56x56", "conv2d", (32, 128, 56, 56), (128, 4, 3, 3), padding=1, groups=32),
    _case("depthwise", "3x3, 144 channels, 56x56", "conv2d", (32, 144, 56, 56), (144, 1, 3, 3), padding=1, groups=144),
    _case("depthwise", "7x7, 96 channels, 56x56", "conv2d", (32, 96, 56, 56), (96, 1, 7, 7), padding=3, groups=96),
    _case("depthwise", "31x31, 64 channels, 64x64", "conv2d", (8, 64, 64, 64), (64, 1, 31, 31), padding=15, groups=64),
    _case(
        "transposed", "4x4, stride 2, 128 to 64", "conv_transpose2d", (16, 128, 32, 32), (128, 64, 4, 4),
        stride=2, padding=1,
    ),
    _case("1-d and 3-d", "9 taps, 128 channels, 16000", "conv1d", (16, 128, 16_000), (128, 128, 9), padding=4),
    _case("1-d and 3-d", "3x3x3, 32 channels, 64x64x64", "conv3d", (2, 32, 64, 64, 64), (32, 32, 3, 3, 3), padding=1),
    _case("gradients", "3x3 by x, 128 channels", "grad.conv2d_input", (32, 128, 28, 28), (128, 128, 3, 3), padding=1),
    _case("gradients", "3x3 by w, 128 channels", "grad.conv2d_weight", (32, 128, 28, 28), (128, 128, 3, 3), padding=1),
    _image("3x3, 4096x4096", 4096, 3),
    _image("7x7, 4096x4096", 4096, 7),
    _image("15x15, 4096x4096", 4096, 15),
    _image("31x31, 4096x4096", 4096, 31),
)  # fmt: skip

GROUPS = tuple(dict.fromkeys(case.group for case in CASES))


def run(
    groups: Sequence[str],
    seconds: float,
    cases: Sequence[Case] = CASES,
    timer: Callable[[Callable[[], Any], float], float] | None = None,
) -> Report:
    """Time the cases of some groups on the GPU, with a bar on stderr.

    Parameters
    ----------
    groups : sequence of str
    seconds : float
        To spend on one library and case.
    cases : sequence of Case, optional
    timer : callable, optional
        ``timer(function, seconds)`` gives the least time of a call; by default events on the GPU do.

    Raises
    ------
    BackendUnavailableError
        If no GPU can be used; the message says what is missing.
    """
    from gpuconv import __version__
    from gpuconv.backends import cuda
    from gpuconv.progress import Progress

    missing = cuda.unavailable()
    if missing is not None:
        raise BackendUnavailableError(f"backend='cuda' is not available: {missing}")
    modules = {name: importlib.import_module(m) for name, m in PEERS.items() if _found(m)}
    if "torch" in modules and not modules["torch"].cuda.is_available():
        del modules["torch"]
    todo = [case for case in cases if case.group in groups]
    bar, rows = Progress(len(todo)), []
    with _strict_float32(modules):
        for i, case in enumerate(todo):
            bar.show(i, f"{case.group}: {case.name}")
            rows.append(_row(case, modules, seconds, timer or least_time))
    bar.show(len(todo), "done")
    bar.close()
    versions = {OURS: __version__}
    if "torch" in modules:
        versions["torch"] = str(modules["torch"].__version__)
    if "cupyx" in modules:
        versions["cupyx"] = str(importlib.import_module("cupy").__version__)
    return Report(tuple(rows), versions, cuda.device().name, 0)


def _found(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


@contextlib.contextmanager
def _strict_float32(modules: dict[str, Any]) -> Any:
    """Have torch compute float32 without TF32, as `precision` "highest" means, and find its fastest algorithm."""
    if "torch" not in modules:
        yield
        return
    torch = modules["torch"]
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = kept


def _row(case: Case, modules: dict[str, Any], seconds: float, timer: Callable[..., float]) -> Row:
    runs = _runs(case, modules)
    results = {name: _host(function()) for name, function in runs.items()}  # the first call compiles
    limit = _TOLERANCE * float(np.abs(results[OURS]).max(initial=0.0))
    wrong = tuple(
        sorted({name.partition(" ")[0] for name in runs if not np.allclose(results[OURS], results[name], 0, limit)})
    )
    del results
    best = dict.fromkeys((name.partition(" ")[0] for name in runs), math.inf)
    for _ in range(_TURNS):
        for name, function in runs.items():
            library = name.partition(" ")[0]
            best[library] = min(best[library], timer(function, seconds / _TURNS))
    return Row(case.group, case.name, case.flops, best, wrong)


def _runs(case: Case, modules: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return each library's call on arrays in the GPU's memory; torch has one for each memory format."""
    from gpuconv import api, grad

    work = case.work
    positional = work.positional("float32")
    name = work.function.rpartition(".")[2]
    ours = getattr(grad if "grad." in work.function else api, name)
    there = [a if isinstance(a, tuple) else to_device(a) for a in positional]
    runs: dict[str, Callable[[], Any]] = {OURS: functools.partial(ours, *there, **work.arguments)}
    zeros = work.problem.padding_mode == "zeros"
    if "torch" in modules and zeros:
        torch = modules["torch"]
        home = importlib.import_module("torch.nn.grad" if "grad." in work.function else "torch.nn.functional")
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for words in ("torch", "torch channels_last"):
            tensors = []
            for a in positional:
                tensor: Any = a if isinstance(a, tuple) else torch.from_numpy(a).cuda()
                if words != "torch" and not isinstance(a, tuple) and a.ndim in formats:
                    tensor = tensor.contiguous(memory_format=formats[a.ndim])
                tensors.append(tensor)
            runs[words] = functools.partial(getattr(home, name), *tensors, **work.arguments)
    if "cupyx" in modules and case.group == "filters":
        cupy = importlib.import_module("cupy")
        image, w = (cupy.asarray(a[0, 0]) for a in positional)
        runs["cupyx"] = functools.partial(modules["cupyx"].correlate, image, w, mode=work.arguments["padding_mode"])
    return runs


def to_device(array: Any) -> Any:
    """Return a NumPy array's copy in the GPU's memory, as CuPy's array where CuPy is installed, else as Numba's."""
    if _found("cupy"):
        return importlib.import_module("cupy").asarray(array)
    return importlib.import_module("numba.cuda").to_device(array)


def _host(array: Any) -> Any:
    """Return any library's array as NumPy's, without the axes of one element in front."""
    for method in ("cpu", "get", "copy_to_host"):
        if hasattr(array, method):
            array = getattr(array, method)()
            break
    array = np.asarray(array)
    return array[0, 0] if array.shape[:2] == (1, 1) and array.ndim == 4 else array


def least_time(function: Callable[[], Any], seconds: float) -> float:
    """Return the least time of a call, by events on the legacy default stream, which waits for all others."""
    cuda = importlib.import_module("numba.cuda")
    best, spent = math.inf, 0.0
    while True:
        start, end = cuda.event(timing=True), cuda.event(timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        took: float = cuda.event_elapsed_time(start, end) / 1e3
        best, spent = min(best, took), spent + took
        if spent >= seconds:
            return best
