"""Convolutions that are plain matrix products, by cuBLAS through CuPy.

Kernels of one element, kernels that never overlap (a stride as long as the kernel, as of patches) and kernels as large
as the input read no input twice, so writing their windows down costs a copy at most. float32 is multiplied as float32;
only ``precision="tf32"`` allows TF32.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import batches, cublas, cupy_work
from gpuconv.backends.cuda.cupy_work import grouped
from gpuconv.dtypes import to_numpy

if TYPE_CHECKING:
    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.cupy_work import Work
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = ["cost", "pack", "run", "supports", "temporary", "workspace"]

_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_MOST = (1 << 31) - 1
"""Rows, columns and batches of a product: cuBLAS counts them in 32 bits."""
_TENSOR_CORES = {"float16": "Float16", "bfloat16": "BFloat16", "tf32": "TF32"}


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.dtype not in _DTYPES:
        return f"cuBLAS has no product of {call.dtype} that it could use"
    if call.dtype == "bfloat16" and device.compute_capability < (8, 0):
        return f"bfloat16 on {device.name}: cuBLAS takes it from compute capability 8.0 on"
    if any(b > 1 for b in p.input_dilation):
        return f"input_dilation={p.input_dilation}: it takes 1"
    if any(before > 0 or after > 0 for before, after in p.padding):
        return f"padding={p.padding}: a matrix product has no border"
    if not all(k == 1 or s >= e or n == 1 for k, s, e, n in zip(p.kernel, p.stride, p.extent, p.output, strict=True)):
        return f"kernel={p.kernel}, stride={p.stride}: windows overlap, which no plain product is"
    if max(p.batch, *p.gemm) > _MOST:
        return f"a product of {p.gemm} with a batch of {p.batch}: cuBLAS counts to {_MOST}"
    return cupy_work.missing(device)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds: those of the products, and of the windows that are written down."""
    flops = float(call.flops)
    tensor = _TENSOR_CORES.get("tf32" if call.precision == "tf32" and call.dtype == "float32" else call.dtype)
    if tensor and device.compute_capability >= (8, 0):
        flops *= 2 * tuning_cuda.cuda_lanes(device.compute_capability) / tuning_cuda.TENSOR_FLOPS[tensor]
    traffic = call.bytes + 2 * temporary(call)
    return tuning_cuda.cuda_cost("gemm", call.dtype, flops, traffic, device.flops, device.bandwidth)


def _is_pointwise(p: ConvProblem) -> bool:
    """Return whether the windows are the input itself."""
    return p.kernel == p.stride == (1,) * p.rank and p.output == p.spatial


def pack(call: Call, w: Any) -> Any:
    """Return the weights on the GPU, or None where the call reads none."""
    if call.operation == "weight_gradient":
        return None
    with cupy_work.Work(w) as work:
        return work.xp.ascontiguousarray(work.read(w)).copy()


def temporary(call: Call) -> int:
    """Return the bytes that a call takes on the GPU besides its arrays: the windows that are written down."""
    p, itemsize = call.problem, to_numpy(call.dtype).itemsize
    windows = itemsize * p.batch * p.groups * p.gemm[2] * math.prod(p.output)
    if call.operation == "weight_gradient":
        return windows + itemsize * math.prod(p.y_shape)
    return 0 if _is_pointwise(p) else windows


def workspace(call: Call) -> int:
    """Return the bytes of the weights on the GPU and of the windows that are written down."""
    return temporary(call) + math.prod(call.problem.w_shape) * to_numpy(call.dtype).itemsize


@batches.split(temporary=temporary)
def run(call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any = None) -> None:
    """Write the array that the operation writes, every element of it."""
    with cupy_work.Work(x, w, y, bias) as work:
        if call.operation == "weight_gradient":
            _weight_gradient(call, work, x, w, y)
        elif call.operation == "forward":
            _forward(call, work, x, _weights(call, work, w, packed), y, bias)
        else:
            _adjoint(call, work, y, _weights(call, work, w, packed), x, bias)


def _weights(call: Call, work: Work, w: Any, packed: Any) -> Any:
    """Return the weights as (groups, outputs of a group, inputs and taps)."""
    p = call.problem
    weights = work.read(w) if packed is None else packed
    if call.operation == "input_gradient" and call.is_complex:
        weights = weights.conj()
    return weights.reshape(p.groups, p.gemm[0], p.gemm[2])


def _forward(call: Call, work: Work, x: Any, weights: Any, y: Any, bias: Any) -> None:
    xp, p = work.xp, call.problem
    if y.size == 0:
        return
    target = grouped(xp, p, work.write(y))
    columns = _columns(xp, _windows(xp, p, work.read(x)), p.rank)
    rows = _flat(xp, target, 3)
    result = xp.empty((*target.shape[:3], columns.shape[3]), target.dtype) if rows is None else rows
    if bias is not None:
        result[...] = work.read(bias).reshape(1, p.groups, -1, 1)
    _products(xp, weights, columns, result, call, add=bias is not None)
    if rows is None:
        target[...] = result.reshape(target.shape)


def _adjoint(call: Call, work: Work, y: Any, weights: Any, x: Any, bias: Any) -> None:
    xp, p = work.xp, call.problem
    if x.size == 0:
        return
    target, rows = work.write(x), _columns(xp, grouped(xp, p, work.read(y)), 0)
    spread = _windows(xp, p, target)
    columns = _flat(xp, spread[(slice(None),) * 3 + (0,) * p.rank], 3) if _is_pointwise(p) else None
    offset = None if bias is None else work.read(bias).reshape(1, p.groups, -1, 1)
    if columns is not None:
        if offset is not None:
            columns[...] = offset
        _products(xp, weights.swapaxes(1, 2), rows, columns, call, add=offset is not None)
        return
    result = xp.empty((p.batch, p.groups, p.gemm[2], rows.shape[3]), target.dtype)
    # What no window reads is the bias alone.
    whole = grouped(xp, p, target)
    if offset is None:
        whole[...] = 0
    else:
        whole[...] = offset.reshape(1, p.groups, -1, *(1,) * p.rank)
        result[...] = xp.repeat(offset, math.prod(p.kernel), axis=2)
    _products(xp, weights.swapaxes(1, 2), rows, result, call, add=offset is not None)
    spread[...] = result.reshape(spread.shape)


def _weight_gradient(call: Call, work: Work, x: Any, w: Any, y: Any) -> None:
    xp, p = work.xp, call.problem
    if w.size == 0:
        return
    target = work.write(w)
    # The sum runs over images too: both are laid out as (groups, rows, images and positions).
    columns, rows = (
        xp.ascontiguousarray(xp.moveaxis(a, 0, 2)).reshape(p.groups, a.shape[2], p.batch * a.shape[3])
        for a in (
            _columns(xp, _windows(xp, p, work.read(x)), p.rank),
            _columns(xp, grouped(xp, p, work.read(y)), 0),
        )
    )
    if call.is_complex:
        columns = columns.conj()
    result = xp.empty((p.groups, p.gemm[0], p.gemm[2]), target.dtype)
    cublas.product(xp, rows, columns.swapaxes(1, 2), result, call.dtype, tf32=call.precision == "tf32")
    target[...] = result.reshape(target.shape)


def _products(xp: Any, weights: Any, columns: Any, result: Any, call: Call, *, add: bool) -> None:
    """Write result[n, g] = weights[g] @ columns[n, g], or add it."""
    images, groups = result.shape[:2]
    columns_as, result_as = _merged(columns), _merged(result)
    tf32 = call.precision == "tf32"
    if columns_as is not None and result_as is not None:
        view = xp.lib.stride_tricks.as_strided
        one, other = view(columns, *columns_as), view(result, *result_as)
        cublas.product(xp, weights, one, other, call.dtype, tf32=tf32, add=add)
    elif images >= groups:
        for g in range(groups):
            one = xp.broadcast_to(weights[g : g + 1], (images, *weights.shape[1:]))
            cublas.product(xp, one, columns[:, g], result[:, g], call.dtype, tf32=tf32, add=add)
    else:
        for n in range(images):
            cublas.product(xp, weights, columns[n], result[n], call.dtype, tf32=tf32, add=add)


def _merged(array: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return shape and strides of (n, g, r, c) as (g, r, n and c), where images follow each other as columns do."""
    (n, g, r, c), (of_n, of_g, of_r, of_c) = array.shape, array.strides
    if n > 1 and c > 1 and of_n != c * of_c:
        return None
    return (g, r, n * c), (of_g, of_r, of_c if c > 1 else of_n)


def _windows(xp: Any, p: ConvProblem, array: Any) -> Any:
    """Return a view of x as (batch, groups, channels, taps..., positions...)."""
    whole = grouped(xp, p, array)
    inside = whole[(slice(None),) * 3 + tuple(slice(-before, None) for before, _ in p.padding)]
    steps = inside.strides[3:]
    taps = tuple(d * step for d, step in zip(p.dilation, steps, strict=True))
    positions = tuple(s * step for s, step in zip(p.stride, steps, strict=True))
    shape = (*inside.shape[:3], *p.kernel, *p.output)
    return xp.lib.stride_tricks.as_strided(inside, shape, (*inside.strides[:3], *taps, *positions))


def _columns(xp: Any, array: Any, taps: int) -> Any:
    """Return (batch, groups, channels, taps..., positions...) with channels and taps as one axis, and positions."""
    rows = math.prod(array.shape[2 : 3 + taps])
    flat = _flat(xp, array, 3 + taps)
    if flat is not None and rows == array.shape[2]:
        return flat[(slice(None),) * 3 + (0,) * taps]
    return xp.ascontiguousarray(array).reshape(*array.shape[:2], rows, math.prod(array.shape[3 + taps :]))


def _flat(xp: Any, array: Any, first: int) -> Any:
    """Return a view with the axes from `first` on as one, or None where their strides do not allow it."""
    pairs = [(n, step) for n, step in zip(array.shape[first:], array.strides[first:], strict=True) if n > 1]
    for (_, outer), (n, inner) in itertools.pairwise(pairs):
        if outer != n * inner:
            return None
    step = pairs[-1][1] if pairs else array.itemsize
    shape = (*array.shape[:first], math.prod(array.shape[first:]))
    return xp.lib.stride_tricks.as_strided(array, shape, (*array.strides[:first], step))
