"""Threads, forks, interrupts, and the same bits at any number of threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from problems import CASES, THREADED
from support import (
    OPERATIONS,
    Engine,
    assert_close,
    compute,
    environment,
    expected,
    python,
    reachable,
    reduction_length,
    tolerance,
)

import gpuconv
from gpuconv.dispatch import Call


def some_calls(engine: Engine) -> list[tuple[str, Call]]:
    """Return calls of many shapes and all operations that the engine takes."""
    found = []
    for i, case in enumerate((*THREADED, *CASES[::7])):
        operation, problem = OPERATIONS[i % 4], case.problem()
        call = Call(problem, operation, ("float32", "float64")[i // 4 % 2])
        if reachable(problem, operation) and engine.takes(call):
            found.append((case.name, call))
    return found


def test_eight_threads_with_different_shapes(engine: Engine) -> None:
    calls = some_calls(engine)
    wanted = {name: expected(call, name) for name, call in calls}
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait(60)
        for i in range(len(calls)):
            # Each thread begins elsewhere in the list, so that different shapes run at the same time.
            name, call = calls[(i + thread * len(calls) // 8) % len(calls)]
            limit = tolerance(call.dtype, reduction_length(call.problem, call.operation))
            assert_close(compute(engine, call, name), wanted[name], limit, f"{engine} thread {thread} {name}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_eight_threads_with_one_shape(engine: Engine) -> None:
    for case in THREADED[:3]:
        call = Call(case.problem(), "forward", "float32")
        if not engine.takes(call):
            continue
        alone = compute(engine, call, case.name).tobytes()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _, c=call, n=case.name: compute(engine, c, n).tobytes(), range(24)))
        assert set(results) == {alone}


def test_same_bits_when_called_again(engine: Engine) -> None:
    for case in THREADED:
        for operation in OPERATIONS:
            call = Call(case.problem(), operation, "float32")
            if reachable(call.problem, operation) and engine.takes(call):
                assert len({compute(engine, call, case.name).tobytes() for _ in range(3)}) == 1, f"{case} {operation}"


_BITS = """
import hashlib
from gpuconv.dispatch import Call
from problems import THREADED, by_name
from support import OPERATIONS, compute, engines, reachable

extra = by_name("many-channels", "long-kernel", "wide-image", "depthwise-last", "wrap-volume", "transposed-wide")
for engine in engines():
    for case in (*THREADED, *extra):
        for operation in OPERATIONS:
            for dtype in ("float32", "float64"):
                call = Call(case.problem(), operation, dtype)
                if reachable(call.problem, operation) and engine.takes(call):
                    digest = hashlib.sha256(compute(engine, call, case.name).tobytes()).hexdigest()
                    print(engine, case, operation, dtype, digest)
"""


def test_same_bits_at_any_number_of_threads() -> None:
    one, *others = (python(_BITS, GPUCONV_NUM_THREADS=n).splitlines() for n in ("1", "2", "5"))
    assert len(one) > 60
    for other in others:
        assert [line for line in one if line not in other] == []


_AFTER_FORK = """
import os, sys, threading, warnings
import numpy as np
import gpuconv

warnings.simplefilter("ignore", DeprecationWarning)
x, w = np.random.default_rng(0).random((2, 16, 40, 40), np.float32), np.ones((16, 16, 3, 3), np.float32)
wanted = gpuconv.conv2d(x, w, padding=1)

def right():
    '''Whether a call is right, or refused with an error that says why.'''
    try:
        return gpuconv.conv2d(x, w, padding=1).tobytes() == wanted.tobytes()
    except RuntimeError as error:
        return "fork" in str(error)

def in_child():
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if right() and right() else 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_computes() -> None:
    assert python(_AFTER_FORK + "\nprint(in_child(), right(), in_child())", timeout=60).split() == ["0", "True", "0"]


def test_a_fork_while_another_thread_computes() -> None:
    """The child inherits the pool's locks in whatever state they were in, and none of its threads."""
    code = """
busy = True
def work():
    while busy:
        right()
thread = threading.Thread(target=work)
thread.start()
codes = [in_child() for _ in range(6)]
busy = False
thread.join()
print(*codes, right())
"""
    assert python(_AFTER_FORK + code, timeout=90).split() == ["0"] * 6 + ["True"]


def test_a_forked_grandchild_and_multiprocessing() -> None:
    code = """
import multiprocessing
def nested():
    sys.exit(0 if right() and in_child() == 0 else 4)
process = multiprocessing.get_context("fork").Process(target=nested)
process.start()
process.join()
print(process.exitcode, right())
"""
    assert python(_AFTER_FORK + code, timeout=90).split() == ["0", "True"]


_LONG = """
import signal
import numpy as np
import gpuconv

# A shell's background jobs, and what they start, begin with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def work(length, taps):
    x, w = np.ones((64, length), np.float32), np.ones((64, 64, taps), np.float32)
    return gpuconv.conv1d(x, w, algorithm="direct")

assert (work(4200, 16) == 64 * 16).all()
print("ready", flush=True)
try:
    # 5e12 floating-point operations on two threads: far more than ten seconds' work.
    work(150_000, 4096)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    assert (work(4200, 16) == 64 * 16).all()
    print("right", flush=True)
else:
    print("finished", flush=True)
"""


def test_an_interrupt_ends_a_long_call() -> None:
    """Ctrl-C is honoured within 3 seconds, and the next call is right: the promise, so the one time in this suite."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LONG], env=environment(GPUCONV_NUM_THREADS="2"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    killer = threading.Timer(100, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.5)
        assert process.poll() is None, "the call ended before it could be interrupted"
        sent = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        waited = time.monotonic() - sent
        # Not communicate(): it would pass over what readline() has read ahead.
        rest = process.stdout.read()
        assert process.stderr is not None
        assert rest == "right\n", process.stderr.read()
        assert waited < 3
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


def test_an_interrupt_between_threads_leaves_results_whole() -> None:
    """Threads that are not the main one never see the interrupt; their calls must finish right."""
    x, w = np.ones((4, 16, 64, 64), np.float32), np.ones((8, 16, 3, 3), np.float32)
    results = []

    def convolve():
        # Sums of whole numbers are exact where no transform comes between.
        return gpuconv.conv2d(x, w, precision="highest")

    thread = threading.Thread(target=lambda: results.extend(convolve() for _ in range(5)))
    thread.start()
    try:
        signal.raise_signal(signal.SIGINT)
        convolve()
    except KeyboardInterrupt:
        pass
    thread.join(60)
    assert len(results) == 5
    assert all((y == 144).all() for y in results)
