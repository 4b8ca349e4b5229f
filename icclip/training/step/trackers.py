"""The experiment trackers of a run: none that refuses ends in a traceback, and none that fails later ends the run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from icclip.errors import UsageError, shorten
from icclip.training.trackers import needed_modules

if TYPE_CHECKING:
    from torch import nn

BEGINS = ("on_init_end", "on_train_begin")
"""The events at which trackers connect to where they report to."""
EVENTS = tuple(name for name in dir(TrainerCallback) if name.startswith("on_") and name != "on_init_end")


class Trackers(TrainerCallback):
    """All trackers of a run as one callback, which Trainer gets instead of them.

    A tracker that fails after the first step is left out from then on, with a warning.

    Args:
        trackers: transformers' callbacks by the names of `--report-to`.
        warn: is told which tracker failed and why.
    """

    def __init__(self, trackers: Mapping[str, TrainerCallback], warn: Callable[[str], None]) -> None:
        self.trackers, self.warn = dict(trackers), warn
        for event in EVENTS:
            setattr(self, event, partial(self.tell, event))

    @classmethod
    def started(cls, arguments: TrainingArguments, model: nn.Module, warn: Callable[[str], None]) -> Self:
        """Connect every tracker that the arguments name, and leave none there for Trainer to make again.

        Args:
            arguments: of the run; its `report_to` is empty afterwards.
            model: what the run trains; trackers record its configuration.
            warn: see the class.

        Raises:
            UsageError: a tracker refuses, for example because nobody is logged in.
        """
        trackers = cls({name: _made(name) for name in arguments.report_to or ()}, warn)
        state = TrainerState(
            is_world_process_zero=arguments.process_index == 0,
            is_local_process_zero=arguments.local_process_index == 0,
            logging_steps=int(arguments.logging_steps),
        )
        given = (arguments, state, TrainerControl())
        trackers.tell("on_init_end", *given, model=model)
        # Those with a setup do it at their first `on_train_begin` alone; the others write into the run's directory there.
        with_setup = {name: one for name, one in trackers.trackers.items() if hasattr(one, "setup")}
        cls(with_setup, warn).tell("on_train_begin", *given, model=model, processing_class=None)
        arguments.report_to = []
        return trackers

    def tell(self, event: str, *given: Any, **further: Any) -> None:
        """Pass an event of TrainerCallback with its arguments on to every tracker.

        Raises:
            UsageError: a tracker fails at one of the events with which a run begins.
        """
        for name, tracker in list(self.trackers.items()):
            try:
                with _words_to_stderr():
                    getattr(tracker, event)(*given, **further)
            except Exception as error:  # foreign code, which may raise anything
                if event in BEGINS:
                    raise _refused(name, error) from error
                del self.trackers[name]
                self.warn(f"--report-to {name} failed: {_why(error)}; the run goes on without it")


def _made(name: str) -> TrainerCallback:
    try:
        with _words_to_stderr():
            # MLflow's callback cannot be deleted without an error if this fails while it is made.
            for module in needed_modules(name):
                import_module(module)
            tracker: TrainerCallback = get_reporting_integration_callbacks([name])[0]()
    except Exception as error:  # foreign code, which may raise anything
        raise _refused(name, error) from error
    return tracker


def _refused(name: str, error: Exception) -> UsageError:
    return UsageError(f"--report-to {name} cannot start: {_why(error)}; log in or set it up, or leave it out")


def _why(error: Exception) -> str:
    return shorten(str(error)).rstrip(".") or type(error).__name__


def _words_to_stderr() -> contextlib.AbstractContextManager[Any]:
    """What trackers print is not a result, and must not be mixed with one."""
    return contextlib.redirect_stdout(sys.stderr)
