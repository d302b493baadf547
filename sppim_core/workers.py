"""Processes that carry out calls side by side. They end with their parent, and stop what they do if it is stopped."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

_stop = None  # in a worker: a pipe that nobody reads; something in it says stop (an event would wait for the dead)


def _ignore(number, frame) -> None:
    """SIGINT between two calls: nothing is lost, the parent says what comes next."""


def _begin(parent: int, stop) -> None:
    """The first thing a worker does."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_watch, args=(parent, stop), daemon=True).start()


def _watch(parent: int, stop) -> None:
    told = False
    while os.getppid() == parent:
        if told:
            time.sleep(0.5)
        elif stop.poll(0.5):
            told = True
            os.kill(os.getpid(), signal.SIGINT)
    os._exit(1)  # the parent was killed; checkpoints stay


def _call(function, arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if _stop is not None and _stop.poll():  # the pool hands out calls ahead of time
            raise KeyboardInterrupt
        return function(*arguments)
    finally:
        signal.signal(signal.SIGINT, _ignore)


@contextmanager
def _held_back() -> Iterator[None]:
    """SIGINT waits, in the processes started meanwhile until they are ready for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def results(function, calls: list[tuple], jobs: int) -> Generator:
    """What function(*arguments) returns for each of the calls, as they finish, `jobs` at a time. Whoever stops, by an
    exception here or in a call, interrupts the other calls as Ctrl-C does."""
    context = multiprocessing.get_context("spawn")
    stop, say_stop = context.Pipe(duplex=False)
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(os.getpid(), stop)) as pool:
        try:
            with _held_back():
                futures = [pool.submit(_call, function, arguments) for arguments in calls]
            for future in as_completed(futures):
                yield future.result()
        except BaseException as error:
            say_stop.send_bytes(b"stop")
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError("a process that trained was killed, or ran out of memory") from error
            raise
