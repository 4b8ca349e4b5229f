"""What it costs to measure what a run costs.

    python -m benchmarks.run_cost

Everything that is called for it in a step, thousands of times, beside a step of the smallest preset at a small batch,
which is the fastest that anybody trains; and once in 50 steps a line is written. Writes run_cost.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.large_batch_step import Work, our_trainer
from benchmarks.support.timing import environment, rounded, seconds, show, write
from benchmarks.support.turns import EnoughError
from icclip.training.step.cost import EXCHANGE, LOSS, Costs

CALLS, LOGGING_STEPS, STEPS = 5000, 50, 12
BATCH = 32
ALLOWED = 0.01


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        costs = Costs(Path(folder), torch.device("cpu"), pairs=BATCH)
        marks = seconds(lambda: [marks_of_a_step(costs) for _ in range(CALLS)]) / CALLS
        lines = seconds(lambda: [costs.line(step, writes=True) for step in range(CALLS // 10)]) / (CALLS // 10)
        step = step_seconds(Path(folder))
    share = (marks + lines / LOGGING_STEPS) / step
    row = {
        "us a step": rounded(1e6 * marks),
        "us a line": rounded(1e6 * lines),
        "step ms": rounded(1e3 * step),
        "share of a step": rounded(share),
        "below 1 %": share < ALLOWED,
    }
    show([row])
    about = {**environment("icclip", "torch", "transformers"), "threads": torch.get_num_threads()}
    write(__file__, {"about": about, "model": "clip-tiny", "batch": BATCH, **row})


def marks_of_a_step(costs: Costs) -> None:
    """What a step calls, with several processes."""
    costs.begin()
    costs.has_data()
    with costs.counting(), costs.part(LOSS):
        for _ in range(5):
            with costs.part(EXCHANGE):
                pass
    costs.on_pre_optimizer_step(None, None, None)
    costs.on_optimizer_step(None, None, None)
    costs.on_step_end(None, None, None)


def step_seconds(folder: Path) -> float:
    """The median of a step of clip-tiny, by the measure itself."""
    small = Small("clip-tiny")
    taken: list[float] = []
    try:
        our_trainer(small, folder, _Steps(taken)).train()
    except EnoughError:
        return statistics.median(taken[2:])
    raise RuntimeError("training ended before its last step")


class Small(Work):
    """A batch that is encoded at once."""

    batch = BATCH
    micro = BATCH


class _Steps(TrainerCallback):
    def __init__(self, taken: list[float]) -> None:
        self.taken, self.started = taken, 0.0

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, *_more: Any, **_kwargs: Any) -> None:
        self.taken.append(time.perf_counter() - self.started)
        if state.global_step == STEPS:
            raise EnoughError


if __name__ == "__main__":
    main()
