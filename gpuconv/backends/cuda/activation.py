"""Activations on CUDA: one pass over a finished result, for algorithms that do not fuse them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuconv.dtypes import name_of

if TYPE_CHECKING:
    from gpuconv.backends.cuda.memory import Array

__all__ = ["apply"]


def apply(array: Array, name: str) -> None:
    """Replace the elements of an array of floats by their activation; an array of the host goes there and back."""
    from gpuconv.backends.cuda import activation_kernels, launch, memory

    dtype = name_of(array.dtype)
    with memory.Job(array) as job:
        # Before the target: what is not in C order is copied, and copied back at the job's end.
        source, target = job.read(array, dtype, flat=True), job.write(array, dtype, flat=True)
        kernel = activation_kernels.activating(name, dtype)
        job.launch(kernel, (launch.blocks_of(array.size),), launch.THREADS, source.data, target.data, array.size)
