"""Stand-ins for arrays in a GPU's memory: in the simulator that memory is the host's."""

import numpy as np


class Foreign:
    """An array of a library that gpuconv does not know, with the CUDA array interface."""

    def __init__(self, array, *, read_only=False, **more):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, read_only),
            "strides": None if array.flags.c_contiguous else array.strides, "version": 3, **more,
        }  # fmt: skip


def on_the_host(value):
    """Return what a stand-in or an array of Numba's holds."""
    return value.array if isinstance(value, Foreign) else value.copy_to_host()


def assert_same(function, tolerances, *inputs, **arguments):
    """Assert that a function of arrays on the GPU gives an array there, and the values that it gives on the CPU."""
    wanted = function(*inputs, **arguments)
    there = [Foreign(a) if isinstance(a, np.ndarray) and a.ndim else a for a in inputs]
    found = function(*there, **arguments)
    assert type(found).__module__.startswith("numba.cuda"), type(found)
    result = found.copy_to_host()
    assert (result.shape, result.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(result, wanted, *tolerances)
