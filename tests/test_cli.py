"""The command line: arguments, exit status, files and messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from support import opened

from gpuconv import cli, filters, progress
from gpuconv.errors import ShapeError


def run(capsys, *argv):
    try:
        status = cli.main([str(word) for word in argv])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def photo(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 15, 3)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("0 -1 0; -1 5 -1; 0 -1 0", [[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
        ("1,2,3", [[1, 2, 3]]),
        ("1;2;3;", [[1], [2], [3]]),
        (" 1/4 1/2 1/4 ", [[0.25, 0.5, 0.25]]),
        ("1e-1, .5", [[0.1, 0.5]]),
    ],
)
def test_kernels_are_parsed(text, kernel):
    assert filters.parse_kernel(text).tolist() == kernel


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty row"),
        ("1 2;;3 4", "empty row"),
        ("1 2; 3", "rows of 2, 1 numbers"),
        ("1 a", "'a' is not a finite number"),
        ("1 nan", "'nan' is not a finite number"),
        ("1/0", "'1/0' is not a finite number"),
    ],
)
def test_bad_kernels_are_named(text, message):
    with pytest.raises(ShapeError, match=message):
        filters.parse_kernel(text)


@pytest.mark.parametrize("name", list(filters.FILTERS))
def test_every_filter_writes_an_image(capsys, photo, tmp_path, name):
    status, out, err = run(capsys, "filter", photo, tmp_path / "out.png", "--filter", name, "--backend", "cpu")
    assert (status, out, err) == (0, "", "")
    result, source = np.asarray(opened(tmp_path / "out.png")), np.asarray(opened(photo))
    assert result.shape == source.shape
    assert np.array_equal(result, source) == (name == "identity")


def test_a_kernel_that_begins_with_a_minus(capsys, photo, tmp_path):
    status, *_ = run(capsys, "filter", photo, tmp_path / "out.png", "--kernel", "-1,0,2", "--mode", "zeros")
    x = np.asarray(opened(photo)).astype(int)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    assert status == 0
    expected = np.clip(2 * padded[:, 2:] - padded[:, :-2], 0, 255)
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "out.png")), expected)


def test_into_a_folder_and_over_itself(capsys, photo, tmp_path):
    (tmp_path / "folder").mkdir()
    assert run(capsys, "filter", photo, tmp_path / "folder", "--filter", "box", "--size", 3)[0] == 0
    assert (tmp_path / "folder" / "photo.png").exists()
    before = photo.read_bytes()
    assert run(capsys, "filter", photo, photo, "--filter", "box")[0] == 0
    assert photo.read_bytes() != before


def test_a_folder_goes_on_past_a_broken_file(capsys, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.jpg"):
        opened(photo).save(folder / name)
    (folder / "b.png").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("left alone")
    status, out, err = run(capsys, "filter", folder, tmp_path / "out", "--filter", "sharpen")
    assert status == 1
    assert out == ""
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.jpg"]
    assert "b.png: not an image that Pillow can read" in err
    assert "3/3 2 written, 1 failed" in err
    (folder / "b.png").unlink()
    assert run(capsys, "filter", folder, tmp_path / "out", "--filter", "sharpen")[0] == 0


def test_the_bar_is_redrawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = progress.Progress(2)
    bar.show(0, "a-long-name.png")
    bar.say("a-long-name.png: broken")
    bar.show(2, "done")
    bar.close()
    err = capsys.readouterr().err
    assert err.startswith(f"\r[{'.' * 24}] 0/2 a-long-name.png\r")
    assert "\ra-long-name.png: broken\n" in err
    assert f"\r[{'#' * 24}] 2/2 done" in err
    assert err.endswith("\n")


def test_a_broken_image_is_named(capsys, tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(b"nothing")
    status, _, err = run(capsys, "filter", tmp_path / "a.png", tmp_path / "b.png", "--filter", "box")
    assert status == 1
    assert err == f"gpuconv filter: {tmp_path / 'a.png'}: not an image that Pillow can read\n"
    assert os.listdir(tmp_path) == ["a.png"]


BAD = [
    ([], "COMMAND"),
    (["paint"], "paint"),
    (["filter", "{photo}"], "OUTPUT"),
    (["filter", "{photo}", "{out}"], "--filter --kernel"),
    (["filter", "{photo}", "{out}", "--filter", "blur"], "blur"),
    (["filter", "{photo}", "{out}", "--filter", "box", "--kernel", "1"], "not allowed"),
    (["filter", "{photo}", "{out}", "--kernel", "1 2;3"], "rows of 2, 1"),
    (["filter", "{photo}", "{out}", "--kernel", "1", "--size", "3"], "--size"),
    (["filter", "{photo}", "{out}", "--filter", "box", "--sigma", "2"], "sigma=2.0 has no meaning"),
    (["filter", "{photo}", "{out}", "--filter", "box", "--size", "0"], "size=0"),
    (["filter", "{photo}", "{out}", "--filter", "gaussian", "--size", "4"], "size=4 must be odd"),
    (["filter", "{photo}", "{out}", "--filter", "gaussian", "--sigma", "0"], "sigma=0.0"),
    (["filter", "{photo}", "{out}", "--filter", "gaussian", "--sigma", "nan"], "sigma=nan"),
    (["filter", "{photo}", "{out}", "--filter", "box", "--mode", "reflect"], "reflect"),
    (["filter", "{photo}", "{out}", "--filter", "box", "--backend", "gpu"], "gpu"),
    (["filter", "{photo}x", "{out}", "--filter", "box"], "does not exist"),
    (["filter", "{photo}", "{out}.xyz", "--filter", "box"], "does not end as an image"),
    (["filter", "{photo}", "{dir}/none/out.png", "--filter", "box"], "does not exist"),
    (["filter", "{dir}", "{photo}", "--filter", "box"], "is a file"),
    (["filter", "{dir}", "{dir}", "--filter", "box"], "is the folder INPUT"),
    (["filter", "{empty}", "{dir}/new", "--filter", "box"], "no images"),
    (["explain", "conv2d", "--x", "1,3,8,8"], "--w"),
    (["explain", "conv4d", "--x", "1,3,8,8", "--w", "1,3,3,3"], "conv4d"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,2,3,3"], "w.shape[1] must be 3"),
    (["explain", "conv2d", "--x", "1,3,a,8", "--w", "1,3,3,3"], "'1,3,a,8'"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,3,3,3", "--dtype", "float8"], "float8"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,3,3,3", "--padding", "big"], "padding='big'"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,3,3,3", "--padding", "1:2:3"], "1:2:3"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,3,3,3", "--padding-mode", "odd"], "padding_mode='odd'"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,3,3,3", "--algorithm", "magic"], "algorithm='magic'"),
    (["explain", "conv2d", "--x", "1,3,8,8", "--w", "1,3,3,3", "--output-padding", "1"], "--output-padding"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_arguments_get_one_line_and_status_2(capsys, photo, tmp_path, argv, message):
    (tmp_path / "empty").mkdir()
    names = {"photo": photo, "out": tmp_path / "out.png", "dir": tmp_path, "empty": tmp_path / "empty"}
    before = sorted(os.listdir(tmp_path))
    status, out, err = run(capsys, *(word.format(**names) for word in argv))
    assert status == 2
    assert out == ""
    assert message in err
    assert err.startswith("gpuconv")
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_a_backend_that_is_missing_is_an_argument_error(capsys, photo, tmp_path):
    from gpuconv import dispatch

    missing = dispatch.backend("cuda").unavailable()
    if missing is None:
        pytest.skip("CUDA is available here")
    status, _, err = run(capsys, "filter", photo, tmp_path / "out.png", "--filter", "box", "--backend", "cuda")
    assert (status, err) == (2, f"gpuconv filter: --backend cuda is not available: {missing}\n")


def test_without_pillow_the_message_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    status, _, err = run(capsys, "filter", tmp_path, tmp_path / "out", "--filter", "box")
    assert status == 1
    assert 'pip install "gpuconv[image]"' in err


def test_ctrl_c_gives_130_and_no_half_file(capsys, monkeypatch, photo, tmp_path):
    def interrupted(image, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.Image.Image.save", interrupted)
    status, _, err = run(capsys, "filter", photo, tmp_path / "out.png", "--filter", "identity")
    assert (status, err) == (130, "gpuconv filter: interrupted\n")
    assert os.listdir(tmp_path) == ["photo.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_real_sigint_while_a_file_is_read(tmp_path):
    """The command reads a pipe that never ends; it is interrupted once it has opened it."""
    pytest.importorskip("PIL")
    os.mkfifo(tmp_path / "in.png")
    # A shell's background jobs, and what they start, begin with the signal ignored.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from gpuconv.cli import main; sys.exit(main())"
    )
    files = [str(tmp_path / name) for name in ("in.png", "out.png")]
    command = [sys.executable, "-c", program, "filter", *files, "--filter", "box"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with (tmp_path / "in.png").open("wb"):  # Returns when the command has opened its end.
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "gpuconv filter: interrupted\n"
    assert os.listdir(tmp_path) == ["in.png"]


def test_explain_prints_the_table_without_allocating(capsys):
    shape = f"{2**40},64,56,56"
    status, out, err = run(capsys, "explain", "conv2d", "--x", shape, "--w", "64,32,3,3", "--padding", "1:2,0",
                           "--stride", "2,1", "--dilation", "2", "--groups", "2", "--dtype", "bfloat16",
                           "--padding-mode", "circular")  # fmt: skip
    assert (status, err) == (0, "")
    assert out.startswith("forward 2d, bfloat16")
    assert "stride (2, 1)  dilation (2, 2)  padding ((1, 2), (0, 0)) wrap  groups 2  channels_first" in out
    assert "direct" in out


def test_explain_measures(capsys):
    status, out, err = run(
        capsys, "explain", "conv1d", "--x", "1,2,40", "--w", "4,2,3", "--measure", "--dtype", "float64"
    )
    assert status == 0
    assert "measured" in out
    assert out.count(" ms") > 2
    assert "direct" in err


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_explain_serves_every_function(capsys, rank):
    x, w = ["2,4", *["9"] * rank], ["4,4", *["3"] * rank]
    for name in (f"conv{rank}d", f"conv_transpose{rank}d"):
        status, out, _ = run(capsys, "explain", name, "--x", ",".join(x), "--w", ",".join(w), "--padding", "same")
        assert status == 0
        assert f" {rank}d, float32" in out
    status, out, _ = run(
        capsys, "explain", name, "--x", ",".join(x), "--w", ",".join(w), "--stride", "2", "--output-padding", "1"
    )
    assert f"x (2, 4{', 20' * rank})" in out


def test_info_prints_the_configuration(capsys, monkeypatch):
    import gpuconv

    monkeypatch.setitem(vars(gpuconv), "show_config", lambda: print("versions and devices"))
    assert run(capsys, "info") == (0, "versions and devices\n", "")


def test_python_m_gpuconv():
    done = subprocess.run([sys.executable, "-m", "gpuconv", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gpuconv ")


def test_the_demo_writes_a_sheet_and_a_table(capsys, photo, tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    from gpuconv import demo

    monkeypatch.setattr(demo, "_SECONDS", 0.0)
    assert demo.main(["--photo", str(photo), "--output", str(tmp_path / "deep" / "sheet.png")]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if " ms" in line]
    assert len(rows) == len(demo.steps()) == 9
    assert out.splitlines()[-1] == str(tmp_path / "deep" / "sheet.png")
    # The two agree to the rounding of float32 sums on values up to 255 * 16.
    assert all(float(line.split()[-1]) < 1e-2 for line in rows)
    assert opened(tmp_path / "deep" / "sheet.png").size > (3 * 15, 3 * 12)
