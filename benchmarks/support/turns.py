"""Our Trainer's steps in turns with those of others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import Trainer, TrainerCallback


class EnoughError(Exception):
    """Ends our Trainer after the last round, before it saves a checkpoint."""


class Turns(TrainerCallback):
    """After some of our steps the others take as many of theirs: their time is not ours.

    Args:
        name: what our times are called.
        others: each `next` is a step.
        rounds: turns that count.
        warmup: turns before them that do not.
        window: steps in a turn.
        synchronize: waits until the device has done what it was told.
    """

    def __init__(
        self,
        name: str,
        others: Mapping[str, Iterator[object]],
        *,
        rounds: int,
        warmup: int,
        window: int = 1,
        synchronize: Callable[[], object] = lambda: None,
    ) -> None:
        self.name, self.others = name, others
        self.rounds, self.warmup, self.window = rounds, warmup, window
        self.synchronize = synchronize
        self.taken: dict[str, list[float]] = {one: [] for one in (name, *others)}
        self.started = 0.0

    def of(self, trainer: Trainer) -> dict[str, list[float]]:
        """Run a trainer that has this callback: seconds a step, for each contestant and counted turn."""
        try:
            trainer.train()
        except EnoughError:
            return {name: [own / self.window for own in taken[self.warmup :]] for name, taken in self.taken.items()}
        raise RuntimeError("training ended before the last round: give more data")

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, *_more: Any, **_kwargs: Any) -> None:
        if state.global_step % self.window:
            return
        self._stop(self.name)
        for name, steps in self.others.items():
            self.started = time.perf_counter()
            for _ in range(self.window):
                next(steps)
            self._stop(name)
        if len(self.taken[self.name]) == self.warmup + self.rounds:
            raise EnoughError
        self.started = time.perf_counter()

    def _stop(self, name: str) -> None:
        self.synchronize()
        self.taken[name].append(time.perf_counter() - self.started)
