"""Prepare a run before its first step: data, model, trainer and the output directory."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from datasets import Dataset, IterableDataset

from icclip.config import TrainConfig
from icclip.config.recipes import told
from icclip.console import Reporter, counted
from icclip.data.gallery import Gallery, gallery_of
from icclip.data.loading import choose_split, load_splits
from icclip.errors import UsageError
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.runs.checkpoints import MEBI, sweep
from icclip.runs.directory import RunDirectory
from icclip.runs.history import HISTORY
from icclip.runs.record import never_running_for_ever, write_record
from icclip.runs.starting import (
    changed_settings,
    checkpoint_to_resume,
    clear,
    refuse_other_batch,
    refuse_other_data,
    refuse_other_workers,
)
from icclip.training.feeding.collate import Collator
from icclip.training.feeding.features import FrozenTowers
from icclip.training.feeding.sources import Sources
from icclip.training.feeding.streams import WHOLE, Turns, division
from icclip.training.gentle.evaluation_mode import check_batch_norm
from icclip.training.gentle.plan import Gentle
from icclip.training.objective import with_loss
from icclip.training.processes.agreement import of_content, of_options, require_agreement, same_checkpoint
from icclip.training.processes.gather import on_first_process
from icclip.training.record import record
from icclip.training.step.arguments import allow_fast_matmul, default_workers, planned_steps, training_arguments
from icclip.training.step.progress import History
from icclip.training.step.recomputation import allow_recomputation
from icclip.training.step.schedule import Cadence
from icclip.training.step.trackers import Trackers
from icclip.training.step.trainer import ContrastiveTrainer
from icclip.training.step.validation import Validation

if TYPE_CHECKING:
    from transformers import TrainingArguments

TOKENIZER_CAPTIONS = 100_000
"""Number of captions of a stream that a preset's tokenizer is trained on."""

Splits: TypeAlias = dict[str, Gallery | IterableDataset]
"""The splits by name; a streamed split is not a gallery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that is ready to start."""

    config: TrainConfig
    splits: Splits
    trainer: ContrastiveTrainer
    record: dict[str, Any]
    """The content of `icclip.json` while the run goes on."""
    checkpoint: Path | None
    """The checkpoint to resume from; None means the beginning."""
    steps: int
    """Number of optimizer steps of the whole run."""
    sources: Sources
    """The images that the run reads, or what a frozen tower makes of them."""

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.config.output_dir

    @property
    def first_process(self) -> bool:
        """Whether this process is the one that writes the results."""
        return self.trainer.is_world_process_zero()


def prepare(config: TrainConfig, earlier: RunDirectory, registry: Registry, reporter: Reporter) -> Run:
    """Load everything that `config` names, check it, and claim the output directory.

    Args:
        config: the configuration, completed by `as_launched`.
        earlier: the run to resume, or an empty one.
        registry: knows the models, datasets and metrics.
        reporter: shows the header of the run.

    Raises:
        UsageError: something that the user can correct.
    """
    checkpoint = checkpoint_to_resume(config, earlier, reporter.warn)
    arguments = training_arguments(config, workers=_workers(config), resuming=checkpoint is not None)
    allow_fast_matmul(arguments)
    require_agreement(of_options(config))
    checkpoint = same_checkpoint(config.output_dir, checkpoint)
    # It was chosen before the processes could communicate, from what this one saw.
    arguments.eval_on_start = checkpoint is None
    # The other processes find what the first one has downloaded and prepared.
    with arguments.main_process_first(local=True):
        splits, loaded = _load(config, registry, reporter)
    require_agreement(of_content(splits, loaded))
    arguments.dataloader_num_workers = _as_many_as_shards(arguments.dataloader_num_workers, splits["train"])
    steps = _steps(config, arguments, splits["train"])
    validation = splits["validation"]
    assert isinstance(validation, Gallery), "it was brought into memory"
    loaded = with_loss(loaded, config.loss, validation, config.train_bs * arguments.world_size)
    parts = _parts(splits["train"], arguments, earlier if checkpoint else None)
    divided = {} if parts == WHOLE else dataclasses.asdict(parts)
    about = record(config, loaded, splits, arguments.world_size, divided)
    if config.resume:
        _check_what_is_resumed(config, earlier, checkpoint, about, reporter)
    gentle = Gentle.prepare(loaded, config)
    if config.grad_ckpt:
        allow_recomputation(loaded.model, loaded.backend)
    check_batch_norm(loaded.model, loaded.backend, config, arguments.world_size, reporter.warn)
    frozen = FrozenTowers.of(loaded, config, arguments.device, reporter, checkpoint=checkpoint)
    trackers = Trackers.started(arguments, loaded.model, reporter.warn)
    if arguments.should_save:
        _begin_directory(config.output_dir, checkpoint, about)
        _warn_of_little_space(config.output_dir, loaded, reporter)
    reporter.header(_header(config, loaded, about, arguments, steps) | {"trains": gentle.summary})
    sources = Sources(config, loaded.feeder, reporter, frozen, parts)
    # Images may be cached for minutes here.
    with never_running_for_ever(config.output_dir, about, writes=arguments.should_save):
        trainer = _trainer(
            config, registry, splits, loaded, arguments,
            gentle=gentle, steps=steps, begins=checkpoint is None, sources=sources, trackers=trackers,
        )  # fmt: skip
    return Run(
        config=config,
        splits=splits,
        trainer=trainer,
        record=about,
        checkpoint=checkpoint,
        steps=steps,
        sources=sources,
    )


def in_memory(split: Dataset | IterableDataset) -> Dataset:
    """Bring a split into memory, because a stream cannot be ranked: every image is compared with every caption."""
    return split if isinstance(split, Dataset) else Dataset.from_list(list(split), features=split.features)


# The directory ------------------------------------------------------------------------------------


def _check_what_is_resumed(
    config: TrainConfig, earlier: RunDirectory, checkpoint: Path | None, about: Mapping[str, Any], reporter: Reporter
) -> None:
    if checkpoint is None:
        reporter.note(f"{config.output_dir} holds no complete checkpoint yet: starting from the beginning")
        return
    refuse_other_data(earlier, about["data"]["splits"])
    refuse_other_batch(earlier, config, about["processes"])
    refuse_other_workers(earlier, config)
    reporter.note(f"resuming from {checkpoint}{_elastic(earlier, about['processes'])}")
    if changed := changed_settings(config, earlier):
        reporter.warn(f"these settings differ from those the run began with: {', '.join(changed)}")


def _elastic(earlier: RunDirectory, processes: int) -> str:
    """Report if the number of processes differs from the one that the run began with."""
    if earlier.processes in (None, processes):
        return ""
    return (
        f" with {processes} instead of {earlier.processes} processes: the same batches, to float tolerance "
        "(but dropout, if the model has any, is drawn by each process: the masks are other ones)"
    )


def _begin_directory(root: Path, checkpoint: Path | None, about: Mapping[str, Any]) -> None:
    if checkpoint is None:
        clear(root)
    else:
        sweep(root)
    write_record(root, about)


def _warn_of_little_space(root: Path, loaded: LoadedModel, reporter: Reporter) -> None:
    weights = [(weight.numel() * weight.element_size(), weight.requires_grad) for weight in loaded.model.parameters()]
    # Adam keeps two values for each weight that trains.
    needed = sum(size * (3 if trains else 1) for size, trains in weights)
    free = shutil.disk_usage(root).free
    if free < needed:
        reporter.warn(
            f"a checkpoint will take about {needed / MEBI:,.0f} MiB, and the disk of {root} has {free / MEBI:,.0f} MiB free: "
            "free some space before the first save, or give another --output-dir"
        )


# Data and model -----------------------------------------------------------------------------------


def _load(config: TrainConfig, registry: Registry, reporter: Reporter) -> tuple[Splits, LoadedModel]:
    label = config.data.label
    found: dict[str, Any] = dict(load_splits(registry, config.data, reporter))
    for name in ("train", "validation"):
        choose_split(found, name, label)
    found["validation"] = in_memory(found["validation"])
    splits: Splits = {
        name: gallery_of(registry, config.data, found, name, several=True) if isinstance(split, Dataset) else split
        for name, split in found.items()
    }
    _tell_what_is_judged(config, splits, reporter)
    loaded = open_model(registry, config.model, captions=lambda: _tokenizer_captions(splits["train"]))
    galleries = (splits[name] for name in ("train", "validation"))
    known = chain.from_iterable(gallery.captions.texts for gallery in galleries if isinstance(gallery, Gallery))
    texts = list(known)
    cut = loaded.feeder.cut_captions(texts)
    if cut.line:
        reporter.warn(cut.line)
    return splits, loaded.ready_for(texts)


def _tell_what_is_judged(config: TrainConfig, splits: Splits, reporter: Reporter) -> None:
    for name, split in splits.items():
        if config.data.qrels is None or not isinstance(split, Gallery):
            continue
        if split.judged is not None:
            reporter.note(f"{name}: {counted(len(split.judged.right), 'right answer')} from {config.data.qrels}")
        elif name != "train":
            reporter.warn(
                f"{config.data.qrels} judges nothing of the split {name}, whose right answers follow --relevance "
                f"{split.protocol}"
            )


def _tokenizer_captions(split: Gallery | IterableDataset) -> Sequence[str]:
    """What a preset's tokenizer is trained on."""
    if isinstance(split, Gallery):
        return split.captions.texts
    return list(islice(chain.from_iterable(row["captions"] for row in split), TOKENIZER_CAPTIONS))


# The trainer --------------------------------------------------------------------------------------


def _workers(config: TrainConfig) -> int:
    if config.workers is not None:
        return config.workers
    # Workers share the shards of a stream, not its rows, and many streams have only one shard.
    return 0 if config.data.streaming else default_workers()


def _as_many_as_shards(workers: int, split: Gallery | IterableDataset) -> int:
    """Of a stream's workers, those that get a shard."""
    return workers if isinstance(split, Gallery) else min(workers, split.num_shards)


def _parts(split: Gallery | IterableDataset, arguments: TrainingArguments, earlier: RunDirectory | None) -> Turns:
    """How a stream is divided: as it was when the run began. Raises UsageError where there are too few shards for that."""
    if isinstance(split, Gallery):
        return WHOLE
    if earlier is None:
        return division(
            split, arguments.world_size, arguments.dataloader_num_workers, arguments.per_device_train_batch_size
        )
    parts = Turns(**earlier.stream)
    if parts.several > split.num_shards:
        raise UsageError(
            f"{earlier.path} began with at least {parts.several} shards, and there are {split.num_shards} now: "
            "resume with the same data"
        )
    return parts


def _steps(config: TrainConfig, arguments: TrainingArguments, split: Gallery | IterableDataset) -> int:
    each = config.captions == "all"
    pairs = (split.captions.n_texts if each else split.captions.n_images) if isinstance(split, Gallery) else None
    batch = config.train_bs * arguments.world_size
    # Also with --max-steps, because Trainer would make no step and call that a success.
    if pairs is not None and pairs < batch:
        raise UsageError(
            f"the training split has {pairs} {'captions' if each else 'images'}, fewer than one batch of {config.train_bs} x "
            f"{arguments.world_size} processes: give a smaller --train-bs"
        )
    return planned_steps(arguments, pairs)


def _trainer(
    config: TrainConfig,
    registry: Registry,
    splits: Splits,
    loaded: LoadedModel,
    arguments: TrainingArguments,
    *,
    gentle: Gentle,
    steps: int,
    begins: bool,
    sources: Sources,
    trackers: Trackers,
) -> ContrastiveTrainer:
    seen = steps * arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    loaded = dataclasses.replace(loaded, feeder=sources.feeder_for(splits, seen=seen))
    data = sources.training(splits["train"], seen=seen)
    validation = splits["validation"]
    assert isinstance(validation, Gallery), "it was brought into memory"
    validate = Validation(
        sources.validation(validation),
        on_first_process(validation.relevance),
        registry.default_metrics(),
        config,
        str(arguments.device),
        run=config.output_dir,
        begins=begins,
    )
    return ContrastiveTrainer(
        loaded, arguments, data, validate,
        cadence=Cadence(config.eval_every, config.save_every_steps),
        callbacks=[trackers, History(config.output_dir / HISTORY)], gentle=gentle, micro_batch=config.micro_batch,
        collator=Collator(
            loaded.feeder, config.seed, captions=config.captions, augment=config.augment, by_length=config.micro_batch is not None
        ),
        duplicates=config.duplicates, fsdp=config.fsdp,
    )  # fmt: skip


def _header(
    config: TrainConfig, loaded: LoadedModel, about: Mapping[str, Any], arguments: TrainingArguments, steps: int
) -> dict[str, str]:
    sizes = {name: split["images"] for name, split in about["data"]["splits"].items()}
    batch = config.train_bs * arguments.world_size
    encoded = f" (encoded {config.micro_batch} at a time)" if config.micro_batch else ""
    sharded = f", sharded across {arguments.world_size} processes" if config.fsdp else ""
    accumulated = "" if config.grad_accum == 1 else f" (accumulating {config.grad_accum} batches adds none)"
    return {
        "model": f"{loaded.source}, {about['model']['model_type']}, {about['model']['parameters'] / 1e6:.1f} M parameters{sharded}",
        "data": f"{config.data.label}: " + ", ".join(f"{name} {n or 'streamed'}" for name, n in sizes.items()),
        "device": f"{arguments.device}, {config.precision}",
        "batch": f"{config.train_bs}{encoded} x {arguments.world_size} processes x {config.grad_accum} accumulated",
        **({} if config.recipe is None else {"recipe": told(config.recipe)}),
        "steps": _length(config, about, steps, batch),
        "loss": loaded.loss,
        "negatives": f"{batch - 1} per positive and step{accumulated}",
        "output": str(config.output_dir),
    }


def _length(config: TrainConfig, about: Mapping[str, Any], steps: int, batch: int) -> str:
    """`94 over 2 epochs`, `5 of the first epoch`, `1000 over a stream`."""
    if config.data.streaming:
        return f"{steps} over a stream"
    pairs = about["data"]["splits"]["train"]["captions" if config.captions == "all" else "images"]
    an_epoch = max(1, -(-(pairs // batch) // config.grad_accum))
    if config.max_steps is None:
        return f"{steps} over {config.epochs} epoch{'s' * (config.epochs > 1)}"
    return f"{steps} of the first epoch" if steps < an_epoch else f"{steps} over {steps / an_epoch:.3g} epochs"
