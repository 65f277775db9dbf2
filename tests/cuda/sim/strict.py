"""A stricter and faster block runner for Numba's simulator, installed by conftest.py.

Numba's own starts every thread of a block at once and polls them. Here one thread runs at a time, to its next barrier,
in an order that alternates between blocks: so a missing barrier shows as poison that was read, in one order or the
other. Moreover a barrier that some threads of a block do not reach, an index below zero or past the end, and
shared or local memory that is read before it was written are faults, as they are on a GPU. The lines of kernels that
ran are noted.
"""

import ast
import sys
import threading

import kernel_lint
import numpy as np
from numba import cuda
from numba.core import types
from numba.cuda.simulator import kernel as kernels
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv import devicearray
from numba.np import numpy_support


class Thread(threading.Thread):
    """One CUDA thread; it has the baton from `resume` until its next barrier or its end."""

    def __init__(self, body, state):
        super().__init__(target=body, daemon=True)
        self.blockIdx, self.threadIdx, self.thread_id = state
        self.go, self.back = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.waiting, self.exception, self.abort = False, None, False

    def run(self):
        self.go.acquire()
        try:
            if not self.abort:
                sys.settrace(Lines.trace)
                super().run()
        except BaseException as error:
            self.exception = error
        self.waiting = False
        self.back.release()

    def resume(self):
        self.go.release()
        self.back.acquire()

    def syncthreads(self):
        self.waiting = True
        self.back.release()
        self.go.acquire()
        self.waiting = False
        if self.abort:
            raise SystemExit


class Lines:
    """Which lines of the kernels ran: the unexecuted ones of each file's compiled functions."""

    missing: dict = {}

    @classmethod
    def watch(cls, paths):
        """Note the lines of every kernel and device function of some files."""
        for path in paths:
            functions = {f.name for f in kernel_lint.functions(ast.parse(path.read_text()))}
            waiting = [compile(path.read_text(), str(path), "exec")]
            while waiting:
                code = waiting.pop()
                waiting += [constant for constant in code.co_consts if hasattr(constant, "co_lines")]
                if code.co_name in functions and "libdevice" not in code.co_names:
                    lines = {line for _, _, line in code.co_lines() if line} - {code.co_firstlineno}
                    cls.missing[str(path), code.co_firstlineno] = lines

    @classmethod
    def trace(cls, frame, event, argument):
        left = cls.missing.get((frame.f_code.co_filename, frame.f_code.co_firstlineno))
        if not left:
            return None

        def local(frame, event, argument):
            left.discard(frame.f_lineno)
            return local

        return local


class Blocks:
    """In the place of Numba's BlockManager: runs the threads of one block after another."""

    reverse = False

    def __init__(self, function, grid, block, debug):
        self.function, self.block = function, block

    def run(self, grid_point, *arguments):
        threads = []
        for point in np.ndindex(*self.block):
            number = point[0] + self.block[0] * (point[1] + self.block[1] * point[2])
            state = kernelapi.Dim3(*grid_point), kernelapi.Dim3(*point), number
            threads.append(Thread(lambda: self.function(*arguments), state))
        if Blocks.reverse:
            threads.reverse()
        Blocks.reverse = not Blocks.reverse
        for thread in threads:
            thread.start()
        alive = threads
        while alive:
            for thread in alive:
                thread.resume()
                if thread.exception is not None:
                    self.end(threads)
                    raise thread.exception
            waiting = [thread for thread in alive if thread.waiting]
            if waiting and len(waiting) != len(threads):
                self.end(threads)
                raise AssertionError(f"{len(waiting)} of {len(threads)} threads wait at a barrier; the others ended")
            alive = waiting
        for thread in threads:
            thread.join()

    def end(self, threads):
        for thread in threads:
            if thread.is_alive() and (thread.waiting or not thread.exception):
                thread.abort = True
                thread.go.release()


def poison(shape, dtype):
    """Return memory that nobody has written."""
    if isinstance(dtype, types.Type):
        dtype = numpy_support.as_dtype(dtype)
    dtype = np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind in "fc" else 0x5B5B5B5B5B5B5B5B % 2 ** (8 * dtype.itemsize - 1), dtype)


class Checked:
    """A kernel's array argument: flat, indexed by whole numbers within its bounds."""

    def __init__(self, array):
        self.array, self.size = array, array.size

    def __getitem__(self, i):
        if not 0 <= i < self.size:
            raise IndexError(f"index {i} of an array of {self.size}")
        return self.array[i]

    def __setitem__(self, i, value):
        if not 0 <= i < self.size:
            raise IndexError(f"index {i} of an array of {self.size}")
        self.array[i] = value


def local(self, shape, dtype):
    return Checked(poison(shape, dtype))


def shared(self, shape, dtype):
    """Return the array of this line of the kernel, made by the first thread that comes to it."""
    frame = sys._getframe(1)
    place = frame.f_code, frame.f_lineno
    if place not in self._allocations:
        self._allocations[place] = Checked(poison(shape, dtype))
    return self._allocations[place]


def install():
    kernels.BlockManager = Blocks
    cuda.device_array = lambda shape, dtype: devicearray.FakeCUDAArray(poison(shape, dtype))
    kernels.FakeWithinKernelCUDAArray = lambda item: Checked(item._ary)
    kernelapi.FakeCUDALocal.array = local
    kernelapi.FakeCUDAShared.array = shared
