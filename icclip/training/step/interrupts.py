"""Handle requests to stop the process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def terminated_as_interrupted(is_ending: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let SIGTERM, which job schedulers send before they kill a job, raise KeyboardInterrupt as Ctrl-C does.

    Args:
        is_ending: whether the process is about to end anyway, so that the signal changes nothing: a launcher sends it to
            all processes as soon as one of them has failed.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can set signal handlers; a program that trains in another thread has its own.
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: None if is_ending() else _interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt() -> None:
    # The processes that load images are often told as well, and where they end torch would raise in the
    # midst of saving.
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise KeyboardInterrupt
