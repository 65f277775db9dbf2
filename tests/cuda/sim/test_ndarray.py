"""`GpuArray` against NumPy: views, elementwise functions, conversions, and what it refuses."""

import numpy as np
import pytest
from device_arrays import Foreign

from gpuconv.backends.cuda import interop
from gpuconv.backends.cuda.ndarray import GpuArray

RNG = np.random.default_rng(5)
DTYPES = ("bool", "int8", "uint8", "int32", "uint64", "float16", "float32", "float64", "complex64")


def there(array):
    """Return a `GpuArray` of a NumPy array's own memory."""
    return GpuArray.of(Foreign(array, strides=array.strides))


def example(dtype="float64", shape=(2, 3, 4)):
    values = RNG.uniform(-3, 3, shape)
    if np.dtype(dtype).kind in "ub":
        values = abs(values)
    return (values + 1j * values[::-1]).astype(dtype) if np.dtype(dtype).kind == "c" else values.astype(dtype)


VIEWS = {
    "index": lambda a: a[1],
    "element": lambda a: a[1, 2, 0],
    "slices": lambda a: a[:, ::-1, 1:3],
    "new axis": lambda a: a[None, ..., 2],
    "transpose": lambda a: a.transpose(2, 0, 1),
    "merged": lambda a: a.reshape(6, 4),
    "parted": lambda a: a.reshape((2, 1, 3, -1, 2)),
    "reversed and merged": lambda a: a[::-1, ::-1, ::-1].reshape(24),
    "every second, merged": lambda a: a[..., ::2].reshape(2, 6),
    "flipped": lambda a: np.flip(a, (0, 2)),
    "repeated": lambda a: a[:, :1, :].reshape(2, 4),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    x = example()
    found = VIEWS[name](there(x))
    wanted = VIEWS[name](x)
    assert (found.shape, found.ndim, found.size) == (wanted.shape, wanted.ndim, wanted.size)
    np.testing.assert_array_equal(found.get(), wanted)
    assert np.may_share_memory(found, there(x))


def test_reshape_copies_where_strides_do_not_allow_a_view():
    x = example()
    found = there(x).transpose(2, 1, 0).reshape(3, 8)
    np.testing.assert_array_equal(found.get(), x.transpose(2, 1, 0).reshape(3, 8))
    assert not np.may_share_memory(found, there(x))
    with pytest.raises(ValueError, match="cannot reshape"):
        there(x).reshape(5, 5)


def test_parts_of_complex_arrays():
    x = example("complex64")
    y = there(x.copy())
    np.testing.assert_array_equal(y.real.get(), x.real)
    np.testing.assert_array_equal(y.conj().get(), x.conj())
    y.imag += y.real
    y.real = 2
    np.testing.assert_array_equal(y.get(), 2 + 1j * (x.imag + x.real))


@pytest.mark.parametrize("source", DTYPES)
def test_conversions(source):
    x = example(source, (5,))
    for target in DTYPES:
        if not (source == "complex64" and target != "complex64") and not (source != "bool" and target == "uint64"):
            np.testing.assert_array_equal(there(x).astype(target).get(), x.astype(target), f"{source} to {target}")


def test_floats_become_unsigned_integers_as_in_c():
    x = np.array([-1.7, 0.0, 3.9, 300.5])
    np.testing.assert_array_equal(there(x).astype(np.uint8).get(), np.array([255, 0, 3, 44], np.uint8))


FUNCTIONS = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: 1 - a - b,
    "product": lambda a, b: np.multiply(a, 2) * b,
    "quotient": lambda a, b: a / b,
    "comparisons": lambda a, b: (a < b) & (a != 0.5),
    "equality": lambda a, b: ~(b == b[:1]),
    "select": lambda a, b: np.where(a < 0, b, 0),
    "select a number": lambda a, b: np.where(a < 0, b, a.dtype.type(7)),
    "absolute": lambda a, b: np.abs(a),
    "finite": lambda a, b: np.isfinite(a / (b - b)),
    "root": lambda a, b: np.sqrt(a),
    "ones": lambda a, b: np.ones(a.shape, bool, like=a),
    "zeros": lambda a, b: np.zeros((2, 2), np.int16, like=a) + b[0, 0, 0],
}


@pytest.mark.parametrize("dtype", ["float32", "int16", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_functions(name, dtype):
    a, b = example(dtype), example(dtype)[:, :1]
    b = b + b.dtype.type(10)
    wanted, found = FUNCTIONS[name](a, b), FUNCTIONS[name](there(a), there(b))
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found.get(), wanted, rtol=1e-6)


def test_complex_products_and_quotients():
    x = example("complex128", (5,))
    y = np.array([2, 3j, 1 - 2j, 0, -4 + 1j])
    with np.errstate(all="ignore"):
        wanted = x / y
    np.testing.assert_allclose((there(x) * there(y)).get(), x * y)
    np.testing.assert_allclose((there(x) / there(y)).get(), wanted)


def test_complex_roots():
    x = np.array([0, 3 - 4j, -3 + 4j, -2, 2j, 1e300 + 1e300j, -5 - 12j, np.inf + 1j])
    np.testing.assert_allclose(np.sqrt(there(x)).get(), np.sqrt(x))


def test_results_of_another_dtype():
    x = there(np.array([4, 10], np.int32))
    np.sqrt(x, out=x, casting="unsafe")
    np.testing.assert_array_equal(x.get(), [2, 3])
    with pytest.raises(TypeError, match="Cannot cast"):
        np.sqrt(x, out=x)
    np.copyto(x, 2.5, casting="unsafe", where=x < there(np.array([3, 0])))
    np.testing.assert_array_equal(x.get(), [2, 3])
    with pytest.raises(TypeError, match="cannot cast from float64 to int32"):
        np.copyto(x, there(np.ones(2)))


def test_assignment_over_itself():
    x = np.arange(5.0)
    y = there(x)
    y[...] = y[::-1]
    np.testing.assert_array_equal(x, [4, 3, 2, 1, 0])
    y[1:3] = [7, 8]
    y[-1] = 9
    np.testing.assert_array_equal(x, [4, 7, 8, 1, 9])


@pytest.mark.parametrize("shape", [(), (0, 2), (7,)])
def test_all(shape):
    x = np.ones(shape)
    assert there(x).all() == x.all()
    if x.size > 1:
        x[3] = 0
        assert not there(x).all()
        assert there(x)[4:].all()


def test_what_is_not_done():
    x = there(np.ones(2))
    with pytest.raises(TypeError, match="not copied to the host"):
        np.asarray(x)
    with pytest.raises(TypeError, match="no implementation found"):
        np.sort(x)
    with pytest.raises(TypeError, match="returned NotImplemented"):
        np.sin(x)
    with pytest.raises(TypeError, match="not copied to the host"):
        np.copyto(np.ones(2), x)


def test_arrays_are_given_back_as_they_came():
    value = Foreign(np.ones((2, 2)))
    x = GpuArray.of(value)
    assert GpuArray.of(x) is x
    assert x.in_kind_of(value) is value
    assert type(x.in_kind_of(np.ones(1))) is np.ndarray
    made = np.empty((4,), float, like=x)
    made[...] = 3
    assert made.reshape(2, 2).in_kind_of(value).shape == (2, 2)
    assert made.in_kind_of(value) is made.memory.owner
    np.testing.assert_array_equal(made[::2].in_kind_of(value).copy_to_host(), [3, 3])
    assert interop.adopt(made) is made.memory
