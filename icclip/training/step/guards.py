"""Check that a run still improves, by comparing each evaluation with that of step 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from transformers import TrainerCallback
from typing_extensions import override

from icclip.console import Reporter
from icclip.runs.history import SIGNS_OF_COLLAPSE, evaluations_in

COLLAPSED = 0.1
"""Embeddings have collapsed if their variance falls below this share of its value before training."""
TEMPERATURE_LOST = 0.5
"""Below this share of its value before training, exp(logit_scale) no longer tells pairs apart."""


class Guard(TrainerCallback):
    """Stops a run that stays below the model it began with, and warns if the embeddings collapse.

    Args:
        patience: the number of evaluations in a row below that of step 0 that ends the run.
        reporter: shows the warnings.
    """

    def __init__(self, patience: int, reporter: Reporter) -> None:
        self.patience, self.reporter = patience, reporter

    @override
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        measured, step = evaluations_in(state.log_history), state.global_step
        # While the rate rises, a model that starts from random weights first draws everything together.
        warmed_up = step > args.get_warmup_steps(state.max_steps)
        if warmed_up and (collapse := collapsed(measured)):
            self.reporter.warn(f"step {step}: {collapse}: try a smaller --lr, or --freeze")
        if has_given_up(measured, self.patience):
            self.reporter.warn(
                f"step {step}: the last {self.patience} evaluations had an rsum below the {measured[0]['rsum']:.1f} of "
                "step 0, so training stops; the best checkpoint is kept; try a smaller --lr, or a larger --patience"
            )
            control.should_training_stop = True


def has_given_up(measured: Mapping[int, Mapping[str, float]], patience: int) -> bool:
    """Whether the last `patience` evaluations all have a lower rsum than step 0.

    Args:
        measured: the metrics, with `rsum`, of each step in ascending order.
        patience: a number of at least 1.
    """
    if 0 not in measured:
        return False
    start = measured[0]["rsum"]
    later = [metrics["rsum"] for step, metrics in measured.items() if step > 0]
    return len(list(takewhile(lambda rsum: rsum < start, reversed(later)))) >= patience


def collapsed(measured: Mapping[int, Mapping[str, float]]) -> str:
    """Describe what has collapsed since step 0, with the numbers; empty if nothing has.

    A model that starts from random weights has hardly any variance to lose.

    Args:
        measured: step -> metrics with SIGNS_OF_COLLAPSE, ascending.
    """
    if 0 not in measured:
        return ""
    start, now = measured[0], measured[max(measured)]
    narrow = [tower for tower in ("image", "text") if now[f"{tower}_variance"] < COLLAPSED * start[f"{tower}_variance"]]
    signs = [f"the {tower} embeddings collapse" for tower in narrow]
    if temperature(now) < TEMPERATURE_LOST * temperature(start):
        signs.append("the temperature falls")
    numbers = ", ".join(f"{name} {start[name]:.3g} -> {now[name]:.3g}" for name in SIGNS_OF_COLLAPSE)
    return f"{' and '.join(signs)} ({numbers})" if signs else ""


def temperature(metrics: Mapping[str, float]) -> float:
    """The factor that cosines are multiplied by, exp(logit_scale)."""
    return math.exp(metrics["logit_scale"])
