"""Minima of several cases, timed in turns in one process, peers pinned to one thread."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

_TURN_NS = 2_000_000
_LEAST_ROUNDS = 5


def pin_blas() -> None:
    """One thread for the BLAS of numpy; ImportError without threadpoolctl, which alone can do that now."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)


def pin_peers() -> None:
    """One thread for torch and for the BLAS of numpy, as far as that is possible."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        pin_blas()


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many other processes that do nothing but want a processor."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def once(call: Callable) -> int:
    """Nanoseconds of one call."""
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def interleaved(cases: dict[str, Callable], seconds: float) -> dict[str, float]:
    """Least seconds of one call of each case.

    All are warmed, then take turns until the time is used up, at least five each. A turn is as many calls as fit in
    2 ms, at least two, so that a case finds the caches as it left them itself; each call is timed on its own."""
    pin_peers()
    least = {name: min(once(call) for _ in range(3)) for name, call in cases.items()}
    calls = {name: max(2, min(64, _TURN_NS // max(least[name], 1))) for name in cases}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() < end:
        for name, call in cases.items():
            least[name] = min(least[name], *(once(call) for _ in range(calls[name])))
        rounds += 1
    return {name: ns * 1e-9 for name, ns in least.items()}
