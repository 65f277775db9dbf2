"""The page docs/migrating.md: both sides of every row are run, and compared as the row says."""

from __future__ import annotations

import importlib
import pathlib
import re
import types

import numpy as np
import pytest

from gpuconv import ndimage, signal

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migrating.md"


def rows():
    """Return (there, here, results, line) of every row of the page's tables."""
    found = []
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("| ") or line.startswith("| there"):
            continue
        there, here, results = (cell.strip() for cell in line.strip("|").split("|"))
        found.append(pytest.param(code(there), code(here), results, id=f"line {number}"))
    return found


def code(cell):
    (expression,) = re.findall(r"`([^`]*)`", cell)
    return expression


def names(there):
    """Return what the page's expressions may use; the test is skipped where the other library is missing."""
    scipy = pytest.importorskip("scipy")
    for module in ("scipy.ndimage", "scipy.signal"):
        importlib.import_module(module)
    # cupyx's functions are SciPy's by name and meaning: without a GPU, SciPy stands for it.
    known = {
        "np": np,
        "scipy": scipy,
        "cupyx": types.SimpleNamespace(scipy=scipy),
        "ndimage": ndimage,
        "signal": signal,
    }
    if "cv2" in there:
        known["cv2"] = pytest.importorskip("cv2", reason="compares with OpenCV, which is not installed")
    if "astropy" in there:
        pytest.importorskip("astropy.convolution", reason="compares with astropy, which is not installed")
        known["astropy"] = importlib.import_module("astropy")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(block, known)
    return known


def outcome(expression, known):
    """Return the value of an expression, or the kind of error that it raises."""
    try:
        value = eval(expression, known)
    except (RuntimeError, ValueError, TypeError) as error:
        return next(kind for kind in (RuntimeError, ValueError, TypeError) if isinstance(error, kind))
    return value if isinstance(value, str) else np.asarray(value)


@pytest.mark.parametrize(("there", "here", "results"), rows())
def test_row(there, here, results):
    known = names(there)
    theirs, ours = outcome(there, known), outcome(here, known)
    assert results in ("equal", "close", "other")
    if isinstance(theirs, (type, str)) or isinstance(ours, (type, str)):
        assert (theirs is ours or (isinstance(ours, str) and ours == theirs)) == (results == "equal"), (theirs, ours)
        return
    assert theirs.shape == ours.shape
    same = theirs.dtype == ours.dtype and np.array_equal(theirs, ours, equal_nan=theirs.dtype.kind == "f")
    scale = max(1.0, float(np.nanmax(np.abs(theirs.astype("f8")), initial=0)))
    single = np.float32 in (theirs.dtype, ours.dtype)
    close = np.allclose(ours, theirs, rtol=0, atol=(4e-6 if single else 1e-12) * scale, equal_nan=True)
    assert {"equal": same, "close": close, "other": not close}[results], np.abs(ours - theirs.astype("f8")).max()


def test_every_function_has_a_row():
    text = PAGE.read_text(encoding="utf-8")
    for module in (ndimage, signal):
        for name in module.__all__:
            assert f"`{module.__name__.rpartition('.')[2]}.{name}(" in text, name
