"""The kernels that the compile gate compiles, with their argument types.

float32 meets every tile and way of staging; another dtype, whose kernels differ from float32's in what is loaded,
summed and stored only, meets the largest tile of each kind.
"""

import itertools
from typing import Any, NamedTuple

from gpuconv import tuning_cuda
from gpuconv.activation import NAMES
from gpuconv.backends.cuda import (
    activation_kernels,
    direct,
    direct_border,
    direct_gradient_kernels,
    direct_kernels,
    implicit_gemm,
    implicit_gemm_kernels,
    memory_kernels,
    ndarray,
    ndarray_kernels,
    scalars,
    separable,
    separable_kernels,
    stencil,
    stencil_kernels,
    winograd_kernels,
)
from gpuconv.dtypes import to_numpy

KINDS = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64")


PRODUCTS = (("float32", False), ("float32", True), ("bfloat16", False), ("float64", False), ("int8", True))
"""Dtypes of implicit matrix products, and whether neighbouring threads read neighbouring channels."""

STENCILS = (("float32", 3, 3), ("float32", 7, 7), ("float32", 31, 31), ("float64", 5, 5), ("uint8", 3, 3))
"""Windows whose weights are in registers, at the most, and beyond, which is a tall one."""


SEPARABLE = (
    ("float32", "float32", "float32"), ("float64", "float64", "float64"), ("uint8", "float32", "uint8"),
    ("uint16", "float32", "int16"),
)  # fmt: skip
"""Dtypes of separable filters: of images, sums and results."""

ELEMENTWISE = (
    ("copy", ("float32",), "uint8"), ("copy", ("float64",), "int16"), ("copy", ("float16",), "bfloat16"),
    ("copy", ("uint64",), "float32"), ("absolute", ("float32",), "float32"), ("conjugate", ("complex64",), "complex64"),
    ("isnan", ("float32",), "bool"), ("isfinite", ("complex64",), "bool"), ("invert", ("bool",), "bool"),
    ("sqrt", ("float32",), "float32"), ("complex sqrt", ("complex64",), "complex64"),
    ("add", ("int8", "int8"), "int8"), ("subtract", ("complex64",) * 2, "complex64"),
    ("complex multiply", ("complex64",) * 2, "complex64"), ("divide", ("float32", "float32"), "float32"),
    ("complex divide", ("complex64",) * 2, "complex64"), ("bitwise_and", ("bool", "bool"), "bool"),
    ("less", ("float32", "float32"), "bool"), ("equal", ("int64", "int64"), "bool"),
    ("not_equal", ("float32", "float32"), "bool"), ("select", ("bool", "float32", "float32"), "float32"),
)  # fmt: skip
"""Functions of `GpuArray`, the dtypes of what they read and of what they write."""


class Variant(NamedTuple):
    """One compilation."""

    name: str
    function: Any
    signature: tuple[Any, ...]
    threads: int


def variants(types):
    """Yield every kernel; `types` are Numba's."""

    def flat(dtype):
        return getattr(types, dtype.name)[::1]

    numbers = types.int64[::1]
    for kind in KINDS:
        seen = scalars.of(kind)
        x, sums, y = flat(seen.storage), flat(seen.sums), flat(seen.result_storage)
        fill = getattr(types, seen.sums.name)
        whole, floats = kind == "float32", kind in ("float32", "float64")
        tiles = direct.tiles_of(kind, seen.sums.itemsize)
        for tile, halo in itertools.product(tiles, (True, False)):
            if whole or (tile == tiles[0] and (halo or floats)):
                name = f"direct {kind} {tile.positions}x{tile.outputs} {'halo' if halo else 'single'}"
                # One with relu in place of one without: what it adds is little.
                activation = "relu" if whole and tile == tiles[0] and not halo else ""
                kernel = direct_kernels.convolution(kind, tile, halo, activation=activation).py_func
                yield Variant(name, kernel, (x, sums, y, y, fill, numbers, types.int64), tile.threads)
        if whole:
            kernel = direct_kernels.convolution(kind, tiles[0], True, 2).py_func
            yield Variant("direct complex64", kernel, (x, sums, y, y, fill, numbers, types.int64), tiles[0].threads)
        if kind not in ("uint8", "int16"):
            yield Variant(f"border {kind}", direct_border.gathering(kind).py_func, (sums, y, numbers), 256)
            tiles = tuning_cuda.CUDA_GRADIENT_TILES[seen.sums.itemsize]
            for tile, parts in itertools.product(tiles if whole else tiles[:1], (1, 2) if whole else (1,)):
                if parts == 1 or tile == tiles[0]:
                    name = f"gradient {'complex64' if parts == 2 else kind} {tile.rows}x{tile.columns}"
                    kernel = direct_gradient_kernels.contraction(kind, tile, parts).py_func
                    yield Variant(name, kernel, (x, x, sums, fill, numbers, types.int64), tile.threads)
            kernel = direct_gradient_kernels.add_slices(kind).py_func
            yield Variant(f"slices {kind}", kernel, (sums, y, types.int64), 256)
        yield Variant(f"gather {kind}", memory_kernels.gather(kind).py_func, (x, types.int32[::1], sums), 256)
    for kind, inside in PRODUCTS:
        seen = scalars.of(kind)
        x, sums, y = flat(seen.storage), flat(seen.sums), flat(seen.result_storage)
        tiles = implicit_gemm.tiles_of(kind, seen.sums.itemsize)
        for tile in tiles if kind == "float32" and not inside else tiles[:1]:
            kernel = implicit_gemm_kernels.product(
                kind, tile, inside, "relu" if inside and kind == "float32" else ""
            ).py_func
            name = f"implicit_gemm {kind} {tile.rows}x{tile.columns}{' channels inside' * inside}"
            signature = (x, sums, y, y, getattr(types, seen.sums.name), numbers, types.int64)
            yield Variant(name, kernel, signature, tile.threads)
    for kind, size in (("float32", 2), ("float32", 4), ("bfloat16", 2)):
        seen = scalars.of(kind)
        x, sums, y = flat(seen.storage), flat(seen.sums), flat(seen.result_storage)
        fill, form = getattr(types, seen.sums.name), f"{kind} {size}x{size}"
        kernel = winograd_kernels.inputs(kind, size).py_func
        yield Variant(f"winograd inputs {form}", kernel, (x, sums, fill, numbers, types.int64), 256)
        kernel = winograd_kernels.outputs(kind, size).py_func
        yield Variant(f"winograd outputs {form}", kernel, (sums, x, sums, y, y, fill, numbers, types.int64), 256)
        if kind == "float32":
            kernel = winograd_kernels.weights(kind, size).py_func
            yield Variant(f"winograd weights {form}", kernel, (sums, sums, types.int64), 256)
    for kind, height, width in STENCILS:
        seen = scalars.of(kind)
        x, sums, y = flat(seen.storage), flat(seen.sums), flat(seen.result_storage)
        strips = stencil.strips_of(height, width, seen.sums.itemsize)
        kernel = stencil_kernels.correlation(kind, height, width, strips).py_func
        signature = (x, sums, y, y, getattr(types, seen.sums.name), numbers, types.int64)
        yield Variant(f"stencil {kind} {height}x{width}", kernel, signature, strips.threads)
        if (kind, height) == ("float32", 7):
            kernel = stencil_kernels.correlation(kind, height, width, strips, "gelu").py_func
            yield Variant("stencil float32 7x7 gelu", kernel, signature, strips.threads)
    for kind, name in itertools.product(("float32", "bfloat16", "float64"), NAMES):
        if kind == "float32" or name == "gelu":
            array = flat(scalars.of(kind).storage)
            kernel = activation_kernels.activating(name, kind).py_func
            yield Variant(f"{name} {kind}", kernel, (array, array, types.int64), 256)
    for name, read, written in ELEMENTWISE:
        function, signature = elementwise(name, read, written, flat)
        yield Variant(f"elementwise {name} {' '.join(read)}", function, (*signature, numbers), 256)
    mask = types.uint8[::1]
    yield Variant("find false", ndarray_kernels.find_false().py_func, (mask, mask), 256)
    x, y, sums = (flat(scalars.of(dtype).storage) for dtype in ("uint8", "int16", "float32"))
    signature = (x, sums, y, y, types.float32, numbers, types.int64)
    kernel = direct_kernels.convolution("float32", tuning_cuda.CUDA_DIRECT_TILES[4][2], True, others=("uint8", "int16"))
    yield Variant("direct uint8 float32 int16", kernel.py_func, signature, 128)
    strips = stencil.strips_of(3, 3, 4)
    kernel = stencil_kernels.correlation("float32", 3, 3, strips, others=("uint8", "int16"))
    yield Variant("stencil uint8 float32 int16", kernel.py_func, signature, strips.threads)
    for source, sums, result in SEPARABLE:
        space, number = separable.space_of(sums), getattr(types, sums)
        kernel = separable_kernels.passes(source, sums, result, space, separable.THREADS).py_func
        read, written = (flat(scalars.of(dtype).storage) for dtype in (source, result))
        signature = (read, flat(to_numpy(sums)), written, number, number, numbers, types.int64)
        yield Variant(f"separable {source} {sums} {result}", kernel, signature, separable.THREADS)
    array = flat(scalars.of("float32").storage)
    yield Variant("copy float32", memory_kernels.copy("float32").py_func, (array, array, numbers), 256)


def elementwise(name, read, written, flat):
    """Return the kernel and the types of the arrays of one function of `GpuArray`."""
    made = (
        ndarray._copied_as(*map(to_numpy, (*read, written)))
        if name == "copy"
        else ndarray._computed(to_numpy(read[-1]))
    )
    computed = ("int64", made, made) if name == "select" else (made,) * len(read)
    kernel = ndarray_kernels.elementwise(name, read, computed, "int64" if name in ndarray._TRUTHS else made, written)
    stored = [flat(ndarray._storage(to_numpy(dtype))) for dtype in (*read, written)]
    return kernel.py_func, (*stored[:-1], *stored[-1:] * (ndarray_kernels.OPERANDS - len(read)), stored[-1])
