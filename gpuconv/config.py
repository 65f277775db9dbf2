"""What this installation is and can do: its versions, its devices, its backends."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

from gpuconv import calibration, dispatch

__all__ = ["Backend", "Backends", "backends", "cache_directory", "config_text", "show_config"]

_CUPY = ("cupy", "cupy-cuda12x", "cupy-cuda13x")  # distributions of the one package
_PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "numba-cuda", *_CUPY, "torch", "ml_dtypes", "pillow")
_CPUINFO = Path("/proc/cpuinfo")


class Backend(NamedTuple):
    """One backend on this machine."""

    name: str
    reason: str | None
    """Why it cannot run here, and what to do about it; None where it can."""
    device: Any
    """What it computes on, in the backend's own terms; None where it cannot run."""

    @property
    def available(self) -> bool:
        """Whether calls with ``backend=name`` run here."""
        return self.reason is None

    @property
    def state(self) -> str:
        """The device in words, or why there is none."""
        return _describe(self.device) if self.available else f"not available: {self.reason}"


class Backends(dict[str, Backend]):
    """Every backend by its name; `str` gives a line for each."""

    def __str__(self) -> str:
        return "\n".join(f"{name:6} {backend.state}" for name, backend in self.items())


def backends() -> Backends:
    """Return each backend: available here, or the reason why not.

    Returns
    -------
    Backends
        A dict from name to `Backend`, with ``available``, ``reason`` (None where available) and ``device``.
        Its `str` is a line for each backend.

    See Also
    --------
    show_config : The same with versions and settings, as a bug report needs it.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.backends()["cpu"].available
    True
    """
    found = Backends()
    for name in dispatch.BACKENDS:
        module = dispatch.backend(name)
        reason = module.unavailable()
        found[name] = Backend(name, reason, None if reason is not None else module.device())
    return found


def config_text() -> str:
    """Return what `show_config` prints.

    Examples
    --------
    >>> config_text().splitlines()[0].split()[0]
    'gpuconv'
    """
    from gpuconv import __version__

    rows = {
        "gpuconv": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "platform": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _processor(),
        "cores": f"{_usable_cores()} of {os.cpu_count() or 1} usable",
        "kernel cache": cache_directory(),
        **({"tuning file": str(tuned)} if (tuned := calibration.file_path()) and tuned.exists() else {}),
        **{name: os.environ[name] for name in sorted(os.environ) if name.startswith(("GPUCONV_", "NUMBA_"))},
    }
    lines = [f"{name:22} {value}" for name, value in rows.items()]
    for name, backend in backends().items():
        lines.append(f"{'backend ' + name:22} {backend.state}")
        lines.append(f"{'  algorithms':22} {', '.join(dispatch.backend(name).ALGORITHMS)}")
    return "\n".join(lines)


def show_config() -> None:
    """Print versions, processor, threads, the kernel cache and each backend's device: what a bug report needs.

    See Also
    --------
    backends : The backends alone, as a dict.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.show_config()  # doctest: +ELLIPSIS
    gpuconv ...
    """
    print(config_text())


def _describe(device: Any) -> str:
    """Return a device in words: its name, then whatever else its backend tells of it."""
    if not hasattr(device, "_asdict"):
        return str(device)
    fields = dict(device._asdict())
    name = fields.pop("name", "")
    return ", ".join(filter(None, [str(name), *(f"{key.replace('_', ' ')} {value}" for key, value in fields.items())]))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name, which `platform.processor` does not know on Linux."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_directory() -> str:
    """Return where compiled kernels are kept between processes."""
    import numba

    if numba.config.CACHE_DIR:
        return str(numba.config.CACHE_DIR)
    beside = Path(__file__).parent / "backends"
    return f"__pycache__ in {beside}" if os.access(beside, os.W_OK) else "Numba's directory for this user"
