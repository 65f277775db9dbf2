"""A pool of threads that runs compiled kernels, task by task.

Numba's own parallel layers end the process after a fork, may abort when two Python threads call at once, and cannot be
interrupted. This pool has none of that: its workers are Python threads inside compiled code without the GIL; the
calling thread works too, in slices between which Python handles signals; after a fork the child starts its own workers.

A kernel is a compiled function ``kernel(parameters, task, scratch)`` of three int64: the address of its parameters, the
number of the task and the address of the calling thread's scratch memory. Tasks are claimed one at a time, so a
disturbed core takes fewer.

A worker waits a short while for the next job in compiled code, which a caller hands over with one atomic exchange,
then parks in Python. A mailbox holds `_PARKED`, `_SPINNING`, `_BUSY` or the address of a job.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

__all__ = ["count", "run"]

_PARKED, _SPINNING, _BUSY = 0, 1, 2
_NEXT, _TASKS, _ACTIVE, _SLOT, _KERNEL, _PARAMETERS, _SCRATCH, _SCRATCH_SIZE = range(8)
_MAILBOX_BYTES = 64  # one cache line each
_SPINS = 20_000  # some tens of microseconds
_KEPT_SCRATCH = 64 << 20


@functools.cache
def count() -> int:
    """Return the number of threads that a call may use, the caller's included.

    ``GPUCONV_NUM_THREADS`` sets it, else ``NUMBA_NUM_THREADS``, else the cores that this process may run on.
    """
    for name in ("GPUCONV_NUM_THREADS", "NUMBA_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return min(int(value), 64)
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, 64)


# Atomics and calls through addresses


@intrinsic
def _atomic_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an address; return what it held."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _atomic_read(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def _exchange(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace the int64 at an address if it is `expected`; return whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        result = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def _call(typingctx: Any, kernel: Any, parameters: Any, task: Any, scratch: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        function = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), [i64] * 3).as_pointer())
        builder.call(function, args[1:])
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64), codegen


_I = "int64"


@njit(f"int64({_I}, {_I}, {_I})", nogil=True, cache=True)
def _work(job: int, slot: int, most: int) -> int:
    """Run up to `most` tasks of a job; return how many were run, fewer than `most` when none is left."""
    kernel, parameters = _atomic_read(job + 8 * _KERNEL), _atomic_read(job + 8 * _PARAMETERS)
    scratch = _atomic_read(job + 8 * _SCRATCH) + slot * _atomic_read(job + 8 * _SCRATCH_SIZE)
    tasks = _atomic_read(job + 8 * _TASKS)
    for done in range(most):
        task = _atomic_add(job + 8 * _NEXT, 1)
        if task >= tasks:
            return done
        _call(kernel, parameters, task, scratch)
    return most


@njit(f"void({_I}, {_I}[::1], uint8[::1], {_I}, {_I})", nogil=True, cache=True)
def _work_alone(kernel: int, parameters: Any, memory: Any, first: int, last: int) -> None:
    """Run tasks `first` to `last` - 1 of a kernel."""
    scratch = -(-memory.ctypes.data // 64) * 64
    for task in range(first, last):
        _call(kernel, parameters.ctypes.data, task, scratch)


@njit(f"void({_I}, {_I})", nogil=True, cache=True)
def _serve(mailbox: int, spins: int) -> None:
    """Run the jobs that arrive in a mailbox until none has come for `spins` looks at it."""
    idle = 0
    while True:
        job = _atomic_read(mailbox)
        if job > _BUSY:
            if _exchange(mailbox, job, _BUSY):
                _work(job, _atomic_add(job + 8 * _SLOT, 1), 1 << 62)
                _exchange(mailbox, _BUSY, _SPINNING)
                _atomic_add(job + 8 * _ACTIVE, -1)
            idle = 0
        elif job == _PARKED:
            if not _exchange(mailbox, _PARKED, _SPINNING):
                continue
        else:
            idle += 1
            if idle > spins and _exchange(mailbox, _SPINNING, _PARKED):
                return


@njit(f"int64({_I}, {_I}, {_I}, {_I})", nogil=True, cache=True)
def _post(mailboxes: int, number: int, job: int, wanted: int) -> int:
    """Hand a job to idle workers, at most `wanted`; return the parked ones among them, as a mask of bits."""
    parked = 0
    for state in (_SPINNING, _PARKED):
        for i in range(number):
            if wanted > 0:
                _atomic_add(job + 8 * _ACTIVE, 1)
                if _exchange(mailboxes + _MAILBOX_BYTES * i, state, job):
                    wanted -= 1
                    if state == _PARKED:
                        parked |= 1 << i
                else:
                    _atomic_add(job + 8 * _ACTIVE, -1)
    return parked


@njit(f"boolean({_I}, {_I}, {_I}, {_I})", nogil=True, cache=True)
def _finish(mailboxes: int, number: int, job: int, spins: int) -> bool:
    """Take the job back from workers that have not begun it; return whether none is at it any more."""
    for i in range(number):
        if _exchange(mailboxes + _MAILBOX_BYTES * i, job, _PARKED):
            _atomic_add(job + 8 * _ACTIVE, -1)
    left = spins
    while left > 0 and _atomic_read(job + 8 * _ACTIVE) != 0:
        left -= 1
    return left > 0


class _Pool:
    """The workers of one process: all threads but the caller's."""

    def __init__(self, workers: int) -> None:
        self.number = workers
        self._memory = np.zeros((workers + 1) * _MAILBOX_BYTES, np.uint8)
        address = self._memory.ctypes.data
        self.mailboxes = -(-address // _MAILBOX_BYTES) * _MAILBOX_BYTES
        self.wake: list[queue.SimpleQueue[None]] = [queue.SimpleQueue() for _ in range(workers)]
        for i in range(workers):
            threading.Thread(target=self._serve, args=(i,), name=f"gpuconv-{i + 1}", daemon=True).start()

    def _serve(self, i: int) -> None:
        while True:
            self.wake[i].get()
            _serve(self.mailboxes + _MAILBOX_BYTES * i, _SPINS)


@functools.cache
def _pool() -> _Pool:
    return _Pool(count() - 1)


_starting = [threading.Lock()]
_scratch: list[np.ndarray[Any, Any]] = []


def _forget() -> None:
    """In the child of a fork: the parent's workers are not here, nor is what held the lock."""
    _starting[0] = threading.Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _borrow(size: int) -> np.ndarray[Any, Any]:
    """Return scratch memory of at least `size` bytes: kept memory where there is some, since new pages are slow."""
    try:
        kept = _scratch.pop()
    except IndexError:
        kept = np.empty(0, np.uint8)
    return kept if kept.nbytes >= size else np.empty(size, np.uint8)


def run(
    kernel: int,
    parameters: np.ndarray[Any, Any],
    tasks: int,
    scratch_bytes: int,
    slice_tasks: int,
    *,
    alone: bool = False,
) -> None:
    """Run tasks 0 to `tasks` - 1 of a kernel and return when all are done.

    Parameters
    ----------
    kernel : int
        Address of the compiled function.
    parameters : array of int64
        Kept alive, with all that it points to, by the caller.
    tasks : int
    scratch_bytes : int
        Scratch memory that a task needs; a multiple of 64, and the kernel finds it so aligned.
    slice_tasks : int
        Tasks after which the calling thread looks for signals: a second's worth at most.
    alone : bool
        Leave the workers asleep: for work that is done before one would be awake.

    Raises
    ------
    KeyboardInterrupt
        And whatever else a signal handler raises, once every worker has left the kernel.
    """
    threads = 1 if alone else min(tasks, count())
    memory = _borrow(threads * scratch_bytes + 64)
    if threads == 1:
        for first in range(0, tasks, slice_tasks):
            _work_alone(kernel, parameters, memory, first, min(first + slice_tasks, tasks))
    else:
        with _starting[0]:
            pool = _pool()
        scratch = -(-_address(memory) // 64) * 64
        job = np.array([0, tasks, 0, 1, kernel, _address(parameters), scratch, scratch_bytes], np.int64)
        address = _address(job)
        try:
            parked = _post(pool.mailboxes, pool.number, address, threads - 1)
            for i in range(pool.number if parked else 0):
                if parked >> i & 1:
                    pool.wake[i].put(None)
            while _work(address, 0, slice_tasks) == slice_tasks:
                pass
        finally:
            _leave(pool, job)
    if memory.nbytes <= _KEPT_SCRATCH and len(_scratch) < 16:
        _scratch.append(memory)


def _leave(pool: _Pool, job: np.ndarray[Any, Any]) -> None:
    """Wait until no worker is at a job, whatever signals arrive meanwhile: its memory is in use until then."""
    interrupted: BaseException | None = None
    job[_NEXT] = max(job[_NEXT], job[_TASKS])
    spins = _SPINS
    while True:
        try:
            if _finish(pool.mailboxes, pool.number, _address(job), spins):
                break
            spins = 100
            time.sleep(50e-6)
        except BaseException as signal:  # noqa: BLE001 - raised below
            interrupted = signal
    if interrupted is not None:
        raise interrupted
