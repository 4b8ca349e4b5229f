"""What the processes of a run tell each other beside their collectives: where each one is, and what has failed.

A collective can say none of this: it only breaks, or never returns. The board is torch's own key-value store, through
which the processes find each other in the first place. torchrun holds it; without torchrun the first process does.
"""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined] # torch's own door to them

from icclip.errors import TrainingStoppedError, UsageError
from icclip.identity import Identity

ANSWER = timedelta(seconds=20)
"""How long the store may take for a single answer."""
POLL = 0.1
"""Seconds between two looks at something that is awaited."""
_RUNS = itertools.count()


@dataclass(frozen=True, slots=True)
class Failure:
    """The first thing that went wrong on any process."""

    rank: int
    line: str
    """What the process says of it."""
    exit_code: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where a process was when it last said so."""

    beat: int
    """Grows as long as the process lives."""
    phase: str
    seconds: float
    """How long it had been there."""


class Board:
    """One process's access to what all of them have posted. A method raises RuntimeError once the store is gone.

    Args:
        store: which all processes share; nobody else uses its keys.
        rank: of this process.
        size: how many processes there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size

    @classmethod
    def join(cls, who: Identity, environment: Mapping[str, str], patience: float) -> Board:
        """Find the others, and wait until all of them are there.

        Args:
            who: this process.
            environment: says where the processes meet.
            patience: seconds to wait.

        Raises:
            UsageError: the port at which they should meet is taken.
            TrainingStoppedError: some process has not come in time.
        """
        host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        hosts = who.first and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        deadline = time.monotonic() + patience
        if not hosts:
            _wait_for_host(host, port, deadline, patience)
        try:
            store = TCPStore(
                host, port, who.size, hosts, timeout=ANSWER, wait_for_workers=False,
                multi_tenant=True,  # The process group will be made at the same place.
            )  # fmt: skip
        except RuntimeError as error:
            raise UsageError(
                f"the processes cannot meet at {host}:{port} ({str(error).split('. ')[0]}): another run may use "
                "this port, so set MASTER_PORT to a free one"
            ) from error
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        board = cls(PrefixStore(f"icclip/{attempt}/{next(_RUNS)}", store), who.rank, who.size)
        board._wait_for_all(deadline, patience)
        return board

    def _wait_for_all(self, deadline: float, patience: float) -> None:
        self.store.set(f"here/{self.rank}", "")
        while missing := self._lacking("here"):
            # Whoever has come and failed will tell; the others are waited for.
            if self.failure() is not None:
                return
            if time.monotonic() > deadline:
                raise TrainingStoppedError(
                    f"{ranks(missing)} did not start within {patience:g} seconds: look at the output of that process, "
                    "or give a larger --timeout"
                )
            time.sleep(POLL)

    def _lacking(self, key: str) -> list[int]:
        """The ranks that have not posted `key`."""
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        if self.store.check(keys):
            return []
        return [rank for rank, one in enumerate(keys) if not self.store.check([one])]

    # Where everybody is

    def sight(self, own: Sighting) -> None:
        """Say where this process is."""
        self.store.set(f"at/{self.rank}", json.dumps(asdict(own)))

    def sightings(self) -> list[Sighting | None]:
        """Where each process said that it is, in the order of their ranks; None for one that has not said it yet."""
        return [
            Sighting(**self._read(key)) if self.store.check([key]) else None
            for key in (f"at/{rank}" for rank in range(self.size))
        ]

    # What has failed

    def post(self, failure: Failure) -> Failure:
        """Report a failure of this process; what counts is the first one of all, which is returned."""
        self.say(failure.line)
        first = self.store.compare_set("failure", "", json.dumps(asdict(failure)))
        return Failure(**json.loads(first))

    def say(self, line: str) -> None:
        """Note how this process has failed, whether or not it was the first one."""
        self.store.set(f"line/{self.rank}", json.dumps(line))

    def failure(self) -> Failure | None:
        """The first failure of any process; None as long as there is none."""
        return Failure(**self._read("failure")) if self.store.check(["failure"]) else None

    def acknowledge(self) -> None:
        """Say that this process knows of the failure."""
        self.store.set(f"heard/{self.rank}", "")

    def wait_until_heard(self, seconds: float) -> None:
        """Return once all processes know of the failure, or after some seconds: one of them may be dead."""
        deadline = time.monotonic() + seconds
        while self._lacking("heard") and time.monotonic() < deadline:
            time.sleep(POLL)

    def is_unanimous(self, seconds: float) -> bool:
        """Whether every process has failed within some seconds, and all in the same words."""
        deadline = time.monotonic() + seconds
        while self._lacking("line"):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return len({self._read(f"line/{rank}") for rank in range(self.size)}) == 1

    def _read(self, key: str) -> Any:
        # Only of keys that are there: the store would wait for one that is not, and nobody else could use it meanwhile.
        return json.loads(self.store.get(key))


def ranks(found: Sequence[int]) -> str:
    """`rank 3`, or `ranks 1, 2`."""
    return f"rank{'s' * (len(found) > 1)} {', '.join(map(str, found))}"


def _wait_for_host(host: str, port: int, deadline: float, patience: float) -> None:
    """In Python, where a signal is heard; the store's own attempts to connect hear none."""
    while True:
        try:
            socket.create_connection((host, port), timeout=POLL * 10).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise TrainingStoppedError(
                    f"rank 0 could not be reached at {host}:{port} within {patience:g} seconds ({error.strerror or error}): "
                    "look at the output of that process, check MASTER_ADDR and MASTER_PORT, or give a larger --timeout"
                ) from error
            time.sleep(POLL)
        else:
            return
