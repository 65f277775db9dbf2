"""Shape arithmetic: the relations and figures of Dumoulin & Visin, and invariants of every problem."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import CASES, Case
from support import assert_close, random_array, rng, tolerance

from gpuconv import reference
from gpuconv.errors import ShapeError, UnsupportedError
from gpuconv.problem import ConvProblem

SIZES = {"i": st.integers(1, 60), "k": st.integers(1, 12), "s": st.integers(1, 7), "p": st.integers(0, 14)}
PROBLEMS = [case for case in CASES if case.kind != "random"] + [case for case in CASES if case.kind == "random"][:120]


def forward(i: int, k: int, s: int = 1, p: int = 0, d: int = 1) -> int:
    return ConvProblem.make((1, 1, i), (1, 1, k), stride=s, padding=p, dilation=d).output[0]


def backward(i: int, k: int, s: int = 1, p: int = 0, a: int = 0, d: int = 1) -> int:
    problem = ConvProblem.make_transposed((1, 1, i), (1, 1, k), stride=s, padding=p, output_padding=a, dilation=d)
    return problem.spatial[0]


@settings(max_examples=300)
@given(**SIZES, d=st.integers(1, 5))
def test_relations_of_the_convolution(i: int, k: int, s: int, p: int, d: int) -> None:
    if i >= k:
        assert forward(i, k) == i - k + 1  # relation 1
        assert forward(i, k, s) == (i - k) // s + 1  # 5
    if i + 2 * p >= k:
        assert forward(i, k, 1, p) == i - k + 2 * p + 1  # 2
        assert forward(i, k, s, p) == (i + 2 * p - k) // s + 1  # 6
    if k % 2:
        assert forward(i, k, 1, k // 2) == i  # 3
    assert forward(i, k, 1, k - 1) == i + k - 1  # 4
    wide = k + (k - 1) * (d - 1)
    if i + 2 * p >= wide:
        assert forward(i, k, s, p, d) == (i + 2 * p - wide) // s + 1  # 15


@settings(max_examples=300)
@given(**SIZES)
def test_relations_of_the_transposed_convolution(i: int, k: int, s: int, p: int) -> None:
    o = i
    assert backward(o, k) == o + k - 1  # 8: the padding of the equivalent convolution is k - 1
    assert backward(o, k, s) == s * (o - 1) + k  # 12
    if k % 2:
        assert backward(o, k, 1, k // 2) == o  # 10
    if k > 1 and o > k - 1:
        assert backward(o, k, 1, k - 1) == o - k + 1  # 11
    if o + k - 1 - 2 * p >= 1:
        assert backward(o, k, 1, p) == o + k - 1 - 2 * p  # 9
    if s * (o - 1) + k - 2 * p >= 1:
        assert backward(o, k, s, p) == s * (o - 1) + k - 2 * p  # 13


@settings(max_examples=300)
@given(**SIZES)
def test_relation_14_gives_back_the_input_size(i: int, k: int, s: int, p: int) -> None:
    assume(i + 2 * p >= k)
    o, a = forward(i, k, s, p), (i + 2 * p - k) % s
    assert backward(o, k, s, p, a) == s * (o - 1) + a + k - 2 * p == i


@settings(max_examples=200)
@given(**SIZES)
def test_relation_7_pooling_is_a_convolution_without_padding(i: int, k: int, s: int, p: int) -> None:
    del p
    assume(i >= k)
    x = np.arange(float(i))
    windows = np.lib.stride_tricks.sliding_window_view(x, k)[::s]
    assert forward(i, k, s) == len(windows)


@pytest.mark.parametrize(
    ("i", "k", "s", "p", "d", "o"),
    [
        (4, 3, 1, 0, 1, 2), (5, 4, 1, 2, 1, 6), (5, 3, 1, 1, 1, 5), (5, 3, 1, 2, 1, 7),
        (5, 3, 2, 0, 1, 2), (5, 3, 2, 1, 1, 3), (6, 3, 2, 1, 1, 3), (7, 3, 1, 0, 2, 3),
    ],
)  # fmt: skip
def test_figures(i: int, k: int, s: int, p: int, d: int, o: int) -> None:
    assert forward(i, k, s, p, d) == o
    left_over = (i + 2 * p - d * (k - 1) - 1) % s
    assert backward(o, k, s, p, left_over, d) == i
    square = ConvProblem.make((1, 1, i, i), (1, 1, k, k), stride=s, padding=p, dilation=d)
    assert square.y_shape == (1, 1, o, o)
    adjoint = square.adjoint()
    # Chapter 4: stride 1, zeros between the inputs, padding k' - p - 1, and more at the end by what is left.
    assert adjoint.stride == (1, 1)
    assert adjoint.input_dilation == (s, s)
    assert adjoint.padding == ((d * (k - 1) - p, d * (k - 1) - p + left_over),) * 2
    assert adjoint.output == (i, i)


@pytest.mark.parametrize("case", PROBLEMS, ids=str)
def test_adjoint(case: Case) -> None:
    problem = case.problem()
    adjoint = problem.adjoint()
    assert adjoint.x_shape == problem.y_shape
    assert adjoint.y_shape == problem.x_shape
    twice = adjoint.adjoint()
    assert (
        dataclasses.replace(
            twice, padding=problem.padding, padding_mode=problem.padding_mode, padding_value=problem.padding_value
        )
        == problem
    )
    assert [p for p, _ in twice.padding] == [p for p, _ in problem.padding]
    assert twice.output == problem.output
    # The end's padding comes back but for elements that no window reaches, which a stride leaves over.
    for (_, q), (_, again), s in zip(problem.padding, twice.padding, problem.stride, strict=True):
        assert 0 <= q - again < s
    if problem.padding_mode != "zeros" or problem.padding_value:
        return
    y, w = (random_array(shape, "float64", rng(case.name)) for shape in (problem.y_shape, problem.w_shape))
    o, c = problem.out_channels // problem.groups, problem.in_channels // problem.groups
    flipped = w.reshape(problem.groups, o, c, *problem.kernel).swapaxes(1, 2)
    flipped = np.flip(flipped, tuple(range(3, 3 + problem.rank))).reshape(adjoint.w_shape)
    terms = o * math.prod(problem.kernel)
    assert_close(
        reference.forward(adjoint, y, flipped), reference.transposed(problem, y, w), tolerance("float64", terms)
    )


@pytest.mark.parametrize("case", PROBLEMS, ids=str)
def test_phases_partition_the_outputs(case: Case) -> None:
    for problem in (case.problem(), case.problem().adjoint()):
        for axis in range(problem.rank):
            s, d, b = problem.stride[axis], problem.dilation[axis], problem.input_dilation[axis]
            before = problem.padding[axis][0]
            seen = []
            for phase in problem.phases(axis):
                for q in range(phase.count):
                    j = phase.start + phase.step * q
                    seen.append(j)
                    reads = {t: phase.advance * q + offset for t, offset in phase.taps}
                    places = {t: j * s + t * d - before for t in range(problem.kernel[axis])}
                    assert reads == {t: place // b for t, place in places.items() if place % b == 0}
            assert sorted(seen) == list(range(problem.output[axis]))
        assert len(problem.all_phases) == math.prod(len(problem.phases(axis)) for axis in range(problem.rank))


@pytest.mark.parametrize("case", PROBLEMS, ids=str)
def test_derived_quantities(case: Case) -> None:
    problem = case.problem()
    assert (problem.y_shape if case.transposed else problem.x_shape) == case.x_shape
    assert problem.w_shape == case.w_shape
    assert problem.cropped == tuple(
        (max(-p, 0), n + min(q, 0)) if b == 1 else (0, n)
        for n, (p, q), b in zip(problem.spatial, problem.padding, problem.input_dilation, strict=True)
    )
    m, n, k = problem.gemm
    assert m * problem.groups == problem.out_channels
    assert n == problem.batch * math.prod(problem.output)
    assert k * m * problem.groups == math.prod(problem.w_shape)
    if not any(b > 1 for b in problem.input_dilation):
        assert problem.flops == 2 * problem.groups * m * n * k
    padded = problem.on_padded()
    if not any(b > 1 for b in problem.input_dilation):
        assert padded.output == problem.output
        assert padded.y_shape == problem.y_shape


def test_a_problem_is_a_value() -> None:
    one = ConvProblem.make([1, 2, 9], (3, 2, 3), stride=[2], padding="Same")
    other = ConvProblem.make(np.array([1, 2, 9]), (3, 2, 3), stride=np.int64(2), padding=[1])
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[pickle.loads(pickle.dumps(other))] == 1
    assert one != dataclasses.replace(one, padding_mode="wrap")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.batch = 2  # type: ignore[misc]


@settings(max_examples=300)
@given(i=st.integers(1, 40), k=st.integers(1, 9), s=st.integers(1, 7), d=st.integers(1, 4))
def test_words_of_padding(i: int, k: int, s: int, d: int) -> None:
    extent = d * (k - 1) + 1

    def pair(word: str) -> tuple[int, int]:
        return ConvProblem.make((1, i), (1, 1, k), stride=s, dilation=d, padding=word).padding[0]

    for word in ("same", "same_lower"):
        problem = ConvProblem.make((1, i), (1, 1, k), stride=s, dilation=d, padding=word)
        assert problem.output == (-(-i // s),)
    p, q = pair("SAME")
    assert q - p in (0, 1)
    assert pair("same_lower") == (q, p)
    assert p + q == max((-(-i // s) - 1) * s + extent - i, 0)
    assert pair("causal") == (extent - 1, 0)
    if i >= extent:
        assert pair("valid") == (0, 0)
    transposed = ConvProblem.make_transposed((1, i), (1, 1, k), stride=s, dilation=d, padding="same")
    assert transposed.spatial == (i * s,)
    assert transposed.output == (i,)


@settings(max_examples=300)
@given(
    i=st.integers(1, 12), k=st.integers(1, 6), s=st.integers(1, 5), d=st.integers(1, 6), p=st.integers(0, 4),
    a=st.integers(0, 7),
)  # fmt: skip
def test_output_padding(i: int, k: int, s: int, d: int, p: int, a: int) -> None:
    size = (i - 1) * s - 2 * p + d * (k - 1) + a + 1
    if a >= max(s, d):
        with pytest.raises(
            ShapeError, match=f"output_padding={a} .* less than the larger of stride={s} and dilation={d}"
        ):
            backward(i, k, s, p, a, d)
    elif size < 1:
        with pytest.raises(ShapeError, match=f"leaves an output of size {size}"):
            backward(i, k, s, p, a, d)
    else:
        assert backward(i, k, s, p, a, d) == size


def test_an_input_dilation_has_zeros_around_only() -> None:
    with pytest.raises(UnsupportedError, match=r"padding_mode=.wrap. with .*input_dilation=.*only a border of zeros"):
        ConvProblem.make((1, 1, 5), (1, 1, 3), input_dilation=2, padding_mode="wrap")


def test_an_output_padding_beyond_all_that_the_padding_leaves() -> None:
    problem = ConvProblem.make_transposed((1, 1, 1), (1, 1, 8), stride=3, padding=[(9, 0)], output_padding=2)
    assert problem.x_shape == (1, 1, 1)
    y, w = np.ones((1, 1, 1)), np.arange(1.0, 9).reshape(1, 1, 8)
    # The transpose of size 8 and 2 of output padding, without its first 9.
    np.testing.assert_array_equal(reference.transposed(problem, y, w), np.zeros((1, 1, 1)))
