"""An array in a GPU's memory that NumPy's functions take: what `gpuconv.ndimage` and `gpuconv.signal` compute with.

`GpuArray` has NumPy's methods for views, and through NumPy's own protocols answers those of its functions that these
modules call: ``np.empty(shape, like=a)``, ``np.where``, ``a + b``. So the modules are written once, for both memories.
All work is put on the stream of the array that it came from, and needs no other library than Numba.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gpuconv.backends.cuda import interop
from gpuconv.backends.cuda.interop import DeviceArray, Holder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GpuArray"]

_UFUNCS = (
    "absolute", "conjugate", "isnan", "isfinite", "invert", "sqrt", "add", "subtract", "multiply", "divide",
    "bitwise_and", "less", "equal", "not_equal",
)  # fmt: skip
_TRUTHS = ("isnan", "isfinite", "invert", "less", "equal", "not_equal")


class GpuArray(Holder, NDArrayOperatorsMixin):
    """An array in a GPU's memory as NumPy's functions take it.

    Parameters
    ----------
    memory : DeviceArray
    kin : array
        The caller's array whose kind arrays made from this one have.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, memory: DeviceArray, kin: Any) -> None:
        self.memory = memory
        self.kin = kin

    @classmethod
    def of(cls, value: Any) -> GpuArray:
        """Return a caller's array of a GPU's memory, not copied."""
        return value if isinstance(value, GpuArray) else cls(interop.adopt(value), value)

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's."""
        return self.memory.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As NumPy's."""
        return self.memory.dtype

    @property
    def strides(self) -> tuple[int, ...]:
        """As NumPy's."""
        return self.memory.strides

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.memory.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.memory.size

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.memory.itemsize

    @property
    def flags(self) -> Any:
        """Whether it may be written and lies in C order, as `writeable` and `c_contiguous`."""
        return self.memory

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("an array in a GPU's memory is not copied to the host without being asked")

    def get(self) -> NDArray[Any]:
        """Return a NumPy copy."""
        from gpuconv.backends.cuda import memory

        if self.dtype.kind == "b":
            return memory.to_host(self.view(np.uint8).memory).view(np.bool_)
        return memory.to_host(self.memory)

    def in_kind_of(self, like: Any) -> Any:
        """Return it in the kind of a caller's array: the array that it was made of or that holds it, else a copy."""
        if not interop.is_on_gpu(like):
            return self.get()
        if interop.adopt(self.kin)[:4] == self.memory[:4]:
            return self.kin
        owner = self.memory.owner
        whole = interop.adopt(owner) if interop.is_on_gpu(owner) else None
        if whole is not None and (whole.pointer, whole.dtype, whole.size) == (
            self.memory.pointer, self.dtype, self.size,
        ) and whole.c_contiguous and self.memory.c_contiguous:  # fmt: skip
            return owner if whole.shape == self.shape else owner.reshape(self.shape)
        made = interop.allocate(self.shape, self.dtype, like)
        _apply("copy", (self,), GpuArray(made, like), self.dtype)
        return made.owner

    # Views

    def _viewed(self, view: Callable[[NDArray[Any]], NDArray[Any]]) -> GpuArray:
        """Return what a function that only changes shape, strides, dtype and place makes of the array."""
        # NumPy works it out on memory that is never read.
        shadow = _shadow(self.shape, self.dtype, self.strides)
        start = shadow.__array_interface__["data"][0]
        seen = view(shadow)
        pointer = self.memory.pointer + seen.__array_interface__["data"][0] - start
        return GpuArray(
            self.memory._replace(shape=seen.shape, dtype=seen.dtype, strides=seen.strides, pointer=pointer), self.kin
        )

    def __getitem__(self, key: Any) -> GpuArray:
        keys = key if isinstance(key, tuple) else (key,)
        # With an ellipsis even one element is a view.
        return self._viewed(lambda a: a[keys if Ellipsis in keys else (*keys, ...)])

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        if isinstance(value, GpuArray) and np.may_share_memory(value, target) and value.strides != target.strides:
            value = value.copy()
        _apply("copy", (value,), target)

    def transpose(self, *axes: Any) -> GpuArray:
        """As NumPy's."""
        return self._viewed(lambda a: a.transpose(*axes))

    def view(self, dtype: Any) -> GpuArray:
        """As NumPy's, for a dtype of the same size."""
        return self._viewed(lambda a: a.view(dtype))

    def reshape(self, *shape: Any) -> GpuArray:
        """As NumPy's: a view where strides allow, else a copy."""
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        rest = self.size // max(math.prod(n for n in sizes if n != -1), 1)
        wanted = tuple(rest if n == -1 else int(n) for n in sizes)
        if math.prod(wanted) != self.size:
            raise ValueError(f"cannot reshape an array of shape {self.shape} into shape {tuple(sizes)}")
        strides = _reshaped(self.shape, self.strides, wanted, self.itemsize)
        if strides is None:
            return self.copy().reshape(wanted)
        return GpuArray(self.memory._replace(shape=wanted, strides=strides), self.kin)

    @property
    def real(self) -> GpuArray:
        """As NumPy's."""
        return self._viewed(lambda a: a.real)

    @real.setter
    def real(self, value: Any) -> None:
        _assign(self.real, value)

    @property
    def imag(self) -> GpuArray:
        """As NumPy's, of a complex array."""
        return self._viewed(lambda a: a.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        _assign(self.imag, value)

    # Copies

    def copy(self) -> GpuArray:
        """Return a copy in C order."""
        return self.astype(self.dtype)

    def astype(self, dtype: Any, copy: bool = True) -> GpuArray:
        """As NumPy's; floats become integers as C converts them."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype and not copy:
            return self
        copied: GpuArray = _apply("copy", (self,), _empty(self.shape, dtype, self))
        return copied

    def conj(self) -> Any:
        """As NumPy's."""
        return np.conjugate(self)

    def all(self) -> bool:
        """As NumPy's, of all elements; it waits for them."""
        from gpuconv.backends.cuda import launch, memory, ndarray_kernels

        if not self.size:
            return True
        mask = self.astype(np.bool_).view(np.uint8)
        with memory.Job(mask.memory) as job:
            found, flat = job.upload(np.zeros(1, np.uint8)), job.read(mask.memory, "uint8", flat=True)
            job.launch(ndarray_kernels.find_false(), (launch.blocks_of(self.size),), launch.THREADS, flat.data, found)
            host = np.empty(1, np.uint8)
            launch.to_host(found, host, job.stream)
        return not host[0]

    # NumPy's protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        name = ufunc.__name__
        if method != "__call__" or name not in _UFUNCS or set(kwargs) - {"casting"}:
            return NotImplemented
        # NumPy says what dtype that gives, on arrays of no elements, and refuses what it refuses.
        samples = [_sample(a) for a in inputs]
        dtype = ufunc(*samples, **({} if out is None else {"out": np.empty(0, out[0].dtype)}), **kwargs).dtype
        if out is None:
            target = _empty(np.broadcast_shapes(*map(_shape, inputs)), dtype, self)
        else:
            (target,) = out
            dtype = ufunc(*samples).dtype
        loop = np.result_type(*samples) if name in _TRUTHS else dtype
        return _apply(name, inputs, target, loop)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        implementation = _FUNCTIONS.get(function.__name__)
        return NotImplemented if implementation is None else implementation(self, *args, **kwargs)


# Elementwise work


def _apply(name: str, inputs: Sequence[Any], target: Any, loop: Any = None) -> Any:
    """Write a function of some arrays and numbers, broadcast, into `target` and return that."""
    from gpuconv.backends.cuda import launch, memory, ndarray_kernels

    if not target.size:
        return target
    operands = [a if isinstance(a, GpuArray) else _operand(a) for a in inputs]
    made = _copied_as(operands[0].dtype, target.dtype) if name == "copy" else _computed(np.dtype(loop))
    computed = ("int64", made, made) if name == "select" else (made,) * len(operands)
    made = "int64" if name in _TRUTHS else made
    if made.startswith("complex") and f"complex {name}" in ndarray_kernels.FUNCTIONS:
        name = f"complex {name}"
    kernel = ndarray_kernels.elementwise(name, tuple(a.dtype.name for a in operands), computed, made, target.dtype.name)
    with memory.Job(*(a.memory for a in operands if isinstance(a, GpuArray)), target.memory) as job:
        data, layouts = [], []
        for a in (*operands, target):
            storage = _storage(a.dtype)
            if isinstance(a, GpuArray):
                low, end = a.memory.bounds()
                data.append(launch.view(low, (end - low) // storage.itemsize, storage, a.memory.owner))
                strides = np.broadcast_to(_shadow(a.shape, a.dtype, a.strides), target.shape).strides
            else:
                data.append(job.upload(a.view(storage)))
                strides = np.broadcast_to(a, target.shape).strides
            layouts.append(tuple(stride // storage.itemsize for stride in strides))
        missing = ndarray_kernels.OPERANDS - len(operands)
        data[-1:-1] = data[-1:] * missing
        layouts[-1:-1] = [(0,) * target.ndim] * missing
        meta = job.resident(_numbers, target.shape, tuple(layouts))
        job.launch(kernel, (launch.blocks_of(target.size),), launch.THREADS, *data, meta)
    return target


def _operand(value: Any) -> Any:
    """Return a number or an array of the host as NumPy's in C order, another library's on the GPU as a `GpuArray`."""
    return GpuArray.of(value) if interop.is_on_gpu(value) else np.ascontiguousarray(value).reshape(np.shape(value))


def _sample(value: Any) -> Any:
    """Return what NumPy's rules of dtypes see of an operand: an array of no elements, or the number itself."""
    if interop.is_on_gpu(value):
        return np.empty(0, GpuArray.of(value).dtype)
    return np.empty(0, value.dtype) if isinstance(value, np.ndarray) and value.ndim else value


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, GpuArray) else np.shape(value)


def _computed(dtype: np.dtype[Any]) -> str:
    """Return the dtype that kernels compute numbers of a dtype in."""
    if dtype.kind in "biu":
        return "int64"
    return "float32" if dtype.name in ("float16", "bfloat16") else dtype.name


def _copied_as(source: np.dtype[Any], target: np.dtype[Any]) -> str:
    """Return the dtype that elements have on their way from one to the other: the source's own, or a wider one."""
    becomes_float = source.kind in "biu" and target.kind not in "biu"
    becomes_complex = source.kind != "c" and target.kind == "c"
    return _computed(target if becomes_float or becomes_complex else source)


def _storage(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype({"bool": "uint8", "bfloat16": "uint16"}.get(dtype.name, dtype))


def _numbers(shape: tuple[int, ...], layouts: tuple[tuple[int, ...], ...]) -> NDArray[np.int64]:
    """Return what the kernel reads: see `ndarray_kernels.elementwise`."""
    starts = [-sum(min(s, 0) * (n - 1) for s, n in zip(strides, shape, strict=True)) for strides in layouts]
    axes: list[tuple[int, ...]] = []
    for n, *strides in list(zip(shape, *layouts, strict=True))[::-1]:
        if n == 1:
            continue
        if axes and all(s == inner * axes[-1][0] for s, inner in zip(strides, axes[-1][1:], strict=True)):
            axes[-1] = (axes[-1][0] * n, *axes[-1][1:])
        else:
            axes.append((n, *strides))
    return np.array([math.prod(shape), len(axes), *starts, *(n for axis in axes for n in axis)], np.int64)


def _shadow(shape: tuple[int, ...], dtype: np.dtype[Any], strides: tuple[int, ...]) -> NDArray[Any]:
    """Return a NumPy array of such a layout, over memory that is not there."""
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides)


@functools.lru_cache(maxsize=1024)
def _reshaped(
    shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...], itemsize: int
) -> tuple[int, ...] | None:
    """Return the strides of a view of another shape, or None where there is no such view."""
    if math.prod(shape) == 0:
        return (itemsize,) * len(wanted)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    # Runs of axes that lie one within the other, last one first: elements, and the stride of the innermost axis.
    runs: list[list[int]] = []
    for n, s in reversed(old):
        if runs and s == runs[-1][0] * runs[-1][1]:
            runs[-1][0] *= n
        else:
            runs.append([n, s])
    found, taken = [], 1
    for n in reversed(wanted):
        if n == 1:
            found.append(itemsize)
            continue
        if not runs or runs[0][0] % (taken * n):
            return None
        found.append(runs[0][1] * taken)
        taken *= n
        if taken == runs[0][0]:
            runs.pop(0)
            taken = 1
    return tuple(reversed(found))


# NumPy's functions, by name


def _empty(shape: Any, dtype: Any, like: GpuArray) -> GpuArray:
    from gpuconv.backends.cuda import launch

    sizes = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    with launch.faults():
        return GpuArray(interop.allocate(sizes, np.dtype(dtype), like), like.kin)


def _full(like: GpuArray, shape: Any, value: Any, dtype: Any = float, **_order: Any) -> Any:
    return _apply("copy", (value,), _empty(shape, dtype, like))


def _assign(target: GpuArray, value: Any) -> None:
    """Write into a part; what `part += a` gives is that part itself, and needs no writing."""
    same = isinstance(value, GpuArray) and value.memory[:4] == target.memory[:4]
    if not same:
        _apply("copy", (value,), target)


def _asarray(like: GpuArray, value: Any, dtype: Any = None) -> GpuArray:
    if isinstance(value, GpuArray) or interop.is_on_gpu(value):
        found = GpuArray.of(value)
        return found if dtype is None else found.astype(dtype, copy=False)
    host = np.asarray(value, dtype)
    return _full(like, host.shape, host, host.dtype)  # type: ignore[no-any-return]


def _where(_: GpuArray, mask: Any, a: Any, b: Any) -> Any:
    like = next(value for value in (mask, a, b) if isinstance(value, GpuArray))
    dtype = np.result_type(_sample(a), _sample(b))
    return _apply("select", (mask, a, b), _empty(np.broadcast_shapes(*map(_shape, (mask, a, b))), dtype, like), dtype)


def _copyto(_: GpuArray, target: Any, value: Any, casting: str = "same_kind", where: Any = True) -> None:
    if not isinstance(target, GpuArray):
        raise TypeError("an array in a GPU's memory is not copied to the host without being asked")
    source = value.dtype if hasattr(value, "dtype") else np.min_scalar_type(value)
    if not np.can_cast(source, target.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"cannot cast from {source} to {target.dtype} according to the rule {casting!r}")
    if where is True:
        _apply("copy", (value,), target)
    else:
        _apply("select", (where, value, target), target, target.dtype)


def _may_share_memory(_: GpuArray, a: Any, b: Any, max_work: Any = None) -> bool:
    if not (isinstance(a, GpuArray) and isinstance(b, GpuArray)):
        return False
    (first, end), (other_first, other_end) = a.memory.bounds(), b.memory.bounds()
    return bool(a.size and b.size) and first < other_end and other_first < end


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "empty": lambda like, shape, dtype=float: _empty(shape, dtype, like),
    "empty_like": lambda _, a: _empty(a.shape, a.dtype, a),
    "zeros": lambda like, shape, dtype=float: _full(like, shape, 0, dtype),
    "ones": lambda like, shape, dtype=float, **order: _full(like, shape, 1, dtype, **order),
    "full": _full,
    "asarray": _asarray,
    "where": _where,
    "copyto": _copyto,
    "may_share_memory": _may_share_memory,
    "flip": lambda _, a, axis=None: a._viewed(lambda s: np.flip(s, axis)),  # noqa: SLF001
    "shape": lambda _, a: a.shape,
    "ndim": lambda _, a: a.ndim,
    "iscomplexobj": lambda _, a: a.dtype.kind == "c",
    "result_type": lambda _, *given: np.result_type(*(getattr(a, "dtype", a) for a in given)),
}
