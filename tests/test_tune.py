"""`gpuconv tune`: the fit, the file, and what the choice makes of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gpuconv
from gpuconv import calibration, cli, config, dispatch
from gpuconv.calibration import Fit, Measurement
from gpuconv.workload import Workload

DEVICE = dispatch.backend("cpu").device().name
LITTLE = (
    (Workload("conv1d", (1, 2, 9), (2, 2, 3), {}), "float32"),
    (Workload("conv2d", (2, 5, 5), (1, 2, 3, 3), {}), "float64"),
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tuning file of this test, not there yet."""
    monkeypatch.setenv("GPUCONV_TUNING", str(tmp_path / "of" / "mine.json"))
    forget()
    yield tmp_path / "of" / "mine.json"
    forget()


def forget() -> None:
    calibration._factors.cache_clear()
    dispatch.choose.cache_clear()


def estimates(**arguments: object) -> dict[str, float]:
    x, w = np.ones((1, 4, 30, 30), np.float32), np.ones((4, 4, 5, 5), np.float32)
    rows = gpuconv.explain(gpuconv.conv2d, x, w, backend="cpu", **arguments).rows
    return {row.algorithm: row.seconds for row in rows if row.seconds is not None}


def test_a_factor_scales_estimates_and_moves_the_choice(file: Path) -> None:
    before = estimates()
    assert len(before) > 1
    slow = min(before, key=before.get)
    calibration.write(file, (Fit(slow, 500.0, 1.0, 1),), DEVICE)
    after = estimates()
    assert after[slow] == pytest.approx(500 * before[slow])
    assert {name: after[name] for name in after if name != slow} == {n: before[n] for n in before if n != slow}
    plan = gpuconv.plan(gpuconv.conv2d, (1, 4, 30, 30), np.ones((4, 4, 5, 5), np.float32))
    assert plan.explanation.chosen.algorithm == min(after, key=after.get) != slow


def test_explain_shows_both_estimates(file: Path) -> None:
    x, w = np.ones((1, 4, 30, 30), np.float32), np.ones((4, 4, 5, 5), np.float32)
    before = gpuconv.explain(gpuconv.conv2d, x, w)
    assert all(row.seconds == row.tabulated for row in before.rows)
    assert "calibrated" not in str(before)
    calibration.write(file, (Fit("gemm", 7.0, 1.0, 1),), DEVICE)
    after = gpuconv.explain(gpuconv.conv2d, x, w)
    assert [row.tabulated for row in after.rows] == [row.tabulated for row in before.rows]
    (gemm,) = (row for row in after.rows if (row.backend, row.algorithm) == ("cpu", "gemm"))
    assert gemm.seconds == pytest.approx(7 * gemm.tabulated)
    (line,) = (line for line in str(after).splitlines() if line.split()[-6:-4] == ["cpu", "gemm"])
    assert f"{gemm.tabulated * 1e3:.3f} ms" in line
    assert f"{gemm.seconds * 1e3:.3f} ms" in line


def test_a_file_keeps_other_devices_and_replaces_this_one(file: Path) -> None:
    calibration.write(file, (Fit("direct", 2.0, 1.0, 1), Fit("fft", 3.0, 1.0, 1)), "another cpu")
    calibration.write(file, (Fit("direct", 4.0, 1.0, 1),), DEVICE)
    calibration.write(file, (Fit("direct", 5.0, 1.0, 1),), DEVICE)
    found = json.loads(file.read_text())["factors"]["cpu"]
    assert found == {"another cpu": {"direct": 2.0, "fft": 3.0}, DEVICE: {"direct": 5.0}}
    assert calibration.factor("cpu", "direct", DEVICE) == 5.0
    assert calibration.factor("cpu", "fft", DEVICE) == calibration.factor("cuda", "direct", DEVICE) == 1.0
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", "[]", "{}", '{"format": 2, "factors": {}}', '{"format": 1, "factors": {"cpu": []}}',
        '{"format": 1, "factors": {"cpu": {"a": {"direct": "fast"}}}}',
        '{"format": 1, "factors": {"cpu": {"a": {"direct": NaN}}}}',
        '{"format": 1, "factors": {"cpu": {"a": {"direct": -1}}}}',
    ],
)  # fmt: skip
def test_a_broken_file_is_ignored_with_one_warning(file: Path, text: str) -> None:
    before = estimates()
    file.parent.mkdir()
    file.write_text(text)
    forget()
    with pytest.warns(RuntimeWarning, match=r"the tuning file .*mine\.json is ignored"):
        assert estimates() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimates(dilation=2)
    calibration.write(file, (Fit("direct", 2.0, 1.0, 1),), DEVICE)
    assert calibration.factor("cpu", "direct", DEVICE) == 2.0


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibration.file_path() is None
    monkeypatch.delenv("GPUCONV_TUNING")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert calibration.file_path() == Path("/somewhere/gpuconv/tuning.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert calibration.file_path() == Path.home() / ".cache" / "gpuconv" / "tuning.json"


def test_the_median_bears_an_outlier() -> None:
    (fit,) = calibration.fit(
        tuple(Measurement(str(i), "direct", 1.0, s) for i, s in enumerate((2.0, 2.1, 1.9, 90.0, 2.0)))
    )
    assert (fit.factor, fit.measured) == (2.0, 5)


def test_every_algorithm_that_serves_is_measured() -> None:
    shown: list[tuple[int, str]] = []
    found = calibration.measure(LITTLE, 0.001, lambda done, text: shown.append((done, text)))
    device = dispatch.backend("cpu").device()
    wanted = {
        (f"{dtype} {work}", name)
        for work, dtype in LITTLE
        for name in dispatch.backend("cpu").ALGORITHMS
        if dispatch.algorithm("cpu", name).supports(work.call(dtype), device) is None
    }
    assert {(one.workload, one.algorithm) for one in found} == wanted
    assert all(one.seconds > 0 and one.estimate > 0 for one in found)
    assert [done for done, _ in shown] == [0, 1]


@pytest.mark.parametrize(("arguments", "gets_better"), [([], True), (["--dry-run"], True), ([], False)])
def test_the_command(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    gets_better: bool,
) -> None:
    """Two algorithms, of which the first is five times slower than it is thought to be, or as fast as thought."""
    slow = 5.0 if gets_better else 1.0
    measured = (Measurement("a", "direct", 1.0, slow), Measurement("a", "gemm", 2.0, 2.0))
    monkeypatch.setattr(calibration, "measure", lambda todo, seconds, show: measured)
    assert cli.main(["tune", *arguments]) == 0
    out = capsys.readouterr().out
    assert f"direct{slow:14.2f}" in out
    assert file.exists() == (gets_better and not arguments)
    if file.exists():
        assert out.endswith(f"{file}\n")
        assert calibration.factor("cpu", "direct", DEVICE) == 5.0
        assert f"tuning file            {file}" in config.config_text()
    else:
        assert "nothing was written" in out


def test_a_folder_that_cannot_be_made(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.write_text("a file in the way")
    monkeypatch.setattr(
        calibration, "measure", lambda *_: (Measurement("a", "direct", 1, 5), Measurement("a", "gemm", 2, 2))
    )
    assert cli.main(["tune"]) == 1
    assert f"{file} cannot be written" in capsys.readouterr().err
