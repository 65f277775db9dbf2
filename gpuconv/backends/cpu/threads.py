"""A pool of threads that runs compiled kernels, task by task.

Numba's own parallel layers end the process after a fork, may abort when two Python threads call at once, and cannot be
interrupted. This pool has none of that: its workers are Python threads inside compiled code without the GIL; the
calling thread works too, in slices between which Python handles signals; after a fork the child starts its own workers.

A kernel is a compiled function ``kernel(parameters, task, scratch)`` of three int64: the address of its parameters, the
number of the task and the address of the calling thread's scratch memory. Tasks are claimed one at a time, so a
disturbed core takes fewer.

A worker is a Python thread that enters compiled code once and never comes back, so it never waits for the GIL. It waits
for the next job by looking at its mailbox for a while, then sleeps on a lock that whoever posts a job releases. A
mailbox holds `_PARKED`, `_SPINNING`, `_BUSY` or the address of a job.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from gpuconv.backends.cpu import memory
from gpuconv.backends.cpu.memory import LINE

Array = np.ndarray[Any, Any]

__all__ = ["SMALL_FLOPS", "count", "run"]

SMALL_FLOPS = 400e3
"""Work that one thread does sooner than it hands half of it over."""

_PARKED, _SPINNING, _BUSY = 0, 1, 2
_NEXT, _TASKS, _ACTIVE, _SLOT, _KERNEL, _PARAMETERS, _SCRATCH, _SCRATCH_SIZE = range(8)
_WAIT = 500e-6
"""Seconds that a worker looks for its next job before it sleeps, and a caller for the end of its own: most programs
come back sooner, and to wake a sleeper takes longer than many a convolution."""


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
def _write(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _exchange(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace the int64 at an address if it is `expected`; return whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        result = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Wait some cycles, leaving the core's other hardware thread and the memory bus alone where the processor can."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if builder.module.triple.startswith(("x86_64", "i686")):
            pause = builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), []))
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _call(typingctx: Any, kernel: Any, parameters: Any, task: Any, scratch: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        function = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), [i64] * 3).as_pointer())
        builder.call(function, args[1:])
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64), codegen


@intrinsic
def _call_lock(typingctx: Any, function: Any, lock: Any) -> Any:
    """Call CPython's function that acquires a lock, waiting, or the one that releases it, which ignores the flag."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, i64 = ir.IntType(32), ir.IntType(64)
        callee = builder.inttoptr(args[0], ir.FunctionType(i32, [i64, i32]).as_pointer())
        builder.call(callee, [args[1], ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


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


@njit(f"void({_I}, {_I}[::1], {_I}, {_I}, {_I})", nogil=True, cache=True)
def _work_alone(kernel: int, parameters: Any, scratch: int, first: int, last: int) -> None:
    """Run tasks `first` to `last` - 1 of a kernel."""
    for task in range(first, last):
        _call(kernel, parameters.ctypes.data, task, scratch)


@njit(f"void({_I}, {_I}, {_I}, {_I})", nogil=True, cache=True)
def _serve(mailbox: int, spins: int, acquire: int, lock: int) -> None:
    """Run the jobs that arrive in a mailbox, for ever."""
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
            # Woken for a job that its caller took back meanwhile.
            _exchange(mailbox, _PARKED, _SPINNING)
        else:
            _pause()
            idle += 1
            if idle > spins and _exchange(mailbox, _SPINNING, _PARKED):
                _call_lock(acquire, lock)
                idle = 0


@njit(f"void({_I}, {_I}, {_I}, {_I}, {_I})", nogil=True, cache=True)
def _post(mailboxes: int, workers: int, job: int, wanted: int, release: int) -> None:
    """Hand a job to at most `wanted` idle workers, to those that are awake first."""
    for state in (_SPINNING, _PARKED):
        for i in range(workers):
            mailbox = mailboxes + LINE * i
            if wanted > 0 and _atomic_read(mailbox) == state:
                _atomic_add(job + 8 * _ACTIVE, 1)
                if _exchange(mailbox, state, job):
                    wanted -= 1
                    if state == _PARKED:
                        _call_lock(release, _atomic_read(mailbox + 8))
                else:
                    _atomic_add(job + 8 * _ACTIVE, -1)


@njit(f"boolean({_I}, {_I}, {_I}, {_I})", nogil=True, cache=True)
def _finish(mailboxes: int, workers: int, job: int, spins: int) -> bool:
    """Take the job back from workers that have not begun it; return whether none is at it any more."""
    for i in range(workers):
        if _exchange(mailboxes + LINE * i, job, _PARKED):
            _atomic_add(job + 8 * _ACTIVE, -1)
    for _ in range(spins):
        if _atomic_read(job + 8 * _ACTIVE) == 0:
            return True
        _pause()
    return False


@njit(f"boolean({', '.join([_I] * 4)}, {_I}[::1], {', '.join([_I] * 7)})", nogil=True, cache=True)
def _run(
    job: int, kernel: int, tasks: int, slice_tasks: int, parameters: Any, scratch: int, scratch_bytes: int,
    mailboxes: int, workers: int, wanted: int, release: int, spins: int,
) -> bool:  # fmt: skip
    """Do a job with the workers' help; return whether it is done, which it is unless a slice was not enough for it."""
    _write(job + 8 * _NEXT, 0)
    _write(job + 8 * _TASKS, tasks)
    _write(job + 8 * _ACTIVE, 0)
    _write(job + 8 * _SLOT, 1)
    _write(job + 8 * _KERNEL, kernel)
    _write(job + 8 * _PARAMETERS, parameters.ctypes.data)
    _write(job + 8 * _SCRATCH, scratch)
    _write(job + 8 * _SCRATCH_SIZE, scratch_bytes)
    _post(mailboxes, workers, job, wanted, release)
    if _work(job, 0, slice_tasks) == slice_tasks:
        return False
    done: bool = _finish(mailboxes, workers, job, spins)
    return done


@njit(f"void({_I})", nogil=True, cache=True)
def _wait(spins: int) -> None:
    for _ in range(spins):
        _pause()


def _spins() -> int:
    """Return the pauses, whose length is the processor's own affair, that last `_WAIT`."""
    shortest = 1.0
    for _ in range(3):
        start = time.perf_counter()
        _wait(1000)
        shortest = min(shortest, time.perf_counter() - start)
    return max(1000, int(_WAIT * 1000 / shortest))


def _lock() -> int:
    """Return the address of a new lock, acquired; it lives as long as the process, as its worker does."""
    address: int | None = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))()
    if address is None:
        raise MemoryError("no memory for a worker's lock")
    ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", ctypes.pythonapi))(
        address, 1
    )
    return address


def _function(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


class _Pool:
    """The workers of one process: all threads but the caller's."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.memory, self.mailboxes = memory.aligned((workers + 1) * LINE)
        self.memory[:] = 0
        # Workers look at it until the process ends, after Python has let go of every object.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.memory))
        self.release, acquire = _function("PyThread_release_lock"), _function("PyThread_acquire_lock")
        self.spins = _spins()
        for i in range(workers):
            mailbox, lock = self.mailboxes + LINE * i, _lock()
            ctypes.c_int64.from_address(mailbox + 8).value = lock
            arguments = (mailbox, self.spins, acquire, lock)
            threading.Thread(target=_serve, args=arguments, name=f"gpuconv-{i + 1}", daemon=True).start()


@functools.cache
def _pool() -> _Pool:
    return _Pool(count() - 1)


_starting = [threading.Lock()]
_jobs: list[memory.Block] = []


def _forget() -> None:
    """In the child of a fork: the parent's workers are not here, nor is what held the lock."""
    _starting[0] = threading.Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


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
    block = memory.take(threads * scratch_bytes)
    scratch = block[1]
    if threads == 1:
        for first in range(0, tasks, slice_tasks):
            _work_alone(kernel, parameters, scratch, first, min(first + slice_tasks, tasks))
    else:
        with _starting[0]:
            pool = _pool()
        try:
            job = _jobs.pop()
        except IndexError:
            job = memory.aligned(LINE)
        done = False
        try:
            done = _run(
                job[1], kernel, tasks, slice_tasks, parameters, scratch, scratch_bytes,
                pool.mailboxes, pool.workers, threads - 1, pool.release, pool.spins,
            )  # fmt: skip
            while not done and _work(job[1], 0, slice_tasks) == slice_tasks:
                pass
        finally:
            if not done:
                _leave(pool, job)
        _jobs.append(job)
    memory.give_back(block)


def _leave(pool: _Pool, job: memory.Block) -> None:
    """Wait until no worker is at a job, whatever signals arrive meanwhile: its memory is in use until then."""
    interrupted: BaseException | None = None
    words = job[0].view(np.int64)
    words[_NEXT] = max(words[_NEXT], words[_TASKS])
    while True:
        try:
            if _finish(pool.mailboxes, pool.workers, job[1], pool.spins):
                break
            time.sleep(50e-6)
        except BaseException as signal:  # noqa: BLE001 - raised below
            interrupted = signal
    if interrupted is not None:
        raise interrupted
