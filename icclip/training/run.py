"""One training run, from a config to a directory that explains itself: prepare, loop, finish."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from icclip.config import TrainConfig
from icclip.console import Reporter
from icclip.identity import identity
from icclip.models.allocator import keep_freed_memory
from icclip.plugins.registry import Registry
from icclip.runs.claim import claim_of, claimed
from icclip.runs.record import never_running_for_ever
from icclip.runs.starting import nothing_left_to_do, run_to_resume
from icclip.training.finish import finish
from icclip.training.loop import loop, publish_best
from icclip.training.prepare import prepare
from icclip.training.processes.company import Company
from icclip.training.processes.gather import from_first_process
from icclip.training.processes.launch import as_launched
from icclip.training.result import TrainResult
from icclip.training.step.interrupts import terminated_as_interrupted


def train(config: TrainConfig, registry: Registry, reporter: Reporter) -> TrainResult:
    """Train a model, keep its best checkpoint and measure it on the test split.

    Args:
        config: the configuration of the run.
        registry: knows the models, datasets and metrics.
        reporter: shows what is going on.

    Raises:
        UsageError: something that the user can correct, such as an output directory that already holds a run.
        TrainingStoppedError: a loss was not finite. As after an interrupt, the directory's root is
            then the best checkpoint that was saved before.
    """
    started = time.monotonic()
    keep_freed_memory()
    config = as_launched(config, os.environ, reporter)
    company = Company(identity(), config.timeout)
    with terminated_as_interrupted(company.is_ending), company.together(os.environ):
        return _train(config, registry, reporter, company, started)


def _train(
    config: TrainConfig, registry: Registry, reporter: Reporter, company: Company, started: float
) -> TrainResult:
    earlier = run_to_resume(config)
    if nothing_left_to_do(config, earlier):
        reporter.note(
            f"{config.output_dir} is complete, so there is nothing left to do; to train further, raise --epochs or --max-steps"
        )
        return TrainResult.of_complete_run(earlier, guarded=config.guard == "on")
    with _only_writer(config.output_dir, reporter):
        company.at("loading the data and the model")
        run = prepare(config, earlier, registry, reporter)
        with never_running_for_ever(run.root, run.record, writes=run.first_process):
            loop(run, company, reporter)
            company.at("publishing and testing the best model")
            best_step = publish_best(run)
            return from_first_process(
                finish(run, best_step, registry, reporter, started) if run.first_process else None
            )


def _only_writer(directory: Path, reporter: Reporter) -> contextlib.AbstractContextManager[None]:
    """Claim the run directory in the first process, which writes for all, before anything is written or deleted."""
    if not identity().first:
        return contextlib.nullcontext()
    return claimed(directory, claim_of(directory), reporter.note)
