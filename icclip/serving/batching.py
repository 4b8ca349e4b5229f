"""Inputs of different requests are encoded together, in a thread of their own, and no more wait than may.

As soon as the encoder is free it takes what has gathered meanwhile: a lone request does not wait, and many share a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from icclip.serving.problems import RequestProblem, busy

Outcome = Any
"""What an input became: a vector, or a RequestProblem."""
Work = Callable[[Sequence[Any]], Sequence[Outcome]]
"""Inputs -> an outcome for each. Called in a thread."""


@dataclass
class _Job:
    inputs: Sequence[Any]
    answer: asyncio.Future[list[Outcome]]


@dataclass
class Batcher:
    """Gathers the inputs of many requests for one tower.

    Args:
        work: encodes inputs.
        most: inputs that run together.
        wait: seconds that the first one waits for others.
        queue: inputs that may wait.
        ran: is told the size of each batch.
    """

    work: Work
    most: int
    wait: float
    queue: int
    ran: Callable[[int], None] = lambda _: None
    _jobs: deque[_Job] = field(default_factory=deque)
    _waiting: int = 0
    _rate: float = 0.0
    """Inputs per second, lately."""
    _runner: asyncio.Task[None] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def waiting(self) -> int:
        """Inputs that wait."""
        return self._waiting

    async def run(self, inputs: Sequence[Any]) -> list[Outcome]:
        """The outcome of each input, in their order.

        Raises:
            RequestProblem: 429, the queue is full.
        """
        if not inputs:
            return []
        if self._waiting and self._waiting + len(inputs) > self.queue:
            raise busy(self._seconds())
        job = _Job(inputs, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._waiting += len(inputs)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._work_off())
        return await job.answer

    def _seconds(self) -> int:
        return max(1, min(60, math.ceil(self._waiting / self._rate))) if self._rate else 1

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs:
            if self.wait and self._waiting < self.most:
                await asyncio.sleep(self.wait)
            jobs = self._next()
            inputs = [one for job in jobs for one in job.inputs]
            if not inputs:
                continue
            began = time.perf_counter()
            try:
                outcomes = list(await loop.run_in_executor(self._thread, self.work, inputs))
            except Exception as error:  # noqa: BLE001 # every request of the batch hears of it
                for job in jobs:
                    _settle(job, error)
                continue
            self._rate = len(inputs) / max(time.perf_counter() - began, 1e-6)
            self.ran(len(inputs))
            start = 0
            for job in jobs:
                _settle(job, outcomes[start : start + len(job.inputs)])
                start += len(job.inputs)

    def _next(self) -> list[_Job]:
        """Whole requests, at least one, as long as they fit; those that were given up are passed over."""
        taken: list[_Job] = []
        size = 0
        while self._jobs and (not taken or size + len(self._jobs[0].inputs) <= self.most):
            job = self._jobs.popleft()
            self._waiting -= len(job.inputs)
            if not job.answer.done():
                taken.append(job)
                size += len(job.inputs)
        return taken

    async def close(self) -> None:
        """End, after what is waiting."""
        if self._runner is not None:
            with contextlib.suppress(Exception):
                await self._runner
        self._thread.shutdown(wait=False)


def _settle(job: _Job, outcome: Any) -> None:
    # A request that was given up in the meantime has nobody who waits.
    if job.answer.done():
        return
    if isinstance(outcome, Exception):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)


def first_problem(outcomes: Sequence[Outcome]) -> None:
    """Raise the first problem among outcomes."""
    for outcome in outcomes:
        if isinstance(outcome, RequestProblem):
            raise outcome
