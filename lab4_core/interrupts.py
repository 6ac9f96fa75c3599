"""Requests to stop: Ctrl-C, the notebook's stop button, a scheduler's SIGTERM, a closed terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Raised to leave work that need not be finished, because everything before it is saved."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP (a closed terminal) into a request to be checked between two steps, so
    that no update is left half done; a second one interrupts at once. A signal that is ignored (nohup) stays ignored.
    Only the main thread can do this; in other threads nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []
    before = {}

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, ask) or signal.SIG_DFL
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
