"""The border table: every spelling, and the index map against numpy.pad."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv.boundary import MODES, canonical, source_index

NUMPY = {"nearest": "edge", "symmetric": "symmetric", "mirror": "reflect", "wrap": "wrap"}

SPELLINGS = {
    # ours, scipy, scipy's grid names, torch, numpy.pad, OpenCV
    "zeros": ("zeros", "constant", "grid-constant", "BORDER_CONSTANT"),
    "nearest": ("nearest", "replicate", "edge", "REPLICATE", "BORDER_REPLICATE"),
    "symmetric": ("symmetric", "grid-mirror"),
    "mirror": ("mirror", "reflect", "REFLECT_101", "BORDER_REFLECT_101", "BORDER_REFLECT101"),
    "wrap": ("wrap", "circular", "grid-wrap", "WRAP", "BORDER_WRAP"),
}


@pytest.mark.parametrize("mode", NUMPY)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 17])
def test_index_map_is_numpy_pads(mode: str, n: int) -> None:
    for before, after in ((0, 0), (1, 0), (0, 1), (n, n), (2 * n - 1, 2 * n), (5 * n + 3, 7 * n + 2), (101, 100)):
        wanted = np.pad(np.arange(n), (before, after), mode=NUMPY[mode])  # type: ignore[call-overload]
        found = [source_index(MODES.index(mode), i, n) for i in range(-before, n + after)]
        assert found == wanted.tolist()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_zeros_have_no_source(n: int) -> None:
    found = [source_index(0, i, n) for i in range(-7, n + 7)]
    assert found == [-1] * 7 + list(range(n)) + [-1] * 7


def test_five_modes_in_the_order_of_their_codes() -> None:
    assert MODES == ("zeros", "nearest", "symmetric", "mirror", "wrap")


@pytest.mark.parametrize("mode", MODES)
def test_every_spelling_in_any_case(mode: str) -> None:
    for name in SPELLINGS[mode]:
        for spelt in (name, name.upper(), name.lower(), name.title()):
            assert canonical(spelt) == mode


def test_reflect_has_two_meanings() -> None:
    assert canonical("reflect") == canonical("Reflect") == "mirror"
    assert canonical("reflect", reflect="symmetric") == canonical("REFLECT", reflect="symmetric") == "symmetric"


def test_conv_takes_reflect_as_torch_does() -> None:
    x, w = np.array([[1.0, 2.0, 3.0]]), np.array([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
    shown = {
        mode: gpuconv.conv1d(x, w, padding=((2, 2),), padding_mode=mode).tolist() for mode in ("reflect", "symmetric")
    }
    assert shown == {"reflect": [[3.0, 2.0, 1.0]], "symmetric": [[2.0, 1.0, 1.0]]}


@pytest.mark.parametrize("name", ["", "zero", "mirrored", "border_", None, 0, ("wrap",)])
def test_unknown_names_are_refused(name: object) -> None:
    with pytest.raises(
        gpuconv.UnsupportedError, match="padding_mode=.* is not a border mode; valid are .*'mirror'.*'wrap'"
    ):
        canonical(name)  # type: ignore[arg-type]
    with pytest.raises(gpuconv.UnsupportedError, match="^mode="):
        canonical(name, argument="mode")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", SPELLINGS)
def test_every_spelling_computes_the_same(mode: str) -> None:
    x, w = np.arange(12.0).reshape(1, 3, 4), np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    pad = {"mode": NUMPY[mode]} if mode in NUMPY else {}
    wanted = gpuconv.conv2d(np.pad(x, ((0, 0), (4, 5), (6, 3)), **pad), w)  # type: ignore[call-overload]
    for name in SPELLINGS[mode]:
        np.testing.assert_array_equal(gpuconv.conv2d(x, w, padding=((4, 5), (6, 3)), padding_mode=name), wanted)
