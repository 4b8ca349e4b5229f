"""State that one encoder shares between threads, and what happens with it in a forked process.

A fork copies locks in their current state and does not copy threads. Therefore a fork waits until no tower is being
loaded, locks are made anew in the child, and sessions that were opened before are abandoned there: their threads do
not exist in the child, and destroying a session would wait for them forever.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from icclip.bundles.manifest import Tower
from icclip.errors import ClosedError, UsageError
from icclip.runtime.limits import Budget
from icclip.runtime.sessions import Session

_TOWERS: tuple[Tower, ...] = ("vision", "text")
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_number = itertools.count()


class Shared:
    """Locks, open graphs and the pixel budget of one encoder.

    Args:
        pixels_at_once: see `Limits`.
        lost_by_fork: what a forked child cannot use again once its parent has (`a GPU`); None: graphs can be opened again.
    """

    def __init__(self, pixels_at_once: int, *, lost_by_fork: str | None) -> None:
        self.number = next(_number)
        self.pixels_at_once, self.lost_by_fork = pixels_at_once, lost_by_fork
        self.sessions: dict[Tower, Session] = {}
        self.lanes: dict[Tower, Session] = {}
        self.closed = self.refused = False
        self._renew()
        _ALL.add(self)

    def session(self, tower: Tower, load: Callable[[Tower], Session], *, lanes: bool = False) -> Session:
        """The tower's graph, loaded on first use.

        Args:
            tower: which tower.
            load: opens it.
            lanes: the graph that many threads run at once, each by itself (`icclip.runtime.lanes`).

        Raises:
            ClosedError: the encoder was closed.
            UsageError: the process was forked after the encoder had used what a fork loses.
        """
        with self.locks[tower]:
            self.check_usable()
            held = self.lanes if lanes else self.sessions
            if tower not in held:
                held[tower] = load(tower)
            return held[tower]

    def check_usable(self) -> None:
        """Raises ClosedError or UsageError, as `session` does."""
        if self.closed:
            raise ClosedError("this encoder is closed: open the bundle again")
        if self.refused:
            raise UsageError(
                f"this encoder was opened on {self.lost_by_fork} before this process was forked: open it in each worker, "
                "or start the workers with spawn or forkserver"
            )

    def close(self) -> None:
        """Release the graphs. Runs that are under way are completed."""
        for tower in _TOWERS:
            with self.locks[tower]:
                self.closed = True
                self.sessions.pop(tower, None)
                self.lanes.pop(tower, None)

    def before_fork(self) -> None:
        """Wait until no tower is being loaded."""
        for lock in self.locks.values():
            lock.acquire()

    def after_fork(self) -> None:
        """Continue in the parent."""
        for lock in self.locks.values():
            lock.release()

    def in_child(self) -> None:
        """Start again with new locks in the child."""
        for session in (*self.sessions.values(), *self.lanes.values()):
            _never_destroy(session)
        self.sessions, self.lanes = {}, {}
        self.refused = self.lost_by_fork is not None
        self._renew()

    def _renew(self) -> None:
        # The lock is reentrant, so that a thread that forks while it loads does not wait for itself.
        self.locks: dict[Tower, Any] = {tower: threading.RLock() for tower in _TOWERS}
        self.budget = Budget(self.pixels_at_once)


def _never_destroy(value: object) -> None:
    """Keep one more reference than exists, so that not even the end of the interpreter destroys the session."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


# Forks --------------------------------------------------------------------------------------------

_ALL: weakref.WeakSet[Shared] = weakref.WeakSet()


class _Fork:
    """A fork under way in this thread. There is only one at a time, because locks are always taken in the same order."""

    lock = threading.RLock()
    held: tuple[Shared, ...] = ()
    set_parallelism = False


def _before() -> None:
    _Fork.lock.acquire()
    _Fork.held = tuple(sorted(_ALL, key=lambda shared: shared.number))
    for shared in _Fork.held:
        shared.before_fork()
    # Otherwise tokenizers prints a warning into the child's standard error, and does the same by itself.
    _Fork.set_parallelism = bool(_Fork.held) and _PARALLELISM not in os.environ
    if _Fork.set_parallelism:
        os.environ[_PARALLELISM] = "false"


def _in_parent() -> None:
    if _Fork.set_parallelism:
        os.environ.pop(_PARALLELISM, None)
    for shared in reversed(_Fork.held):
        shared.after_fork()
    _Fork.held = ()
    _Fork.lock.release()


def _in_child() -> None:
    _Fork.lock = threading.RLock()
    for shared in _Fork.held:
        shared.in_child()
    _Fork.held = ()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
