"""transformers.Trainer for contrastive training of images and texts.

Everything else (schedules, logging integrations, resuming, mixed precision) stays transformers'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from typing_extensions import override

from icclip.config import DuplicatePolicy
from icclip.errors import TrainingStoppedError
from icclip.models.loaded import LoadedModel
from icclip.training.feeding.collate import (
    IDS,
    NONE,
    CaptionedImages,
    Collator,
    EpochSampler,
    split_batch,
)
from icclip.training.feeding.duplicates import stable_int
from icclip.training.feeding.streams import CaptionedStream, InTurns, Share, Turns
from icclip.training.gentle.averaging import WeightAverage
from icclip.training.gentle.plan import Gentle
from icclip.training.gentle.rates import set_apart
from icclip.training.processes.gather import (
    Exchanging,
    everywhere,
    gather_rows,
    is_distributed,
    of_one_width,
    own_columns,
)
from icclip.training.step.cost import EXCHANGE, LOSS, Costs
from icclip.training.step.gradient_cache import Embeddings, Inputs, cached_backward, micro_batches
from icclip.training.step.losses import LOSSES, Pairs
from icclip.training.step.overrides import overrides_private
from icclip.training.step.saving import SavingTrainer
from icclip.training.step.schedule import EVERY_EPOCH, Cadence, Schedule

MAX_LOGIT_SCALE = math.log(100)
"""CLIP never multiplies cosines by more than 100 (arXiv:2103.00020, section 2.5)."""

NO_STEP = torch.iinfo(torch.int64).max

Evaluate = Callable[[LoadedModel], Mapping[str, float]]


class ContrastiveTrainer(SavingTrainer):
    """Trains both towers so that a pair's embeddings meet.

    Args:
        loaded: the model, which is trained in place.
        args: arguments with `save_strategy` and `eval_strategy` "epoch"; see `icclip.training.step.arguments`.
        train_dataset: a dataset of Examples.
        validate: measures a model; it must return the same metrics on every process.
        micro_batch: number of pairs encoded at once within a batch; see `icclip.training.step.gradient_cache`. None
            means all.
        cadence: how often the model is evaluated and saved.
        callbacks: in addition to transformers' own.
        gentle: which weights train and which are saved; None means all of them, as they are.
        collator: the collator; None means one that chooses captions at random.
        duplicates: how pairs that share a caption or an image are treated.
        fsdp: shard the model across the processes; see `icclip.training.processes.sharding`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        args: TrainingArguments,
        train_dataset: CaptionedImages | CaptionedStream,
        validate: Evaluate,
        *,
        micro_batch: int | None = None,
        cadence: Cadence = EVERY_EPOCH,
        callbacks: Sequence[TrainerCallback] = (),
        gentle: Gentle | None = None,
        collator: Collator | None = None,
        duplicates: DuplicatePolicy = "mask",
        fsdp: bool = False,
    ) -> None:
        super().__init__(
            loaded,
            args,
            gentle or Gentle(loaded.model, {}),
            fsdp=fsdp,
            data_collator=collator or Collator(loaded.feeder, args.seed),
            train_dataset=train_dataset,
            # Trainer requires a dataset if evaluations are requested; `evaluate` below has its own.
            eval_dataset=train_dataset,
            callbacks=list(callbacks),
        )
        self.validate, self.micro_batch, self.duplicates = validate, micro_batch, duplicates
        self._sampler = None
        self._everywhere: Callable[[bool], bool] = bool
        step = args.train_batch_size * args.world_size
        if isinstance(train_dataset, CaptionedImages):
            self._sampler = EpochSampler(len(train_dataset), args.seed, train_dataset.shared(), step)
        else:
            # A gradient that waited for the next pass would be lost in a resume.
            turns = Turns(args.world_size, args.train_batch_size)
            train_dataset.share = Share(step * args.gradient_accumulation_steps, turns, args.process_index)
            # Only where processes read different shards can one of them come to its end before another.
            if train_dataset.turns.several > 1:
                self._everywhere = partial(everywhere, device=args.device)
        self.remove_callback(PrinterCallback)
        self.add_callback(Schedule(self._sampler or train_dataset, cadence))
        self.add_callback(OwnNumbers())
        self.add_callback(_ClampLogitScale(loaded.model.logit_scale))
        pairs = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.costs = Costs(Path(str(args.output_dir)), args.device, pairs)
        self.add_callback(self.costs)
        if self.gentle.average is not None:
            self.add_callback(_Average(self.gentle.average))
        # Our loss is a mean over the batch, so it must be divided by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._first_bad = {what: torch.tensor(NO_STEP, device=args.device) for what in ("loss", "gradient")}

    @property
    def _train_batch_size(self) -> int:
        """The batch size of the arguments; Trainer would use that of the checkpoint, whatever the number of processes."""
        return self.args.train_batch_size

    @_train_batch_size.setter
    def _train_batch_size(self, _value: int) -> None:
        """Ignore the value that Trainer sets when it starts and when it resumes."""

    # The loss

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of the local pairs with those of all processes, float32 [].

        It calls the forward of the wrapped model, because that is where DDP hooks in.
        """
        model_inputs, ids = split_batch(inputs)
        outputs = model(**model_inputs)
        loss = self._loss(outputs.image_embeds, outputs.text_embeds, ids)
        return (loss, outputs) if return_outputs else loss

    def _loss(self, image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
        """Compute the loss, float32 [], from embeddings [b, d] and ids [b, k] of the local pairs."""
        scale, bias = self.loaded.model.logit_scale, getattr(self.loaded.model, "logit_bias", None)
        with self.costs.part(LOSS):
            pairs = _pairs(image, text, ids, self.duplicates, lambda: self.costs.part(EXCHANGE))
            loss = LOSSES[self.loaded.loss](pairs, scale, bias)
        self._remember_if_bad("loss", loss.detach(), self.state.global_step + 1)
        return loss

    @override
    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Run forward and backward of one batch, in two passes if it has several micro-batches. Returns the loss, float32 []."""
        with self.costs.counting():
            return self._step(model, inputs, num_items_in_batch)

    def _step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any) -> Tensor:
        if self.micro_batch is None or len(inputs[IDS]) <= self.micro_batch:
            step: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return step
        return self._cached_step(model, inputs) / self.current_gradient_accumulation_steps

    def _cached_step(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        assert self.micro_batch is not None, "without micro-batches there is nothing to cache"
        model_inputs, ids = split_batch(inputs)
        ids = ids.to(self.args.device)

        def encode(part: Inputs) -> Embeddings:
            # Autocast keeps its copies of the weights to the end of its context, without a graph where
            # they were made without one: each micro-batch has a context of its own.
            with self.compute_loss_context_manager():
                outputs = model(**self._prepare_inputs(self.loaded.feeder.without_padding(part)))
            return outputs.image_embeds, outputs.text_embeds

        model.train()
        return cached_backward(
            micro_batches(model_inputs, self.micro_batch),
            encode,
            lambda image, text: self._loss(image, text, ids),
            temperature=self._temperature(),
            backward=lambda part: self.accelerator.backward(part / self.current_gradient_accumulation_steps),
            no_sync=lambda: self.accelerator.no_sync(model),
        )

    def _temperature(self) -> list[nn.Parameter]:
        """The trainable parameters of the loss itself."""
        return [parameter for parameter in self.scale_and_bias() if parameter.requires_grad]

    # Costs

    @override
    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        self.costs.begin()
        samples = super().get_batch_samples(*args, **options)
        self.costs.has_data()
        return samples

    @override
    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log as Trainer does; a line with the loss is followed by one with the costs, which are not part of the history."""
        super().log(logs, *args, **options)
        if "loss" in logs:
            costs = self.costs.line(self.state.global_step, writes=self.args.should_save)
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, costs)

    # Data

    @override
    def get_train_dataloader(self) -> Any:
        """Trainer's data loader; with micro-batches, each one moves to the device by itself: a whole batch may not fit there."""
        loader: Any = super().get_train_dataloader()
        if self.micro_batch is not None:
            loader.device = None
        if self._sampler is None:
            loader.base_dataloader = InTurns(loader.base_dataloader, self._everywhere)
        return loader

    @overrides_private
    @override
    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler | None:
        return self._sampler

    # Weight decay

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Only matrices decay, because norms, biases and the temperature should not shrink."""
        return [name for name, parameter in model.named_parameters() if _decays(name, parameter)]

    # Rates

    @override
    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """The optimizer of the base class, with a learning rate for each parameter."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **options)
        self.gentle.set_rates(optimizer)
        # What is whole everywhere and what is divided cannot be stepped together. It is a group without
        # FSDP too: a run can go on with it, or without.
        optimizer.param_groups[:] = set_apart(optimizer.param_groups, self._temperature())
        return optimizer

    # Evaluation

    @override
    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Measure and log the validation metrics as `eval_*`; they are the same on every process."""
        training = self.loaded.model.training
        self.loaded.model.eval()
        with self.costs.evaluating(), self.as_saved() as model:
            metrics = {f"eval_{name}": value for name, value in self.validate(model).items()}
        self.loaded.model.train(training)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Not finite

    def _remember_if_bad(self, what: str, value: Any, step: int) -> None:
        """Note the step without asking the device for the value, which would stall it."""
        device = self.args.device
        found = torch.where(torch.isfinite(torch.as_tensor(value, device=device)), NO_STEP, step)
        self._first_bad[what] = torch.minimum(self._first_bad[what], found)

    @overrides_private
    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **options: Any) -> None:
        # Under fp16 the scaler skips such a step, and goes on with a smaller scale.
        if grad_norm is not None and self.accelerator.scaler is None:
            self._remember_if_bad("gradient", grad_norm, self.state.global_step)
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.stop_if_not_finite()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **options)

    def stop_if_not_finite(self) -> None:
        """Raise TrainingStoppedError, on every process alike, if a loss, a gradient or a weight is not finite."""
        weights = self._shards.parts() if self._shards else self.loaded.model.parameters()
        finite = torch.stack([torch.isfinite(p).all() for p in weights]).all()
        found = {**self._first_bad, "weights": torch.where(finite, NO_STEP, self.state.global_step)}
        first = torch.stack([step.to(self.args.device) for step in found.values()])
        if is_distributed():
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        step = int(first.min())
        if step == NO_STEP:
            return
        what = list(found)[first.tolist().index(step)]
        raise TrainingStoppedError(
            f"non-finite {what} at step {step} (lr {self._get_learning_rate():.3g}, "
            f"logit_scale {self.loaded.model.logit_scale.item():.3g}): "
            "the checkpoints saved before are intact; try a smaller --lr, or bf16 instead of fp16"
        )


def _pairs(
    image: Tensor, text: Tensor, ids: Tensor, duplicates: DuplicatePolicy, exchanging: Exchanging = nullcontext
) -> Pairs:
    """Gather all pairs that the local pairs, with embeddings [b, d] of any precision and ids [b, k], are compared with."""
    image, text = (functional.normalize(rows.float(), dim=-1) for rows in (image, text))
    own = own_columns(len(ids), ids.device)
    # Without duplicates each pair agrees with itself alone.
    ids = own[:, None] if duplicates == "off" else of_one_width(ids, NONE, exchanging)
    all_image, all_text, all_ids = (gather_rows(rows, exchanging) for rows in (image, text, ids))
    return Pairs(image, text, all_image, all_text, own, ids, all_ids, soft=duplicates == "soft")


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("bias")


class OwnNumbers(TrainerCallback):
    """Begins the random numbers of each step, from which dropout draws, on this process.

    They follow from the seed, the step and the rank alone: a resumed run needs no state of the one before, and no two
    processes draw the same masks.
    """

    @override
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a resumed Trainer has set its own random state."""
        torch.manual_seed(stable_int("dropout", args.seed, state.global_step, args.process_index) % 2**63)


class _Average(TrainerCallback):
    """Adds the weights after each step to the average."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    @override
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update()


class _ClampLogitScale(TrainerCallback):
    """Keeps exp(logit_scale) at 100 or less, or at the checkpoint's value if that is larger.

    The published SigLIP models have learnt a temperature above 100, without a limit; reducing it
    would damage them at the first step.
    """

    def __init__(self, logit_scale: nn.Parameter) -> None:
        self.ceiling = max(MAX_LOGIT_SCALE, logit_scale.max().item())

    @override
    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=self.ceiling)
