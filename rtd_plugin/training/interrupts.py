"""Ctrl-C and SIGTERM, postponed to the end of a training step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def catch_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM was received; Ctrl-C after that stops at once.

    Only the main thread receives signals: in another thread the function always returns False.
    """
    interrupted = False

    def remember(signal_number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {name: signal.signal(name, remember) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: interrupted
    finally:
        for name, handler in previous.items():
            # None is a handler that was not set from Python, which Python cannot set again.
            signal.signal(name, signal.SIG_DFL if handler is None else handler)
