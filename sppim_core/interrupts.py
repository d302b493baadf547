"""Ctrl-C between the steps of a training, not within: what belongs together is done together."""

import signal
import threading
from contextlib import contextmanager

from sppim_core._core import Core

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Hold:
    """While it is entered, handlers of SIGINT and SIGTERM wait for the end of a step(); only long calls of the core,
    which are undone if a handler raises, let them in at once. Outside of the main thread there is nothing to hold."""

    def __init__(self, core: Core):
        self._core = core
        self._handlers: dict = {}
        self._holding = False
        self._waiting: list[tuple] = []

    def __enter__(self) -> "Hold":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self._holding and not self._core.busy:
            self._waiting.append((number, frame))
        else:
            self._handlers[number](number, frame)

    @contextmanager
    def step(self):
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            while self._waiting:
                number, frame = self._waiting.pop()
                self._handlers[number](number, frame)
