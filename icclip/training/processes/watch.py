"""End a process whose launcher has died, before it writes into a run that another process may have taken over."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback
from typing_extensions import override

from icclip.errors import TrainingStoppedError


class LauncherWatch(TrainerCallback):
    """Checks after each step whether the launcher of this process is still running.

    The system gives a process whose parent dies another parent, which is noticed here.
    """

    def __init__(self) -> None:
        self.launcher = os.getppid()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise TrainingStoppedError if the launcher has ended."""
        if os.getppid() != self.launcher:
            raise TrainingStoppedError(
                f"the launcher (process {self.launcher}) has ended, so this process ends too, at step "
                f"{state.global_step}: start it again with --resume"
            )
