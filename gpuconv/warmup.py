"""`gpuconv warmup`: compiles the kernels of every CPU algorithm into the cache, before anybody waits for them.

The kernels are shape-generic, yet a shape may decide which of several an algorithm takes. No algorithm's choice is
known here: many small problems of different channels, kernels, strides, sizes and layouts are run through each of them,
and filters of images, whose weights and dtypes `gpuconv.ndimage` gives in its own way.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from gpuconv import dispatch
from gpuconv.dtypes import SUPPORTED
from gpuconv.errors import UnsupportedError
from gpuconv.progress import Progress
from gpuconv.workload import Workload, random_array

__all__ = ["warm_up", "workloads"]

_BACKEND = "cpu"
_FILTERS = "filters"


def workloads() -> tuple[Workload, ...]:
    """Return small problems that between them reach every kernel."""
    return tuple(_workloads())


def _operations(rank: int, x: tuple[int, ...], w: tuple[int, ...], **arguments: Any) -> Iterator[Workload]:
    """Yield every operation on one problem."""
    for function in (f"conv{rank}d", f"grad.conv{rank}d_input", f"grad.conv{rank}d_weight"):
        yield Workload(function, x, w, arguments)
    if arguments.get("padding_mode", "zeros") == "zeros":
        # The transpose reads as many channels as the forward call writes.
        is_last = arguments.get("layout") == "channels_last"
        y = (*x[:-1], w[0]) if is_last else (x[0], w[0], *x[2:])
        yield Workload(f"conv_transpose{rank}d", y, w, arguments)


def _workloads() -> Iterator[Workload]:
    for outputs in (1, 3, 8, 24, 70):
        yield from _operations(2, (1, 2, 9, 12), (outputs, 2, 3, 3), padding=1)
    for rank in (1, 2, 3):
        for kernel in (1, 3, 5):
            size, taps = (8,) * rank, (kernel,) * rank
            for stride in (1, 2):
                yield from _operations(rank, (1, 3, *size), (4, 3, *taps), stride=stride, padding=kernel // 2)
            yield from _operations(rank, (1, 24, *size), (24, 24, *taps), padding=kernel // 2)
            yield from _operations(rank, (1, *size, 24), (24, 24, *taps), padding=kernel // 2, layout="channels_last")
            yield from _operations(rank, (1, 6, *size), (6, 1, *taps), padding=kernel // 2, groups=6)
    for kernel, stride in ((7, 1), (3, 2), (5, 2), (7, 2)):
        arguments = {"padding": kernel // 2, "stride": stride, "groups": 6}
        yield Workload("conv2d", (1, 6, 8, 8), (6, 1, kernel, kernel), arguments)
    yield from _operations(2, (2, 3, 4, 4), (4, 3, 4, 4))
    for mode in ("nearest", "wrap"):
        yield from _operations(2, (1, 24, 9, 9), (24, 24, 3, 3), padding=1, padding_mode=mode)
    # Sizes of output around those of tiles, for kernels of every orientation.
    for high, wide in ((3, 3), (1, 3), (3, 1), (5, 5), (1, 5), (5, 1)):
        for height, width in ((2, 2), (3, 3), (4, 4), (6, 6), (7, 5), (8, 16), (30, 30)):
            for channels in (16, 70):
                yield Workload(
                    "conv2d", (1, channels, height, width), (32, channels, high, wide),
                    {"padding": (high // 2, wide // 2)},
                )  # fmt: skip
    yield Workload("conv2d", (1, 3, 20, 20), (4, 3, 7, 7), {"stride": 2, "padding": 3})
    # Maps of other sizes take other tiles; with a stride, a kernel's parts have fewer taps.
    for kernel, stride, sizes in ((3, 1, (28, 56)), (3, 2, (8, 10, 20, 40)), (4, 1, (8,)), (5, 2, (16, 31))):
        for n in sizes:
            arguments = {"padding": kernel // 2, "stride": stride}
            yield Workload("conv2d", (1, 64, n, n), (64, 64, kernel, kernel), arguments)
    for n in (2, 3, 4, 6, 7, 100):
        for kernel in (3, 5):
            yield Workload("conv1d", (1, 16, n), (32, 16, kernel), {"padding": kernel // 2})
    for n in (2, 3, 4, 6, 7, 9):
        yield Workload("conv2d", (1, 32, n, n), (32, 32, 3, 3), {"padding": 2, "dilation": 2})
    # Signals: long kernels are parts of four taps, a transposed stride leaves two.
    yield Workload("conv1d", (1, 16, 100), (32, 16, 7), {"padding": 3})
    for n in (6, 8, 500):
        yield Workload("conv_transpose1d", (1, 32, n), (32, 32, 4), {"padding": 1, "stride": 2})


def warm_up(dtypes: Sequence[str] = ()) -> int:
    """Run every workload through every CPU algorithm that serves it, and return how many runs that took.

    Parameters
    ----------
    dtypes : sequence of str
        The dtypes to compile for; all that can be computed in here by default.
    """
    found = importlib.util.find_spec("ml_dtypes") is not None
    dtypes = tuple(dtypes) or tuple(name for name in SUPPORTED if found or name != "bfloat16")
    algorithms = dispatch.backend(_BACKEND).ALGORITHMS
    steps = [(dtype, name) for dtype in dtypes for name in (*algorithms, _FILTERS)]
    bar, runs = Progress(len(steps)), 0
    for done, (dtype, name) in enumerate(steps):
        bar.show(done, f"{dtype} {name}")
        runs += _filters(dtype) if name == _FILTERS else sum(_run(work, dtype, name) for work in workloads())
    bar.show(len(steps), f"{runs} runs")
    bar.close()
    return runs


def _filters(dtype: str) -> int:
    """Filter a small image and a larger one by SciPy's filters, and return how many runs that took."""
    from gpuconv import ndimage

    weights, runs = random_array((3, 3), "float32"), 0
    for size in (12, 300):
        image = random_array((size, size), dtype)
        for function, arguments, more in (
            (ndimage.correlate, (weights,), {}), (ndimage.correlate1d, (weights[0],), {}),
            (ndimage.uniform_filter, (5,), {}), (ndimage.uniform_filter, (15,), {}),
            (ndimage.uniform_filter, (63,), {}),
            (ndimage.gaussian_filter, (1.0,), {}),
            (ndimage.gaussian_filter, (6.0,), {}), (ndimage.sobel, (), {}), (ndimage.laplace, (), {}),
            (ndimage.correlate, (weights,), {"precision": "highest"}), (ndimage.correlate, (weights,), {"step": 2}),
        ):  # fmt: skip
            try:
                function(image, *arguments, **more)
            except (NotImplementedError, TypeError, RuntimeError):  # dtypes that SciPy does not filter either
                continue
            runs += 1
    return runs


def _run(work: Workload, dtype: str, algorithm: str) -> bool:
    """Run one workload, and say whether the algorithm serves it."""
    try:
        work.prepare(dtype, backend=_BACKEND, algorithm=algorithm)()
    except UnsupportedError:
        return False
    return True
