"""One failure, one message: what happens on one process reaches the others, which end quietly, and no wait is endless."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

from torch import distributed

from icclip.errors import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    ElsewhereError,
    IcclipError,
    InterruptError,
    TrainingStoppedError,
)
from icclip.identity import Identity
from icclip.training.processes.board import POLL, Board, Failure, Sighting, ranks

PATIENT = timedelta(days=1)
"""Before the first step and after the last one a process may have to wait for what another one downloads or measures."""
TICK = 0.3
"""Seconds between two looks of the watching thread."""
BEAT = 1.0
"""Seconds between two signs of life."""
SILENCE = 3.0
"""A process of which nothing is heard for so many seconds is gone, or stopped."""
UNISON = 0.5
"""Seconds in which the others may fail in the same way."""
GRACE = 5.0
"""Seconds in which a process that is stuck may still come to its senses, before its watching thread ends it."""
BROKEN = ("gloo/", "nccl", "connection closed", "connection reset", "connection refused", "broken pipe", "tcpstore")
"""In what torch says when other processes are gone or do not answer."""


class Company:
    """The processes of a run, as one of them sees the others. A process alone has no board, and nothing here does anything.

    A thread says where this process is, listens for failures of others, and notices when nothing goes on.

    Args:
        who: this process.
        timeout: seconds without progress after which the run ends.
    """

    def __init__(self, who: Identity, timeout: float) -> None:
        self.who, self.timeout = who, timeout
        self.last_words: Callable[[], object] = _nothing
        """What still has to be done where the process is stuck and has to be ended."""
        self._board: Board | None = None
        self._phase, self._since, self._beat = "starting", time.monotonic(), 0
        self._hurried = self._ending = self._store_is_gone = False
        self._failure: Failure | None = None
        self._spoken: BaseException | None = None
        self._closed = threading.Event()

    @contextlib.contextmanager
    def together(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Within the block the processes know of each other.

        What is raised in it is raised on one process only: on the others an ElsewhereError takes its place.

        Args:
            environment: says where they meet.

        Raises:
            UsageError, TrainingStoppedError: they do not find each other.
        """
        thread = threading.Thread(target=self._watch, daemon=True, name="company")
        try:
            if self.who.size > 1:
                self._board = Board.join(self.who, environment, self.timeout)
                thread.start()
            yield
            if self.who.size > 1:
                atexit.register(_part)
        except BaseException as error:
            settled = self.settled(error)
            if settled is error:
                raise
            raise settled from error
        finally:
            self._closed.set()
            if thread.ident is not None:
                # A thread that is still asking the store when Python ends aborts the whole process.
                thread.join(GRACE)

    def is_ending(self) -> bool:
        """Whether this process is about to end anyway, so that a request to end has nothing to add."""
        return self._ending or self._failure is not None

    # Where this process is

    def at(self, phase: str) -> None:
        """Say where this process has come to, such as `reading the batch of step 3`."""
        self._phase, self._since = phase, time.monotonic()

    def hurry(self) -> None:
        """From now on nobody waits longer than the timeout."""
        if self._board is not None and not self._hurried:
            self._hurried = True
            _limit_collectives(timedelta(seconds=self.timeout))

    def relax(self) -> None:
        """From now on a process may take its time, as long as it lives."""
        if self._board is not None and self._hurried:
            self._hurried = False
            _limit_collectives(PATIENT)

    # What has failed

    def settled(self, error: BaseException) -> BaseException:
        """What this process has to raise in the place of `error`: on the one that speaks `error` itself, named by its rank.

        It returns once the other processes know.
        """
        if self.who.size == 1 or isinstance(error, ElsewhereError) or error is self._spoken:
            return error
        self._ending = True
        if self._board is None:
            # Nobody has been met yet: what a launcher ends then is no news.
            return ElsewhereError(EXIT_INTERRUPTED) if isinstance(error, KeyboardInterrupt) else error
        try:
            return self._settled(self._board, error)
        except RuntimeError:
            return self._without_store(error)

    def _settled(self, board: Board, error: BaseException) -> BaseException:
        known = self._known(board, error)
        if known is not None and known.rank != self.who.rank:
            if not _is_broken(error):
                board.say(known.line if isinstance(error, KeyboardInterrupt) else str(error))
            board.acknowledge()
            return ElsewhereError(known.exit_code)
        own = self._as_own(board, error, known)
        failure = Failure(self.who.rank, str(own), getattr(own, "exit_code", EXIT_INTERNAL))
        first = board.post(failure)
        board.acknowledge()
        if first.rank != self.who.rank:
            return ElsewhereError(first.exit_code)
        # What is said of others needs no name of this one, and those who are gone will not hear it.
        about_others = own is not error and not isinstance(own, InterruptError)
        board.wait_until_heard(UNISON if about_others and not _timed_out(error) else SILENCE)
        anonymous = about_others or board.is_unanimous(UNISON)
        self._spoken = _named(own, "" if anonymous else f"rank {self.who.rank}")
        return self._spoken

    def _known(self, board: Board, error: BaseException) -> Failure | None:
        """A failure that is known already. An error may be but the echo of one that is about to be."""
        is_echo = _is_broken(error) or isinstance(error, KeyboardInterrupt)
        deadline = time.monotonic() + (BEAT if is_echo else 0)
        while (found := self._failure or board.failure()) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        return found

    def _as_own(self, board: Board, error: BaseException, known: Failure | None) -> BaseException:
        """The error as a user should read it."""
        if known is not None:
            # The thread has noticed that nothing goes on.
            return TrainingStoppedError(known.line)
        if not (_is_broken(error) or isinstance(error, KeyboardInterrupt)):
            return error
        gone = self._silent(board)
        # Whoever has ended breaks the connection at once; only where it stays is there anything to wait for.
        if _timed_out(error):
            return TrainingStoppedError(self._nothing_goes_on(board, gone))
        if gone:
            return TrainingStoppedError(
                f"{ranks(gone)} ended without a word (killed, or the machine is gone), last seen {self._told(board, gone)}: "
                "start again with --resume"
            )
        if isinstance(error, KeyboardInterrupt):
            return InterruptError("interrupted; what was saved before is intact")
        return TrainingStoppedError(f"the connection between the processes broke ({str(error).splitlines()[0]})")

    def _without_store(self, error: BaseException) -> BaseException:
        """The first process, which held the store, is gone: nobody is left to decide who speaks."""
        if self._failure is not None:
            return ElsewhereError(self._failure.exit_code)
        if self.who.first or not (_is_broken(error) or isinstance(error, KeyboardInterrupt)):
            return error
        return TrainingStoppedError(
            "rank 0 ended without a word (killed, or the machine is gone): start again with --resume"
        )

    # The thread

    def _watch(self) -> None:
        board, looked = self._board, time.monotonic()
        assert board is not None, "the thread starts when there is one"
        try:
            while not self._closed.wait(TICK):
                if time.monotonic() - looked >= BEAT or self._beat == 0:
                    looked = time.monotonic()
                    self._say_where(board)
                self._failure = self._failure or board.failure() or self._hang(board)
                if self._failure is not None:
                    board.acknowledge()
                    self._see_it_end(board, self._failure)
                    return
        except RuntimeError:
            # Whoever held the store is gone; the next collective will break.
            self._store_is_gone = True
            self._outlive()

    def _outlive(self) -> None:
        """Without the store nobody can be asked: end this process once it has made no progress for the whole timeout."""
        while not (self._closed.wait(TICK) or self._ending):
            if time.monotonic() - self._since >= self.timeout:
                line = f"rank 0 is gone, and rank {self.who.rank} has not gone on for {self.timeout:g} seconds"
                self._end(f"{line} while {self._phase}: start again with --resume", EXIT_INTERNAL)

    def _say_where(self, board: Board) -> None:
        self._beat += 1
        board.sight(Sighting(self._beat, self._phase, time.monotonic() - self._since))

    def _hang(self, board: Board) -> Failure | None:
        """The failure to report where nothing has gone on for too long."""
        if time.monotonic() - self._since < self.timeout or self._ending:
            return None
        silent = self._silent(board)
        phases = {seen.phase for seen in board.sightings() if seen is not None}
        # All at the same place are busy with the same thing; otherwise one of them is waited for.
        if not silent and (not self._hurried or len(phases) == 1):
            return None
        return board.post(Failure(self.who.rank, self._nothing_goes_on(board, silent), EXIT_INTERNAL))

    def _see_it_end(self, board: Board, failure: Failure) -> None:
        """End the process from here if it does not end by itself: a collective that waits cannot be interrupted."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            if self._ending or self._closed.wait(POLL):
                return
        if self._ending:
            return
        own = failure.rank == self.who.rank
        if own:
            # Others may have ended already, and the store with them.
            with contextlib.suppress(RuntimeError):
                board.wait_until_heard(SILENCE)
        self._end(failure.line if own else "", failure.exit_code)

    def _end(self, line: str, exit_code: int) -> None:
        """End the process from the thread that watches, with one line if this process is to speak."""
        self._ending = True
        if line:
            sys.stderr.write(f"error: {line}\n")
        self.last_words()
        sys.stderr.flush()
        os._exit(exit_code)

    # Who is where

    def _silent(self, board: Board) -> list[int]:
        """The other ranks that give no sign of life. It returns as soon as all have given one."""
        before, deadline = board.sightings(), time.monotonic() + SILENCE
        while True:
            # Others may be looking for a sign of this one just now.
            self._say_where(board)
            now = board.sightings()
            silent = [rank for rank in range(self.who.size) if rank != self.who.rank and now[rank] == before[rank]]
            if not silent or time.monotonic() > deadline:
                return silent
            time.sleep(POLL)

    def _nothing_goes_on(self, board: Board, silent: Sequence[int]) -> str:
        return (
            f"nothing has gone on for {self.timeout:g} seconds: {self._told(board, range(self.who.size), silent)}. "
            "Go on with --resume, or give a larger --timeout if this may take longer"
        )

    def _told(self, board: Board, which: Sequence[int], silent: Sequence[int] = ()) -> str:
        """`ranks 0, 2 computing step 3, rank 1 reading the batch of step 3 (and silent since)`."""
        seen, places = board.sightings(), dict[str, list[int]]()
        for rank in which:
            sighting = seen[rank]
            phase = (
                self._phase
                if rank == self.who.rank
                else "before its first word"
                if sighting is None
                else sighting.phase
            )
            places.setdefault(phase + " (and silent since)" * (rank in silent), []).append(rank)
        if len(which) == 1:
            return next(iter(places))
        return ", ".join(f"{ranks(at)} {phase}" for phase, at in places.items())


def _is_broken(error: BaseException) -> bool:
    """Whether other processes are behind it. Torch has no type for what gloo says."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in BROKEN)


def _timed_out(error: BaseException) -> bool:
    """Whether the others did not answer in time, and may be alive."""
    return "timed out" in str(error).lower()


def _named(error: BaseException, where: str) -> BaseException:
    if isinstance(error, IcclipError):
        error.where, error.settled = where, True
    else:
        # A traceback ends with it.
        error.add_note(f"on {where}" if where else "on every rank")
    return error


def _limit_collectives(timeout: timedelta) -> None:
    if distributed.is_initialized():
        distributed.distributed_c10d._set_pg_timeout(timeout)  # noqa: SLF001 # torch offers no other way


def _part() -> None:
    """Let go of the other processes while Python is still whole.

    Gloo's threads drop their references to what was sent some time after it was sent. A thread that drops the last
    reference to a tensor when Python is ending aborts the process, whose work is done.
    """
    if distributed.is_initialized():
        # The group joins its threads once nobody refers to it, as models that were trained do.
        gc.collect()
        distributed.destroy_process_group()
        # Where a model was divided among the processes, torch's own caches refer to the group for ever. Its threads wait
        # for nothing but Python's lock, which is theirs for the taking meanwhile.
        time.sleep(POLL)


def _nothing() -> None:
    """Where there is nothing left to do."""
