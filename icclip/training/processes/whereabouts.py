"""Where in a run a process is: told to the company, so that a message about a wait can say it."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from typing_extensions import override

from icclip.training.processes.company import Company


class Whereabouts(TrainerCallback):
    """Says where in the run this process is.

    Args:
        company: is told.
    """

    def __init__(self, company: Company) -> None:
        self.company = company

    @override
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.company.at(f"reading the batch of step {state.global_step + 1}")

    @override
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.company.at(f"computing step {state.global_step + 1}")

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the first step nobody waits longer than the timeout."""
        self.company.hurry()
        self._next(state, control)

    @override
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._next(state, control)

    @override
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.company.at(f"saving the checkpoint of step {state.global_step}")

    @override
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.company.at(f"reading the batch of step {state.global_step + 1}")

    def _next(self, state: Any, control: Any) -> None:
        step = state.global_step
        if control.should_evaluate:
            self.company.at(f"measuring after step {step}")
        elif control.should_save:
            self.company.at(f"saving the checkpoint of step {step}")
        else:
            self.company.at(f"reading the batch of step {step + 1}")
