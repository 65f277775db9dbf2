"""The command `gpuconv`: `filter` images, `explain` a convolution, `bench`, `tune`, `warmup`, `info`.

Exit status: 0, or 1 if a file failed, 2 for bad arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main"]

_FUNCTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


class _UsageError(Exception):
    """Arguments that make no sense together; the message is the line to print."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Examples
    --------
    >>> main(["explain", "conv2d", "--x", "1,3,8,8", "--w", "4,3,3,3"])  # doctest: +ELLIPSIS
    forward 2d, float32, precision 'high'
      x (1, 3, 8, 8)  w (4, 3, 3, 3)  y (1, 4, 6, 6)
    ...
    0
    """
    name = "gpuconv"
    try:
        arguments = _parser().parse_args(_joined(list(sys.argv[1:] if argv is None else argv)))
        name = f"gpuconv {arguments.command}"
        return int(arguments.run(arguments))
    except _UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _joined(argv: list[str]) -> list[str]:
    """Write ``--kernel VALUE`` as one word: argparse would take a value like "-1,0,1" for an option."""
    for name in ("--kernel", "--padding"):
        if name in argv[:-1]:
            at = argv.index(name)
            argv[at : at + 2] = [f"{name}={argv[at + 1]}"]
    return argv


def _parser() -> argparse.ArgumentParser:
    from gpuconv import __version__
    from gpuconv.boundary import MODES
    from gpuconv.dispatch import BACKENDS, PRECISIONS
    from gpuconv.filters import FILTERS
    from gpuconv.problem import LAYOUTS

    parser = _Parser(prog="gpuconv", description="Convolution of images and arrays.")
    parser.add_argument("--version", action="version", version=f"gpuconv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    backends = ("auto", *BACKENDS)

    image = commands.add_parser(
        "filter",
        help="filter an image, or every image of a folder",
        description="Filter an image, or every image of a folder into another folder. Size, depth, transparency, "
        "EXIF and ICC blocks are kept; transparency is not filtered.",
    )
    image.add_argument("input", metavar="INPUT", type=Path, help="an image that Pillow reads, or a folder of them")
    image.add_argument("output", metavar="OUTPUT", type=Path, help="the file to write, or the folder")
    which = image.add_mutually_exclusive_group(required=True)
    which.add_argument("--filter", choices=tuple(FILTERS), help="a filter by name")
    which.add_argument("--kernel", metavar="ROWS", help='weights by row, for example "0 -1 0; -1 5 -1; 0 -1 0"')
    image.add_argument("--sigma", type=float, help="standard deviation of the Gaussian, 2 by default")
    image.add_argument("--size", type=int, help="width of the box, 5 by default, or of the Gaussian's weights")
    image.add_argument("--mode", choices=MODES, default="mirror", help="what lies outside the image (%(default)s)")
    image.add_argument("--backend", choices=backends, default="auto", help="where to compute (%(default)s)")
    image.set_defaults(run=_filter)

    explain = commands.add_parser(
        "explain",
        help="show which algorithm would run for a convolution, and why not the others",
        description="Show the geometry of a convolution, its arithmetic and every algorithm's estimate. "
        "Nothing is computed and no array is allocated but with --measure.",
    )
    explain.add_argument("function", choices=_FUNCTIONS, metavar="FUNCTION", help=", ".join(_FUNCTIONS))
    explain.add_argument("--x", type=_integers, required=True, metavar="SHAPE", help="shape of x, such as 1,64,56,56")
    explain.add_argument("--w", type=_integers, required=True, metavar="SHAPE", help="shape of w, such as 64,64,3,3")
    for name, default in (("stride", "1"), ("dilation", "1"), ("output-padding", "0")):
        explain.add_argument(
            f"--{name}", type=_integers, default=default, metavar="N", help="one number, or one an axis"
        )
    explain.add_argument(
        "--padding",
        type=_padding,
        default="0",
        help='such as 1, or 1,2 an axis, or 0:1,2:2 before and after, or "same"',
    )
    explain.add_argument("--groups", type=int, default=1)
    explain.add_argument("--dtype", default="float32")
    explain.add_argument("--padding-mode", default="zeros")
    explain.add_argument("--layout", choices=LAYOUTS, default="channels_first")
    explain.add_argument("--precision", choices=PRECISIONS, default="high")
    explain.add_argument("--backend", choices=backends, default="auto")
    explain.add_argument("--algorithm", default="auto")
    explain.add_argument("--measure", action="store_true", help="time every algorithm that serves it, on random arrays")
    explain.set_defaults(run=_explain)

    bench = commands.add_parser(
        "bench",
        help="time this machine beside the libraries that are installed",
        description="Time gpuconv and, where they are installed, torch, SciPy and OpenCV on the same arrays with "
        "equally many threads, in turn in one run, and compare the results. The table gives the least time of each. "
        "With --backend cuda: beside torch (cuDNN) and CuPy's filters, on arrays in the GPU's memory.",
    )
    bench.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="what computes (%(default)s)")
    bench.add_argument("--group", action="append", metavar="NAME", help="only this group of cases; may be repeated")
    bench.add_argument("--seconds", type=_positive, default=0.3, help="for each case and library (%(default)s)")
    bench.add_argument("--threads", type=int, metavar="N", help="threads of every library; gpuconv's own by default")
    bench.add_argument(
        "--functions",
        action="store_true",
        help="each function of ndimage and signal, on images of 512x512 to 8192x8192",
    )
    bench.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, as Markdown")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    bench.add_argument("--plot", type=Path, metavar="PNG", help="draw the ratios there")
    bench.set_defaults(run=_bench)

    tune = commands.add_parser(
        "tune",
        help="measure each CPU algorithm here, so that choices fit this machine",
        description="Measure each CPU algorithm on some problems and write a file of factors for its estimates, where "
        "that betters the choices. Never needed; GPUCONV_TUNING names the file.",
    )
    tune.add_argument("--seconds", type=_positive, default=0.1, help="for each algorithm and problem (%(default)s)")
    tune.add_argument("--dry-run", action="store_true", help="print the factors and write nothing")
    tune.set_defaults(run=_tune)

    warmup = commands.add_parser(
        "warmup",
        help="compile all CPU kernels into the cache now",
        description="Compile the kernels of every CPU algorithm into the cache, so that no later call waits for it.",
    )
    warmup.add_argument("--dtype", action="append", metavar="NAME", help="only this dtype; may be repeated")
    warmup.set_defaults(run=_warmup)

    info = commands.add_parser("info", help="show versions, devices and threads: what a bug report needs")
    info.set_defaults(run=_info)
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds above 0")
    return value


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be integers parted by commas") from None


def _padding(text: str) -> Any:
    if text.replace("_", "").isalpha():
        return text
    try:
        entries = [tuple(int(word) for word in entry.split(":")) for entry in text.split(",")]
    except ValueError:
        entries = []
    if not entries or any(len(entry) > 2 for entry in entries):
        raise argparse.ArgumentTypeError(f'{text!r} must be such as 1, or 1,2 an axis, or 0:1,2:2, or "same"')
    if len(entries) == 1 and len(entries[0]) == 1:
        return entries[0][0]
    return tuple(entry[0] if len(entry) == 1 else entry for entry in entries)


def _info(_: argparse.Namespace) -> int:
    import gpuconv

    gpuconv.show_config()
    return 0


def _bench(a: argparse.Namespace) -> int:
    from gpuconv import benchmark, benchmark_cuda, imaging
    from gpuconv.benchmark_cases import CASES
    from gpuconv.benchmark_functions import FUNCTIONS
    from gpuconv.errors import BackendUnavailableError

    on_gpu = a.backend == "cuda"
    if on_gpu and a.functions:
        raise _UsageError("--functions has no cases for --backend cuda")
    cases = FUNCTIONS if a.functions else CASES
    groups = benchmark_cuda.GROUPS if on_gpu else tuple(dict.fromkeys(case.group for case in cases))
    for name in a.group or ():
        if name not in groups:
            raise _UsageError(f"--group {name} is unknown; valid are {', '.join(groups)}")
    for option, path in (("--json", a.json), ("--plot", a.plot), ("--markdown", a.markdown)):
        if path is not None and not path.parent.is_dir():
            raise _UsageError(f"{option} {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    try:
        if a.plot is not None:
            imaging.check_output_name(a.plot)
        threads = 0 if on_gpu else benchmark.set_threads(a.threads)
    except (imaging.ImageError, ValueError) as error:
        raise _UsageError(str(error)) from None
    chosen = tuple(a.group or groups)
    try:
        report = benchmark_cuda.run(chosen, a.seconds) if on_gpu else benchmark.run(chosen, a.seconds, threads, cases)
    except BackendUnavailableError as error:
        raise _UsageError(str(error)) from None
    print(report)
    if a.markdown is not None:
        a.markdown.write_text(report.markdown(), encoding="utf-8")
    if a.json is not None:
        a.json.write_text(report.json(), encoding="utf-8")
    if a.plot is not None:
        from gpuconv.benchmark_plot import draw

        draw(report).save(a.plot)
    return 1 if any(row.wrong for row in report.rows) else 0


def _tune(a: argparse.Namespace) -> int:
    from gpuconv import calibration

    return calibration.tune(a.seconds, dry_run=a.dry_run)


def _warmup(a: argparse.Namespace) -> int:
    from gpuconv import warmup
    from gpuconv.dtypes import SUPPORTED, to_numpy

    for name in a.dtype or ():
        if name not in SUPPORTED:
            raise _UsageError(f"--dtype {name} is not supported; valid are {', '.join(SUPPORTED)}")
        try:
            to_numpy(name)
        except ModuleNotFoundError as error:
            raise _UsageError(f"--dtype {name} needs {error.name}, which is not installed") from None
    warmup.warm_up(a.dtype or ())
    return 0


def _explain(a: argparse.Namespace) -> int:
    import numpy as np

    import gpuconv
    from gpuconv.dtypes import SUPPORTED, to_numpy
    from gpuconv.workload import random_array

    if a.dtype not in SUPPORTED:
        raise _UsageError(f"--dtype {a.dtype} is not supported; valid are {', '.join(SUPPORTED)}")
    try:
        if a.measure:
            x, w = random_array(a.x, a.dtype), random_array(a.w, a.dtype, 1)
        else:
            # Shapes without memory behind them: one element, repeated.
            zero = np.zeros((), to_numpy(a.dtype))
            x, w = np.broadcast_to(zero, a.x), np.broadcast_to(zero, a.w)
        geometry = {
            name: value[0] if isinstance(value, tuple) and len(value) == 1 else value
            for name, value in (("stride", a.stride), ("dilation", a.dilation))
        }
        if a.function.startswith("conv_transpose"):
            geometry["output_padding"] = a.output_padding[0] if len(a.output_padding) == 1 else a.output_padding
        elif any(a.output_padding):
            raise _UsageError(f"--output-padding has no meaning for {a.function}; it belongs to conv_transpose")
        text = gpuconv.explain(
            getattr(gpuconv, a.function), x, w, padding=a.padding, groups=a.groups, padding_mode=a.padding_mode,
            layout=a.layout, precision=a.precision, backend=a.backend, algorithm=a.algorithm, measure=a.measure,
            **geometry,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise _UsageError(f"--dtype {a.dtype} needs {error.name}, which is not installed") from None
    except (ValueError, NotImplementedError, gpuconv.BackendUnavailableError) as error:
        raise _UsageError(str(error)) from None
    print(text)
    return 0


def _filter(a: argparse.Namespace) -> int:
    from gpuconv import filters, imaging
    from gpuconv.dispatch import backend
    from gpuconv.errors import ShapeError

    try:
        if a.kernel is not None:
            for name in ("size", "sigma"):
                if getattr(a, name) is not None:
                    raise _UsageError(f"--{name} has no meaning with --kernel")
            chosen = filters.from_kernel(filters.parse_kernel(a.kernel))
        else:
            chosen = filters.make(a.filter, size=a.size, sigma=a.sigma)
        missing = None if a.backend == "auto" else backend(a.backend).unavailable()
    except ShapeError as error:
        raise _UsageError(str(error)) from None
    if missing is not None:
        raise _UsageError(f"--backend {a.backend} is not available: {missing}")
    if not a.input.exists():
        raise _UsageError(f"INPUT {str(a.input)!r} does not exist")

    def function(planes: Any) -> Any:
        return filters.apply(chosen, planes, padding_mode=a.mode, backend=a.backend)

    try:
        imaging.pillow()
    except imaging.ImageError as error:
        print(f"gpuconv filter: {error}", file=sys.stderr)
        return 1
    if a.input.is_dir():
        return _filter_folder(a.input, a.output, function)
    target = a.output / a.input.name if a.output.is_dir() else a.output
    if not target.parent.is_dir():
        raise _UsageError(f"OUTPUT {str(target)!r}: the folder {str(target.parent)!r} does not exist")
    try:
        imaging.check_output_name(target)
    except imaging.ImageError as error:
        raise _UsageError(f"OUTPUT {error}") from None
    reason = _failure(a.input, target, function, lambda line: print(line, file=sys.stderr))
    if reason is not None:
        print(f"gpuconv filter: {reason}", file=sys.stderr)
    return 0 if reason is None else 1


def _filter_folder(source: Path, target: Path, function: Callable[[Any], Any]) -> int:
    from gpuconv import imaging
    from gpuconv.progress import Progress

    if target.exists() and not target.is_dir():
        raise _UsageError(f"OUTPUT {str(target)!r} is a file; with a folder as INPUT it must be a folder")
    if target.exists() and target.samefile(source):
        raise _UsageError(f"OUTPUT {str(target)!r} is the folder INPUT; its images would be overwritten")
    images = imaging.list_images(source)
    if not images:
        raise _UsageError(f"INPUT {str(source)!r} has no images that Pillow reads")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _UsageError(f"OUTPUT {str(target)!r} cannot be made: {error.strerror}") from None
    progress = Progress(len(images))
    failed = 0
    for done, path in enumerate(images):
        progress.show(done, path.name)
        reason = _failure(path, target / path.name, function, progress.say)
        if reason is not None:
            failed += 1
            progress.say(f"gpuconv filter: {reason}")
    progress.show(len(images), f"{len(images) - failed} written" + (f", {failed} failed" if failed else ""))
    progress.close()
    return 1 if failed else 0


def _failure(source: Path, target: Path, function: Callable[[Any], Any], note: Callable[[str], None]) -> str | None:
    """Filter one file; return what went wrong, naming the file, or None."""
    from gpuconv import imaging

    try:
        imaging.filter_file(source, target, function, note)
    except imaging.ImageError as error:
        return f"{source}: {error}"
    except OSError as error:
        is_source = error.filename is not None and Path(error.filename) == source
        return f"{source if is_source else target}: {error.strerror or error}"
    except MemoryError:
        return f"{source}: the image does not fit in memory"
    return None
