"""`gpuconv bench`: every case computes the same everywhere; the table, the figures, the picture."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import opened, python

from gpuconv import benchmark, benchmark_cases, benchmark_functions, cli, ndimage, signal
from gpuconv.benchmark import Report, Row
from gpuconv.benchmark_cases import Case
from gpuconv.workload import Workload

ROWS = (
    Row("3x3", "ahead", 2e9, {"gpuconv": 1e-3, "torch": 4e-3, "opencv": 2e-3}, ()),
    Row("3x3", "behind", 2e9, {"gpuconv": 1e-3, "torch": 0.5e-3}, ()),
    Row("filters", "wrong", 2e9, {"gpuconv": 1e-3, "scipy": 3e-3}, ("scipy",)),
    Row("filters", "alone", 2e9, {"gpuconv": 1e-3}, ()),
)
REPORT = Report(ROWS, {"gpuconv": "1", "torch": "2", "scipy": "3", "opencv": "4"}, "a cpu", 2)


def little() -> tuple[Case, ...]:
    """One small case of each way in which cases are made."""
    layer, image, signal = benchmark_cases._layer, benchmark_cases._correlate, benchmark_cases._signal
    return (
        layer("layers", "forward", "conv2d", (1, 4, 9, 9), (6, 4, 3, 3), padding=1, stride=2),
        layer("layers", "transposed", "conv_transpose1d", (2, 4, 9), (4, 3, 4), stride=2, padding=1),
        layer("layers", "by x", "grad.conv2d_input", (1, 4, 9, 9), (6, 4, 3, 3), padding=1),
        layer("layers", "by w", "grad.conv3d_weight", (1, 4, 5, 5, 5), (6, 4, 3, 3, 3)),
        image("float", (20, 30), 3),
        image("bytes", (20, 30), 5, dtype="uint8"),
        image("volume", (7, 8, 9), 3),
        benchmark_cases._gaussian("gaussian", (40, 50), 1.5),
        benchmark_cases._box("box", (40, 50), 5),
        benchmark_cases._sobel("sobel", (20, 30)),
        signal("full", "convolve", (50,), (7,), method="direct"),
        signal("blocks", "oaconvolve", (500,), (30,)),
        signal("plane", "correlate2d", (20, 20), (3, 4), mode="same"),
    )


def test_the_libraries_agree(capsys: pytest.CaptureFixture[str]) -> None:
    cases = little()
    groups = tuple({case.group: None for case in cases})
    report = benchmark.run(groups, 0.001, 1, cases)
    assert [(row.name, row.wrong) for row in report.rows] == [(case.name, ()) for case in cases]
    for row in report.rows:
        assert next(iter(row.seconds)) == "gpuconv"
        assert all(0 < value < 60 for value in row.seconds.values())
    assert capsys.readouterr().err.endswith("13/13 done\n")
    peers = {"torch": "layers", "scipy": "signals", "opencv": "filters"}
    for name, group in peers.items():
        if name in report.versions:
            assert any(name in row.seconds for row in report.rows if row.group == group)


def test_the_libraries_agree_on_every_function() -> None:
    cases = tuple(benchmark_functions._case(name, 48) for name in benchmark_functions._CALLS)
    report = benchmark.run(("48x48",), 0.001, 1, cases)
    assert [(row.name, row.wrong) for row in report.rows] == [(case.name, ()) for case in cases]
    named = {case.name.split()[0] for case in cases}
    asked = {*ndimage.__all__, *signal.__all__}
    others = {"generic_laplace", "generic_gradient_magnitude", "convolve", "correlate"}  # by others' names or callbacks
    assert asked - named == others - named | {"choose_conv_method", "correlation_lags"}


def test_the_cases_cover_every_kind() -> None:
    assert {"3x3", "1x1", "strided", "dilated", "depthwise", "transposed", "gradients", "filters", "signals"} < set(
        benchmark.GROUPS
    )
    assert len({(case.group, case.name) for case in benchmark_cases.CASES}) == len(benchmark_cases.CASES)
    assert all(case.flops > 0 and len(case.name) <= 34 for case in benchmark_cases.CASES)
    work = Workload("conv_transpose2d", (1, 4, 5, 5), (4, 2, 3, 3), {"stride": 2})
    assert work.prepare("float32")().shape == work.problem.x_shape == (1, 2, 11, 11)


def test_without_peers_only_our_own_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "PEERS", {})
    case = benchmark_cases._layer("layers", "forward", "conv1d", (1, 2, 9), (2, 2, 3))
    report = benchmark.run(("layers",), 0.001, 1, (case,))
    (row,) = report.rows
    assert (list(row.seconds), row.ratio, row.wrong) == (["gpuconv"], None, ())
    assert "-" in str(report).splitlines()[3].split()


def test_another_result_is_marked() -> None:
    x = np.arange(5.0)

    def case(other: Any) -> Case:
        return Case("g", "n", 1.0, lambda modules: {"gpuconv": lambda: x, "odd": lambda: other})

    for other, wrong in ((x + 1e-7, ()), (x + 0.01, ("odd",)), (x[:4], ("odd",)), (x * np.nan, ("odd",))):
        (row,) = benchmark.run(("g",), 0.0, 1, (case(other),)).rows
        assert row.wrong == wrong


def test_each_ones_least_time_counts() -> None:
    """Ours is slow at first, as a kernel is that must be compiled."""
    from time import sleep

    calls: list[str] = []

    def ours() -> float:
        sleep(0.05 if calls.count("ours") < 2 else 0)
        calls.append("ours")
        return 1.0

    def theirs() -> float:
        calls.append("theirs")
        return 1.0

    case = Case("g", "n", 1.0, lambda modules: {"gpuconv": ours, "other": theirs})
    (row,) = benchmark.run(("g",), 0.0, 1, (case,)).rows
    assert row.seconds["gpuconv"] < 0.05
    assert calls == ["ours", "theirs"] * (benchmark._TURNS + 1)


def test_the_table_and_the_figures() -> None:
    text = str(REPORT)
    assert "a cpu, 2 threads; gpuconv 1, torch 2, scipy 3, opencv 4" in text
    assert "3x3 (geometric mean of the ratios 1.00)" in text
    ahead, behind, wrong, alone = (next(line for line in text.splitlines() if f" {r.name} " in line) for r in ROWS)
    assert ahead.split() == ["ahead", "1.000", "4.000", "-", "2.000", "2.00", "2000.0"]
    assert behind.split()[-2:] == ["0.50", "2000.0"]
    assert wrong.endswith("WRONG: differs from scipy")
    assert alone.split() == ["alone", "1.000", "-", "-", "-", "-", "2000.0"]
    found = json.loads(REPORT.json())
    assert [row["ratio"] for row in found["rows"]] == [2.0, 0.5, 3.0, None]
    assert found["rows"][2]["wrong"] == ["scipy"]
    assert (found["threads"], found["versions"]["torch"]) == (2, "2")


def test_a_busy_machine_is_told() -> None:
    busy = Report(ROWS, REPORT.versions, "a cpu", 2, 3.5)
    assert "other work just before (load 3.5)" in str(busy).splitlines()[-1]
    assert json.loads(busy.json())["load"] == 3.5
    assert "other work" not in str(REPORT)


def test_the_picture() -> None:
    """A bar to the right of 1 in one colour, one to the left in another, a wrong one in a third; of equal length."""
    pytest.importorskip("PIL")
    from gpuconv import benchmark_plot

    pixels = np.asarray(benchmark_plot.draw(REPORT)).astype(int)
    reach = {}
    for name in ("_AHEAD", "_BEHIND", "_WRONG"):
        near = np.abs(pixels - getattr(benchmark_plot, name)).max(axis=-1) < 3
        columns = np.flatnonzero(near.sum(axis=0) >= 10)
        assert columns.size, name
        reach[name] = columns.min(), columns.max()
    assert reach["_BEHIND"][1] <= reach["_AHEAD"][0]
    lengths = [high - low for low, high in reach.values()]
    assert lengths[0] == pytest.approx(lengths[1], abs=5)
    assert lengths[2] == pytest.approx(lengths[0] * math.log2(3), abs=5)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    monkeypatch.setattr(benchmark, "run", lambda groups, seconds, threads, cases: REPORT)
    figures, picture, page = tmp_path / "figures.json", tmp_path / "bars.png", tmp_path / "table.md"
    files = ["--json", str(figures), "--plot", str(picture), "--markdown", str(page)]
    assert cli.main(["bench", "--group", "3x3", *files]) == 1
    assert capsys.readouterr().out == f"{REPORT}\n"
    assert figures.read_text() == REPORT.json()
    assert opened(picture).size[0] > 800
    lines = page.read_text().splitlines()
    assert lines[4:8] == [
        "## 3x3",
        "",
        "|  | gpuconv ms | torch ms | scipy ms | opencv ms | ratio |",
        "|---|" + "---:|" * 5,
    ]
    assert "| ahead | 1 | 4 |  | 2 | 2.00 |" in lines
    assert "| wrong (wrong result) | 1 |  | 3 |  | 3.00 |" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--functions", "--group", "3x3"], "--group 3x3 is unknown; valid are 512x512"),
        (["--markdown", "none/table.md"], "--markdown 'none/table.md': the folder 'none' does not exist"),
        (["--group", "4x4"], "--group 4x4 is unknown; valid are 3x3"),
        (["--seconds", "0"], "'0' must be a number of seconds above 0"),
        (["--threads", "0"], "--threads 0 must be from 1 to 64"),
        (["--threads", "63"], "--threads 63 comes too late"),
        (["--plot", "none/bars.png"], "--plot 'none/bars.png': the folder 'none' does not exist"),
        (["--plot", "bars.xyz"], "'bars.xyz' does not end as an image"),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments, message) -> None:
    monkeypatch.setattr(benchmark, "run", lambda *_: pytest.fail("began to measure"))
    from gpuconv.backends.cpu import device

    device()  # from here on the number of threads is settled
    before = dict(os.environ)
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert dict(os.environ) == before


def test_threads_are_set_before_anything_computes() -> None:
    code = "from gpuconv import benchmark; print(benchmark.set_threads(3), benchmark.set_threads(None))"
    assert python(code).split() == ["3", "3"]
