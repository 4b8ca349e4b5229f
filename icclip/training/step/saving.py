"""A Trainer that never leaves half-written checkpoints, and from which a run resumes to the bit."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from typing_extensions import override

from icclip.models.feeder import Feeder
from icclip.models.loaded import LoadedModel
from icclip.models.objective import read_bias, storable
from icclip.runs.checkpoints import CHECKPOINT, require_space, rotate, staged_checkpoint
from icclip.runs.history import evaluations_in
from icclip.training.gentle.lora import plain_state
from icclip.training.gentle.plan import Gentle
from icclip.training.processes.gather import on_first_process, wait_for_all
from icclip.training.step.overrides import overrides_private
from icclip.training.step.sharded import ShardedTrainer


class SavingTrainer(ShardedTrainer):
    """Writes each checkpoint as a plain, whole model that appears under its name when it is complete.

    Args:
        loaded: the model, which is trained in place; its feeder is saved beside the weights.
        args: the arguments, whose `output_dir` is the run directory.
        gentle: which of its weights train, and which are measured and saved.
        options: options of ShardedTrainer and transformers.Trainer.
    """

    def __init__(self, loaded: LoadedModel, args: TrainingArguments, gentle: Gentle, **options: Any) -> None:
        super().__init__(loaded, gentle, args=args, processing_class=_Processor(loaded.feeder), **options)
        self._root = Path(str(args.output_dir))
        self._output_dir = self._root
        # `rotate` deletes checkpoints so that a kill leaves no half of one; Trainer would not.
        self._limit, args.save_total_limit = args.save_total_limit, None

    # Saving

    @overrides_private
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Not `loaded.model`, because `save_model` temporarily replaces the model by the one to save.
        model: Any = self.model
        super()._save(output_dir, storable(model, model.state_dict() if state_dict is None else state_dict))

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model for `icclip eval`. Every process must call this; one of them writes."""
        if self._shards is None and not self.gentle.saves_other_weights:
            super().save_model(output_dir, _internal_call)
            return
        target, in_training = Path(output_dir or self._output_dir), self.model
        with self.as_saved() as saved:
            self.model = saved.model
            try:
                if self.args.should_save:
                    self._save(str(target), plain_state(saved.model))
            finally:
                self.model = in_training
        self.gentle.save(target, self._shards.whole if self._shards else None, writer=self.args.should_save)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    @overrides_private
    @override
    def _get_output_dir(self, trial: Any) -> str:
        """Where `_save_checkpoint` writes: a staging directory while it runs."""
        return str(self._output_dir)

    @overrides_private
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        root = self._root
        name = f"{CHECKPOINT}-{self.state.global_step}"
        # All processes end if the first one sees an error, instead of waiting for it.
        require_space(root, self._bytes_to_save(), on_first_process(lambda: shutil.disk_usage(root).free))
        with staged_checkpoint(root, name, writer=self.args.should_save, wait=wait_for_all) as staging:
            self._output_dir = staging
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._output_dir = root
            self._name_the_best(root, staging / name)
        if self.args.should_save:
            evaluated = evaluations_in(self.state.log_history)
            rotate(root, self._limit, self.state.best_global_step, evaluated)

    def _bytes_to_save(self) -> int:
        """The size of the weights and the optimizer's state; the rest of a checkpoint is small."""
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        kept = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.loaded.model.parameters(), *kept))

    def _name_the_best(self, root: Path, checkpoint: Path) -> None:
        """Correct the name of the best checkpoint: if it was just written, Trainer has recorded its staging name."""
        if self.state.best_global_step is not None:
            self.state.best_model_checkpoint = str(root / f"{CHECKPOINT}-{self.state.best_global_step}")
        if self.args.should_save:
            self.state.save_to_json(str(checkpoint / TRAINER_STATE_NAME))

    @overrides_private
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._shards is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None, "the model is sharded for it"
        state = self._shards.state_of(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self._schedule().state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _schedule(self) -> torch.optim.lr_scheduler.LRScheduler:
        assert self.lr_scheduler is not None, "it is made with the optimizer"
        return self.lr_scheduler

    # Resuming

    def restore(self, checkpoint: Path) -> None:
        """Load the state of a run that has made all its steps, and the weights of its best checkpoint."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.best_model_checkpoint = str(self._root / f"{CHECKPOINT}-{self.state.best_global_step}")
        self._load_best_model()

    @overrides_private
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load through the CPU, because with several processes, transformers asks for the device cpu:0, which torch rejects."""
        if checkpoint is None:
            return
        assert self.optimizer is not None, "there are steps to go on with"
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        if self._shards is None:
            self.optimizer.load_state_dict(state)
        else:
            self._shards.load_state(self.optimizer, state)
        self._schedule().load_state_dict(schedule)

    @overrides_private
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.gentle.saves_other_weights:
            self.gentle.load(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            read_bias(self.loaded.model, Path(resume_from_checkpoint))

    @overrides_private
    def _load_best_model(self) -> None:
        if self._shards is not None:
            # One process tests it.
            if self.args.should_save:
                best = Path(str(self.state.best_model_checkpoint))
                whole = self._shards.ended(best, adapted=self.gentle.adapted)
                self.loaded = dataclasses.replace(self.loaded, model=whole)
            return
        self.gentle.finish()
        super()._load_best_model()
        read_bias(self.loaded.model, Path(str(self.state.best_model_checkpoint)))


class _Processor:
    """A processor for Trainer that only saves files beside the weights.

    Given a real processor, Trainer would copy its token ids into the model's config: CLIP's legacy
    `eos_token_id` 2, which decides how its text is pooled, would be lost.
    """

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder

    def save_pretrained(self, directory: str) -> None:
        self._feeder.save(Path(directory))
