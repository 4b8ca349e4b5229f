"""Decide when a run is evaluated, saved and logged, and restore its position in the data when it is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from typing_extensions import override

from icclip.errors import UsageError
from icclip.runs.checkpoints import CHECKPOINT


@dataclass(frozen=True)
class Cadence:
    """How often a run is evaluated and saved.

    Args:
        eval_every: epochs between evaluations, each of which saves a checkpoint.
        save_every: steps between checkpoints that are not evaluated; None means that every checkpoint is evaluated.
    """

    eval_every: int = 1
    save_every: int | None = None


EVERY_EPOCH = Cadence()


class Schedule(TrainerCallback, ExportableState):
    """Evaluates and saves at the end of every n-th epoch and of the last one, and saves in between if asked to.

    If the data has no known length, Trainer counts epochs as a fraction of `max_steps` and cannot find its
    position in a stream again. So the passes, and the steps of the current pass, are counted here.

    Args:
        data: a sampler of known length, or a stream; its `epoch` is set before each epoch.
        cadence: how often the run is evaluated and saved.
    """

    def __init__(self, data: Any, cadence: Cadence) -> None:
        self.data, self.cadence = data, cadence
        self.streamed = isinstance(data, IterableDataset)
        self.done = self.steps = 0
        self.skipping = False

    def state(self) -> dict[str, Any]:
        """The values that `trainer_state.json` stores."""
        return {"args": {}, "attributes": {"done": self.done, "steps": self.steps}}

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the position and the best checkpoint again; the directory may have moved."""
        position = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.done, self.steps = position["done"], position["steps"]
        self.skipping = self.streamed and self.steps > 0
        if state.best_global_step is not None:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"{CHECKPOINT}-{state.best_global_step}")

    @override
    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Tell the data the epoch. In a split, Trainer skips the indices it has seen; a stream must be read up to its position."""
        self.data.epoch = self.done
        if self.streamed:
            train_dataloader.skip_batches = self.steps * args.gradient_accumulation_steps

    @override
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """There is a batch: the pass had not been read to its end."""
        self.skipping = False

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save if a checkpoint is due, except at the end of an epoch, where `on_epoch_end` decides."""
        self.steps += 1
        if self.streamed:
            state.epoch = float(self.done)
        ends = state.global_step >= state.max_steps or (not self.streamed and state.epoch == int(state.epoch))
        # Logged, too, so that no mean of losses begins before a checkpoint and ends after it.
        if self._due(state) and not ends:
            control.should_save = control.should_log = True

    @override
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate if it is time. Raises UsageError where a pass over a stream has made no step."""
        if self.skipping:
            # The pass had been read to its end, which Trainer would take for an empty stream.
            control.should_training_stop = state.global_step >= state.max_steps
            self.skipping = False
        elif self.streamed and not self.steps:
            images = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
            raise UsageError(
                f"a pass over the stream makes no step: {'each worker' if args.dataloader_num_workers else 'it'} reads fewer "
                f"than the {images} images of a step: give a smaller --train-bs"
                f"{' or fewer --workers' if args.dataloader_num_workers else ''}"
            )
        self.done, self.steps = self.done + 1, 0
        if self.streamed:
            state.epoch = float(self.done)
        last = state.global_step >= state.max_steps or self.done >= args.num_train_epochs
        evaluated = self.done % self.cadence.eval_every == 0 or last or control.should_training_stop
        control.should_evaluate = evaluated
        control.should_save = control.should_log = evaluated or (not self.streamed and self._due(state))

    def _due(self, state: Any) -> bool:
        every = self.cadence.save_every
        return every is not None and state.global_step % every == 0
