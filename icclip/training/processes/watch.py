"""A process whose launcher has died ends itself, instead of writing on into a run that is somebody else's by then."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback
from typing_extensions import override

from icclip.errors import TrainingStoppedError


class LauncherWatch(TrainerCallback):
    """Looks after each step whether what started this process is still there.

    A process whose parent dies is given another one by the system: that is noticed here.
    """

    def __init__(self) -> None:
        self.launcher = os.getppid()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises TrainingStoppedError where the launcher is gone."""
        if os.getppid() != self.launcher:
            raise TrainingStoppedError(
                f"the launcher (process {self.launcher}) has ended, so this process ends too, at step "
                f"{state.global_step}: start it again with --resume"
            )
