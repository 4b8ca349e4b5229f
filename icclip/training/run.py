"""One training run: from a config to a directory that explains itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from datasets import Dataset, IterableDataset

from icclip import __version__
from icclip.config import TrainConfig
from icclip.console import Reporter
from icclip.data.loading import choose_split, load_splits
from icclip.data.split import SplitImages, caption_lists, caption_map
from icclip.errors import DataError, GateError, TrainingStoppedError, UsageError
from icclip.evaluating.request import dataset_identity
from icclip.evaluating.run import evaluate_split
from icclip.files import atomic_write_text
from icclip.models.encoder import TorchEncoder
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.report.model_card import model_card
from icclip.report.tables import metrics_table
from icclip.retrieval.captions import CaptionMap
from icclip.runs.checkpoints import CHECKPOINT, checkpoint_steps, publish, step_of, sweep
from icclip.runs.directory import (
    changed_settings,
    checkpoint_to_resume,
    clear,
    outcome_of_complete_run,
    refuse_other_data,
)
from icclip.runs.history import HISTORY, evaluations
from icclip.runs.record import write_record
from icclip.runs.results import metric_path, read_metrics, write_metrics
from icclip.training.feeding.collate import Collator
from icclip.training.feeding.sources import Sources
from icclip.training.gentle.plan import Gentle
from icclip.training.processes.gather import from_first_process
from icclip.training.processes.launch import as_launched
from icclip.training.record import record
from icclip.training.step.arguments import allow_fast_matmul, default_workers, planned_steps, training_arguments
from icclip.training.step.guards import Guard, has_given_up
from icclip.training.step.interrupts import terminated_as_interrupted
from icclip.training.step.progress import History, Progress
from icclip.training.step.trainer import ContrastiveTrainer
from icclip.training.step.validation import Validation

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import TrainingArguments

TOKENIZER_CAPTIONS = 100_000
"""Captions of a stream that a preset's tokenizer is trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What came out; metrics as `icclip.retrieval.metrics.retrieval_metrics` names them."""

    output_dir: Path
    steps: int
    best_step: int
    baseline: dict[str, float]
    """On the validation split before the first step."""
    best: dict[str, float]
    """On the validation split, of the checkpoint that is the directory's root."""
    test: dict[str, Any]
    """On the test split; empty where there is none."""
    seconds: float

    @classmethod
    def of_complete_run(cls, directory: Path, outcome: Mapping[str, Any]) -> Self:
        """What a run had given when it ended; `outcome` as its `icclip.json` has it."""
        measured = evaluations(directory / HISTORY)
        return cls(
            output_dir=directory,
            baseline=measured.get(0, {}),
            best=measured[outcome["best_step"]],
            test=read_metrics(metric_path(directory, "test")),
            **outcome,
        )

    def to_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "output_dir": str(self.output_dir)}

    def raise_if_no_better(self) -> None:
        """Raise GateError where the best checkpoint is not above the model before the first step."""
        before, after = self.baseline.get("rsum"), self.best["rsum"]
        if before is not None and after <= before:
            raise GateError(
                f"training made the model no better: its best checkpoint, of step {self.best_step}, has the rsum "
                f"{after:.1f} on the validation split, and step 0 had {before:.1f}; {self.output_dir} holds it all the "
                "same; try a smaller --lr, or --guard off to accept it"
            )

    def table(self) -> Table:
        """The last word to people: the test split where there is one."""
        split, metrics = ("test", self.test) if self.test else ("validation", self.best)
        return metrics_table(metrics, f"{self.output_dir}, {split}")


def train(config: TrainConfig, registry: Registry, reporter: Reporter) -> TrainResult:
    """Train, keep the best checkpoint, measure it.

    Raises:
        UsageError: anything the user can mend; an existing run in the output directory is one.
        TrainingStoppedError: a loss was not finite. As after an interrupt, the directory's root is
            the best checkpoint saved before.
    """
    started = time.monotonic()
    if config.resume and (outcome := outcome_of_complete_run(config)) is not None:
        reporter.note(
            f"{config.output_dir} is complete: nothing is left to do; to go on, raise --epochs or --max-steps"
        )
        return TrainResult.of_complete_run(config.output_dir, outcome)
    with terminated_as_interrupted():
        run = _prepare(as_launched(config, os.environ, reporter), registry, reporter)
        _train(run, reporter)
        best_step = _publish_best(run)
        return from_first_process(_finish(run, best_step, registry, reporter, started) if run.first_process else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run that is ready to start."""

    config: TrainConfig
    splits: dict[str, Any]
    trainer: ContrastiveTrainer
    record: dict[str, Any]
    checkpoint: Path | None
    """To resume from."""
    steps: int

    @property
    def root(self) -> Path:
        return self.config.output_dir

    @property
    def first_process(self) -> bool:
        return self.trainer.is_world_process_zero()


# Before ------------------------------------------------------------------------------------------


def _prepare(config: TrainConfig, registry: Registry, reporter: Reporter) -> _Run:
    checkpoint = checkpoint_to_resume(config)
    arguments = training_arguments(config, workers=_workers(config), resuming=checkpoint is not None)
    allow_fast_matmul(arguments)
    # The others find what the first has downloaded and prepared.
    with arguments.main_process_first(local=True):
        splits, loaded = _load(config, registry, reporter)
    steps = _steps(config, arguments, splits["train"])
    about = record(config, loaded, splits)
    if config.resume:
        _check_what_is_resumed(config, checkpoint, about, reporter)
    if arguments.should_save:
        _begin_directory(config.output_dir, checkpoint, about)
    gentle = Gentle.prepare(loaded, config)
    reporter.header(_header(config, loaded, about, arguments, steps) | {"trains": gentle.summary})
    return _Run(
        config=config,
        splits=splits,
        trainer=_trainer(config, registry, splits, loaded, arguments, gentle=gentle, steps=steps, reporter=reporter),
        record=about,
        checkpoint=checkpoint,
        steps=steps,
    )


def _check_what_is_resumed(
    config: TrainConfig, checkpoint: Path | None, about: dict[str, Any], reporter: Reporter
) -> None:
    if checkpoint is None:
        reporter.note(f"{config.output_dir} holds no complete checkpoint yet: starting anew")
        return
    refuse_other_data(config, about["data"]["splits"])
    reporter.note(f"going on from {checkpoint}")
    if changed := changed_settings(config):
        reporter.warn(f"not the settings that the run began with: {', '.join(changed)}")


def _begin_directory(root: Path, checkpoint: Path | None, about: dict[str, Any]) -> None:
    if checkpoint is None:
        clear(root)
    else:
        sweep(root)
    write_record(root, about)


def _workers(config: TrainConfig) -> int:
    if config.workers is not None:
        return config.workers
    # The shards of a stream, not its rows, are what workers share; many streams have one.
    return 0 if config.data.streaming else default_workers()


def _load(config: TrainConfig, registry: Registry, reporter: Reporter) -> tuple[dict[str, Any], LoadedModel]:
    splits = load_splits(registry, config.data, reporter)
    training = choose_split(splits, "train", config.data.label)
    validation = _in_memory(choose_split(splits, "validation", config.data.label))
    loaded = open_model(registry, config.model, captions=lambda: _captions(training))
    known = [text for split in (training, validation) if isinstance(split, Dataset) for text in _captions(split)]
    return {**splits, "train": training, "validation": validation}, loaded.ready_for(known)


def _captions(split: Dataset | IterableDataset) -> Sequence[str]:
    """What a preset's tokenizer is trained on."""
    lists = caption_lists(split) if isinstance(split, Dataset) else (row["captions"] for row in split)
    return list(islice(chain.from_iterable(lists), None if isinstance(split, Dataset) else TOKENIZER_CAPTIONS))


def _in_memory(split: Dataset | IterableDataset) -> Dataset:
    """A stream cannot be ranked: all of its images are compared with all of its captions."""
    return split if isinstance(split, Dataset) else Dataset.from_list(list(split), features=split.features)


def _steps(config: TrainConfig, arguments: TrainingArguments, split: Dataset | IterableDataset) -> int:
    each = config.captions == "all"
    pairs = (caption_map(split).n_texts if each else len(split)) if isinstance(split, Dataset) else None
    steps = planned_steps(arguments, pairs)
    if steps == 0:
        raise UsageError(
            f"the training split has {pairs} {'captions' if each else 'images'}, fewer than one batch of {config.train_bs} x "
            f"{arguments.world_size} processes: give a smaller --train-bs"
        )
    return steps


def _trainer(
    config: TrainConfig,
    registry: Registry,
    splits: dict[str, Any],
    loaded: LoadedModel,
    arguments: TrainingArguments,
    *,
    gentle: Gentle,
    steps: int,
    reporter: Reporter,
) -> ContrastiveTrainer:
    seen = steps * arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    sources = Sources(config, loaded.feeder, reporter)
    data = sources.training(splits["train"], seen=seen)
    validation = splits["validation"]
    validate = Validation.of(
        validation, sources.validation(validation), registry.default_metrics(), config, str(arguments.device)
    )
    history = History(config.output_dir / HISTORY)
    return ContrastiveTrainer(
        loaded, arguments, data, validate,
        eval_every=config.eval_every, save_every=config.save_every_steps, callbacks=[history], gentle=gentle,
        micro_batch=config.micro_batch,
        collator=Collator(loaded.feeder, config.seed, captions=config.captions, augment=config.augment),
        duplicates=config.duplicates, fsdp=config.fsdp,
    )  # fmt: skip


def _header(
    config: TrainConfig, loaded: LoadedModel, about: dict[str, Any], arguments: TrainingArguments, steps: int
) -> dict[str, str]:
    sizes = {name: split["images"] for name, split in about["data"]["splits"].items()}
    batch = config.train_bs * arguments.world_size
    encoded = f" (encoded {config.micro_batch} at a time)" if config.micro_batch else ""
    divided = f", divided among {arguments.world_size} processes" if config.fsdp else ""
    accumulated = "" if config.grad_accum == 1 else f" (accumulating {config.grad_accum} batches adds none)"
    return {
        "model": f"{loaded.source}, {about['model']['model_type']}, {about['model']['parameters'] / 1e6:.1f} M parameters{divided}",
        "data": f"{config.data.label}: " + ", ".join(f"{name} {n or 'streamed'}" for name, n in sizes.items()),
        "device": f"{arguments.device}, {config.precision}",
        "batch": f"{config.train_bs}{encoded} x {arguments.world_size} processes x {config.grad_accum} accumulated",
        "steps": f"{steps} over {'a stream' if config.data.streaming else f'{config.epochs} epochs'}",
        "negatives": f"{batch - 1} per positive and step{accumulated}",
        "output": str(config.output_dir),
    }


# Training -----------------------------------------------------------------------------------------


def _train(run: _Run, reporter: Reporter) -> None:
    """Make the steps that are left."""
    if run.checkpoint is not None and _is_over(run, step_of(run.checkpoint)):
        # Trainer would make one more step.
        run.trainer.restore(run.checkpoint)
        return
    with _kept_when_stopped(run, reporter), reporter.progress("training", run.steps) as advance:
        run.trainer.add_callback(Progress(reporter, advance))
        if run.config.guard == "on":
            run.trainer.add_callback(Guard(run.config.patience, reporter))
        run.trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)


def _is_over(run: _Run, step: int) -> bool:
    measured = {at: metrics for at, metrics in evaluations(run.root / HISTORY).items() if at <= step}
    stopped = run.config.guard == "on" and has_given_up(measured, run.config.patience)
    return step >= run.steps or stopped


# When it stops early ------------------------------------------------------------------------------


@contextlib.contextmanager
def _kept_when_stopped(run: _Run, reporter: Reporter) -> Iterator[None]:
    """After an interrupt or a non-finite loss the root is the best checkpoint so far."""
    try:
        yield
    except (KeyboardInterrupt, TrainingStoppedError) as error:
        step = _publish_best(run)
        if isinstance(error, KeyboardInterrupt):
            kept = "no checkpoint was complete" if step is None else f"{run.root} holds the model of step {step}"
            reporter.note(
                f"interrupted at step {run.trainer.state.global_step}; {kept}; to go on, give the same command "
                "with --resume"
            )
        raise
    except DataError as error:
        # A loader's worker hands over its whole traceback as the message.
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("icclip.errors.DataError: ")) from error


def _publish_best(run: _Run) -> int | None:
    """Make the best checkpoint the root; returns its step, or None where there is none yet."""
    steps = checkpoint_steps(run.root)
    best = run.trainer.state.best_global_step
    step = best if best in steps else next(reversed(steps), None)
    if step is not None and run.first_process:
        publish(run.root / f"{CHECKPOINT}-{step}", run.root)
    return step


# After --------------------------------------------------------------------------------------------


def _finish(run: _Run, best_step: int | None, registry: Registry, reporter: Reporter, started: float) -> TrainResult:
    assert best_step is not None, "a run that ends has saved a checkpoint"
    measured = evaluations(run.root / HISTORY)
    result = TrainResult(
        output_dir=run.root,
        steps=run.trainer.state.global_step,
        best_step=best_step,
        baseline=measured.get(0, {}),
        best=measured[best_step],
        test=_test(run, registry, reporter),
        seconds=time.monotonic() - started,
    )
    _write_results(run, registry, result)
    _say(result, reporter)
    return result


def _test(run: _Run, registry: Registry, reporter: Reporter) -> dict[str, Any]:
    """The test split, once, with the best weights; in the batches and metrics of `icclip eval`."""
    if "test" not in run.splits:
        return {}
    split = _in_memory(run.splits["test"])
    captions: CaptionMap = caption_map(split)
    config = run.config
    encoder = TorchEncoder(
        run.trainer.loaded,
        device=str(run.trainer.args.device),
        precision=config.precision,
        workers=config.workers,
        reporter=reporter,
    )
    return evaluate_split(
        encoder,
        SplitImages(split, "test"),
        captions,
        image_batch=config.eval_bs,
        metrics=registry.default_metrics(),
        reporter=reporter,
    )


def _write_results(run: _Run, registry: Registry, result: TrainResult) -> None:
    for split, metrics in (("validation", result.best), ("test", result.test)):
        if metrics:
            about = {"checkpoint": ".", "dataset": dataset_identity(registry, run.config.data), "split": split}
            path = metric_path(run.root, split)
            path.unlink(missing_ok=True)
            write_metrics(path, metrics, {**about, "icclip": __version__})
    card = model_card(
        model=run.record["model"],
        config=run.config,
        splits=run.record["data"]["splits"],
        step0=result.baseline,
        validation=result.best,
        test=result.test or None,
    )
    atomic_write_text(run.root / "README.md", card)
    outcome = {"steps": result.steps, "best_step": result.best_step, "seconds": round(result.seconds, 1)}
    write_record(run.root, {**run.record, "status": "complete", "result": outcome})


def _say(result: TrainResult, reporter: Reporter) -> None:
    reporter.note(f"wrote {result.output_dir}: the model of step {result.best_step} of {result.steps}")
