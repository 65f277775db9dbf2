"""What gpuconv says of this machine and of its backends."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuconv
from gpuconv import config, dispatch


def test_every_backend_is_told() -> None:
    found = gpuconv.backends()
    assert tuple(found) == dispatch.BACKENDS
    for name, backend in found.items():
        assert backend.name == name
        assert backend.available == (backend.reason is None)
        assert (backend.device is None) == (not backend.available)
    assert found["cpu"].available


def test_backends_is_callable_after_a_backend_was_imported() -> None:
    module = importlib.import_module("gpuconv.backends.cpu")
    assert gpuconv.backends()["cpu"].device == module.device()
    assert gpuconv.backends.cpu is module


def test_an_unavailable_backend_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    module = dispatch.backend("cuda")
    monkeypatch.setattr(module, "unavailable", lambda: "no driver; install one")
    monkeypatch.setattr(module, "device", lambda: pytest.fail("asked for the device of an unavailable backend"))
    backend = gpuconv.backends()["cuda"]
    assert (backend.available, backend.reason, backend.device) == (False, "no driver; install one", None)
    assert str(gpuconv.backends()).splitlines()[1] == "cuda   not available: no driver; install one"
    assert "backend cuda           not available: no driver; install one" in config.config_text().splitlines()


def test_explaining_an_unavailable_backend_loads_none_of_its_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.backend("cuda"), "unavailable", lambda: "no driver; install one")
    for name in [name for name in sys.modules if name.startswith("gpuconv.backends.cuda.")]:
        monkeypatch.delitem(sys.modules, name)
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    explanation = gpuconv.explain(gpuconv.conv1d, x, w, backend="cuda", algorithm="direct")
    assert explanation.chosen is None
    assert {row.reason for row in explanation.rows if row.backend == "cuda"} == {"no driver; install one"}
    assert not [name for name in sys.modules if name.startswith("gpuconv.backends.cuda.")]


def test_show_config_prints_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpuconv.show_config() is None
    assert capsys.readouterr().out == config.config_text() + "\n"


def test_the_text_tells_versions_and_devices() -> None:
    rows = {line[:22].strip(): line[23:] for line in config.config_text().splitlines()}
    assert rows["gpuconv"] == gpuconv.__version__
    assert rows["numpy"] == np.__version__
    assert rows["numba"] == importlib.metadata.version("numba")
    assert rows["python"].startswith(platform.python_version())
    device = gpuconv.backends()["cpu"].device
    for value in (device.name, device.vector_bits, device.threads):
        assert str(value) in rows["backend cpu"]


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "scipy":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    names = [line.split()[0] for line in config.config_text().splitlines()]
    assert "scipy" not in names
    assert "numba-cuda" in names


def test_settings_in_the_environment_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCONV_NUM_THREADS", "3")
    assert any(line.split() == ["GPUCONV_NUM_THREADS", "3"] for line in config.config_text().splitlines())


@pytest.mark.parametrize(
    ("cpuinfo", "name"), [("processor\t: 0\nmodel name\t: A Processor\n", "A Processor"), ("", "arm"), (None, "arm")]
)
def test_the_processor_has_a_name(
    cpuinfo: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        source.write_text(cpuinfo)
    monkeypatch.setattr(config, "_CPUINFO", source)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert f"processor              {name}" in config.config_text().splitlines()
