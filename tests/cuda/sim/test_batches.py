"""Batches that do not fit in the GPU's memory are run in parts."""

import numpy as np
import pytest
from support import Engine, assert_close, compute, expected, reduction_length, tolerance

import gpuconv
from gpuconv.backends.cuda import batches, memory
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

CALLS = {
    "direct": (ConvProblem.make((5, 2, 6), (3, 2, 3), padding=1), "forward"),
    "implicit_gemm": (ConvProblem.make((5, 3, 4), (2, 3, 3), stride=2), "input_gradient"),
    "stencil": (ConvProblem.make((5, 1, 4, 4), (1, 1, 3, 3), padding=1), "transposed"),
}


@pytest.mark.parametrize("algorithm", CALLS)
def test_parts_of_the_batch(algorithm, monkeypatch):
    problem, operation = CALLS[algorithm]
    call = Call(problem, operation, "float32")
    uploads = []
    upload = memory.Job.upload
    monkeypatch.setattr(memory.Job, "upload", lambda job, array: uploads.append(array.size) or upload(job, array))
    image = (np.prod(problem.x_shape) + np.prod(problem.y_shape)) * 4 // 5
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(2 * image + 16 * np.prod(problem.w_shape)))
    bias = operation != "input_gradient"
    actual = compute(Engine("cuda", algorithm), call, "batch", bias=bias)
    assert_close(
        actual, expected(call, "batch", bias=bias), tolerance("float32", reduction_length(problem, operation))
    )  # fmt: skip
    read = np.prod(problem.x_shape if operation == "forward" else problem.y_shape)
    assert [size for size in uploads if size in (2 * read // 5, read // 5, read)] == [2 * read // 5] * 2 + [read // 5]


def test_how_many_images(monkeypatch):
    problem = ConvProblem.make((8, 1, 100), (1, 1, 3), padding=1, padding_mode="wrap")
    call = Call(problem, "forward", "float64")
    x, y = np.empty(problem.x_shape), np.empty(problem.y_shape)
    assert batches.images_at_once(call, x, y) == 8
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "5000")
    assert batches.images_at_once(call, x, y) == (5000 - 60) // 1600
    gradient = Call(problem, "input_gradient", "float64")
    assert batches.images_at_once(gradient, x, y) == (5000 - 60) // 2416
    assert batches.images_at_once(Call(problem, "weight_gradient", "float64"), x, y) == 8
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "1")
    assert batches.images_at_once(call, x, y) == 1
    monkeypatch.delenv("GPUCONV_MAX_DEVICE_MEMORY")
    monkeypatch.setattr(batches, "_ALWAYS_FITS", 0)
    assert batches.images_at_once(call, x, y) == 8
    monkeypatch.setattr(memory.launch, "free_memory", lambda: 6000.0)
    assert batches.images_at_once(call, x, y) == (5100 - 60) // 1600


def test_a_bad_limit_is_named(monkeypatch):
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "4 GB")
    with pytest.raises(ValueError, match="GPUCONV_MAX_DEVICE_MEMORY='4 GB' must be a number of bytes"):
        gpuconv.conv1d(np.ones((2, 1, 4)), np.ones((1, 1, 2)), backend="cuda")
