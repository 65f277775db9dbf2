"""The package as installed: a light import, the names it promises, and texts that agree with the code."""

from __future__ import annotations

import importlib.resources
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gpuconv

ROOT = Path(__file__).parent.parent
HEAVY = ("numba", "scipy", "torch", "cupy", "llvmlite", "PIL", "ml_dtypes")


def python(code: str) -> str:
    """Return what a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", ["import gpuconv", "import gpuconv; gpuconv.conv2d, gpuconv.grad, gpuconv.backends"])
def test_import_loads_nothing_heavy(code: str) -> None:
    loaded = python(f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})").split()
    assert not set(loaded) & set(HEAVY)


def test_public_names_resolve() -> None:
    assert sorted(gpuconv.__all__) == gpuconv.__all__
    for name in gpuconv.__all__:
        assert getattr(gpuconv, name) is not None
        assert name in dir(gpuconv)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conv4d'"):
        _ = gpuconv.conv4d


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == gpuconv.__version__


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "gpuconv/__init__.py"


def test_the_package_is_typed() -> None:
    assert importlib.resources.files("gpuconv").joinpath("py.typed").is_file()


def test_the_readme_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) >= 2
    assert "->" in python("\n".join(blocks))


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/architecture.md"])
def test_links_lead_somewhere(text: str) -> None:
    page = ROOT / text
    links = re.findall(r"(?<!!)\[[^\]]*\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readmes_border_example() -> None:
    image = np.arange(12.0).reshape(1, 3, 4)
    blur = np.full((1, 1, 3, 3), 1 / 9)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    same = gpuconv.conv2d(image, blur, padding="same", padding_mode="mirror")
    np.testing.assert_allclose(same, gpuconv.conv2d(padded, blur), rtol=1e-14)
