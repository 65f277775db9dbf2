"""Arrays in a GPU's memory, played by stand-ins: in the simulator that memory is the host's."""

import ctypes

import numpy as np
import pytest
from device_arrays import Foreign
from support import assert_close, tolerance

import gpuconv
from gpuconv import arrays, reference
from gpuconv.backends.cuda import interop, memory
from gpuconv.problem import ConvProblem

cuda = pytest.importorskip("numba.cuda")


class Capsule:
    """An array that DLPack alone gives, which says that it lies on a GPU."""

    def __init__(self, array):
        self.array, self.streams = array, []

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        return self.array.__dlpack__()


KINDS = {"interface": Foreign, "DLPack": Capsule, "Numba": lambda a: cuda.to_device(a)}


def example(dtype="float32"):
    rng = np.random.default_rng(2)
    x, w, bias = (rng.integers(-4, 5, shape).astype(dtype) for shape in ((2, 2, 5, 4), (3, 2, 3, 2), (3,)))
    problem = ConvProblem.make(x.shape, w.shape, padding=1)
    return x, w, bias, reference.forward(problem, x, w, bias)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_on_the_gpu_stay_there(kind, monkeypatch):
    x, w, bias, wanted = example()
    moved = []
    upload = memory.Job.upload
    monkeypatch.setattr(memory.Job, "upload", lambda job, array: moved.append(array) or upload(job, array))
    y = gpuconv.conv2d(*map(KINDS[kind], (x, w, bias)), padding=1)
    assert type(y).__module__.startswith("numba.cuda")
    assert not moved
    np.testing.assert_array_equal(y.copy_to_host(), wanted)


@pytest.mark.parametrize("function", ["conv2d_input", "conv2d_weight"])
def test_gradients_of_arrays_on_the_gpu(function):
    x, w, _, dy = example("float64")
    problem = ConvProblem.make(x.shape, w.shape, padding=1)
    if function == "conv2d_input":
        wanted = reference.input_gradient(problem, dy, w)
        result = gpuconv.grad.conv2d_input(x.shape, Foreign(w), Foreign(dy), padding=1)
    else:
        wanted = reference.weight_gradient(problem, x, dy)
        result = gpuconv.grad.conv2d_weight(Foreign(x), w.shape, Foreign(dy), padding=1)
    np.testing.assert_array_equal(result.copy_to_host(), wanted)


ARRANGED = {
    "channels innermost": lambda a: np.ascontiguousarray(np.moveaxis(a, 1, -1)),
    "every second element": lambda a: np.repeat(a, 2, axis=-1),
    "reversed": lambda a: a[:, :, ::-1].copy(),
    "repeated": lambda a: a,
}
VIEWED = {
    "channels innermost": lambda a: np.moveaxis(a, -1, 1),
    "every second element": lambda a: a[..., ::2],
    "reversed": lambda a: a[:, :, ::-1],
    "repeated": lambda a: a,
}


@pytest.mark.parametrize("arrangement", ARRANGED)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_strides_are_read_as_they_are(arrangement, dtype):
    x, w, bias, wanted = example(dtype)
    there = VIEWED[arrangement](ARRANGED[arrangement](x))
    np.testing.assert_array_equal(there, x)
    weights = VIEWED[arrangement](ARRANGED[arrangement](w))
    y = gpuconv.conv2d(Foreign(there), Foreign(weights), Foreign(bias), padding=1)
    np.testing.assert_array_equal(y.copy_to_host(), wanted)


def test_an_array_that_repeats_its_elements():
    row = np.arange(6, dtype=np.float32)
    x = np.broadcast_to(row, (1, 2, 6))
    y = gpuconv.conv1d(Foreign(x, strides=x.strides), Foreign(np.ones((1, 2, 2), np.float32)))
    np.testing.assert_array_equal(y.copy_to_host()[0, 0], 2 * (row[1:] + row[:-1]))


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[..., ::2], lambda a: a[:, :, ::-1, ::2]])
@pytest.mark.parametrize("gradient", [False, True])
def test_out_on_the_gpu(view, gradient):
    x, w, bias, wanted = example("float64")
    problem = ConvProblem.make(x.shape, w.shape, padding=1, padding_mode="nearest")
    if gradient:
        wanted = reference.input_gradient(problem, wanted, w)
    whole = np.full((*wanted.shape[:-1], 2 * wanted.shape[-1]), 7.0)
    there = view(whole) if view(whole).shape == wanted.shape else view(whole)[..., : wanted.shape[-1]]
    out = Foreign(there, strides=there.strides)
    if gradient:
        dy = Foreign(reference.forward(ConvProblem.make(x.shape, w.shape, padding=1), x, w, bias))
        assert gpuconv.grad.conv2d_input(x.shape, Foreign(w), dy, padding=1, padding_mode="edge", out=out) is out
    else:
        assert gpuconv.conv2d(Foreign(x), Foreign(w), Foreign(bias), padding=1, out=out) is out
    np.testing.assert_array_equal(there, wanted)
    rest = whole.copy()
    rest[np.isin(whole, wanted)] = 7
    assert (rest == 7).all()


def test_mixtures_follow_x():
    x, w, bias, wanted = example()
    y = gpuconv.conv2d(x, Foreign(w), Foreign(bias), padding=1)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, wanted)
    y = gpuconv.conv2d(Foreign(x), w, bias, padding=1)
    np.testing.assert_array_equal(y.copy_to_host(), wanted)
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, Foreign(w), bias=Foreign(bias), padding=1)
    np.testing.assert_array_equal(plan(Foreign(x)).copy_to_host(), wanted)
    np.testing.assert_array_equal(plan(x), wanted)


def test_a_planned_weight_may_change_afterwards():
    x, w, _, _ = example("complex128")
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, Foreign(w))
    wanted = reference.forward(ConvProblem.make(x.shape, w.shape), x, w)
    w[...] = 0
    assert_close(plan(Foreign(x)).copy_to_host(), wanted, tolerance("complex128", 12))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_dlpack_of_other_dtypes(dtype):
    x, w, _, _ = example(dtype if dtype == "int8" else "float32")
    wanted = reference.forward(ConvProblem.make(x.shape, w.shape), x, w)
    if dtype == "int8":
        y = gpuconv.conv2d(Capsule(x), Capsule(w)).copy_to_host()
    else:
        ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
        pairs = [a.astype(ml_dtypes.bfloat16) for a in (x, w)]
        monkey = [Capsule(a.view(np.int16)) for a in pairs]
        for capsule in monkey:
            capsule.__class__ = type("BFloat16", (Capsule,), {"__dlpack__": as_bfloat16})
        y = gpuconv.conv2d(*monkey).copy_to_host().astype(np.float32)
        assert monkey[0].streams == [1]
    np.testing.assert_array_equal(y, wanted)


def as_bfloat16(self, *, stream):
    """Return a capsule of int16 with the type code changed to bfloat's."""
    self.streams.append(stream)
    capsule = self.array.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    interop._Tensor.from_address(pointer(capsule, b"dltensor")).code = 4
    return capsule


def test_errors_come_before_any_work():
    x, w, _, _ = example()
    with pytest.raises(gpuconv.UnsupportedError, match="type Foreign lies in a GPU's memory"):
        gpuconv.conv2d(Foreign(x), w, backend="cpu")
    with pytest.raises(gpuconv.UnsupportedError, match="has a mask"):
        gpuconv.conv2d(Foreign(x, mask=1), w)
    with pytest.raises(gpuconv.UnsupportedError, match="not multiples of its itemsize"):
        gpuconv.conv2d(Foreign(x, strides=(2, 2, 3, 1)), w)
    with pytest.raises(gpuconv.DtypeError, match="byte order must be native"):
        gpuconv.conv2d(Foreign(x.astype(">f4")), w)
    with pytest.raises(gpuconv.DtypeError, match="typestr"):
        gpuconv.conv2d(Foreign(x, typestr="nonsense"), w)
    out = np.zeros((2, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        gpuconv.conv2d(Foreign(x), w, out=Foreign(out, read_only=True))
    with pytest.raises(ValueError, match="overlaps an input"):
        gpuconv.conv2d(Foreign(x), w[:1], padding=1, out=Foreign(np.ndarray((2, 1, 5, 5), np.float32, x)))
    with pytest.raises(gpuconv.ShapeError, match="out has shape"):
        gpuconv.conv2d(Foreign(x), w, out=Foreign(out[0]))
    with pytest.raises(ValueError, match="repeats memory"):
        gpuconv.conv2d(Foreign(x), w, out=Foreign(out, strides=(0, 0, 0, 4)))


def test_streams_are_the_callers(monkeypatch):
    x, w, bias, wanted = example()
    used, waited = [], []
    monkeypatch.setattr(memory.launch, "stream", lambda handle: used.append(handle) or 0)
    monkeypatch.setattr(memory.launch, "wait_for", lambda other, then: waited.append(other))
    y = gpuconv.conv2d(Foreign(x, stream=7), Foreign(w, stream=9), Foreign(bias, stream=7), padding=1)
    assert (used, waited) == ([7], [9])
    np.testing.assert_array_equal(y.copy_to_host(), wanted)


def test_home_and_kind():
    x = example()[0]
    assert arrays.home(x, None, [1.0]) == "cpu"
    assert arrays.home(x, Foreign(x)) == "cuda"
    found = interop.adopt(Foreign(x[:, :, ::-1]))
    assert found.bounds() == (x.ctypes.data, x.ctypes.data + x.nbytes)
    np.testing.assert_array_equal(memory.to_host(found), x[:, :, ::-1])


def test_filters_of_images_compute_on_the_gpu_too():
    x, w, _, _ = example()
    image = x[0, 0]
    for name, arguments in (("correlate", (w[0, 0],)), ("gaussian_filter", (0.6,))):
        function = getattr(gpuconv.ndimage, name)
        result = function(image, *arguments, mode="mirror", backend="cuda")
        np.testing.assert_allclose(result, function(image, *arguments, mode="mirror"), rtol=1e-5, atol=1e-5)
