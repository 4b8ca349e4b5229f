"""Make the steps of a run, and keep the best checkpoint if it stops early."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from icclip.console import Reporter
from icclip.errors import DataError, TrainingStoppedError
from icclip.identity import identity
from icclip.runs.checkpoints import CHECKPOINT, checkpoint_steps, publish, step_of
from icclip.runs.history import HISTORY, evaluations
from icclip.runs.record import write_record
from icclip.training.prepare import Run
from icclip.training.processes.watch import LauncherWatch
from icclip.training.step.guards import Guard, has_given_up
from icclip.training.step.profiling import Profile
from icclip.training.step.progress import Progress


def loop(run: Run, reporter: Reporter) -> None:
    """Make the remaining steps.

    Raises:
        TrainingStoppedError: a loss, gradient or weight was not finite.
        DataError: an image could not be read.
    """
    if run.checkpoint is not None and _is_over(run, step_of(run.checkpoint)):
        # Trainer would otherwise make one more step.
        run.trainer.restore(run.checkpoint)
        return
    with _kept_when_stopped(run, reporter), reporter.progress("training", run.steps) as advance:
        run.trainer.add_callback(Progress(reporter, advance))
        if identity().size > 1:
            run.trainer.add_callback(LauncherWatch())
        if run.config.guard == "on":
            run.trainer.add_callback(Guard(run.config.patience, reporter))
        if run.config.profile is not None:
            run.trainer.add_callback(Profile(run.root, run.config.profile, reporter))
        run.trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)


def publish_best(run: Run) -> int | None:
    """Make the best checkpoint the directory's root; returns its step, or None if no checkpoint is complete yet."""
    steps = checkpoint_steps(run.root)
    best = run.trainer.state.best_global_step
    step = best if best in steps else next(reversed(steps), None)
    if step is not None and run.first_process:
        publish(run.root / f"{CHECKPOINT}-{step}", run.root)
    return step


def _is_over(run: Run, step: int) -> bool:
    measured = {at: metrics for at, metrics in evaluations(run.root / HISTORY).items() if at <= step}
    stopped = run.config.guard == "on" and has_given_up(measured, run.config.patience)
    return step >= run.steps or stopped


@contextlib.contextmanager
def _kept_when_stopped(run: Run, reporter: Reporter) -> Iterator[None]:
    """Publish the best checkpoint so far after an interrupt or a non-finite loss."""
    try:
        yield
    except (KeyboardInterrupt, TrainingStoppedError) as error:
        step = publish_best(run)
        if run.first_process:
            write_record(
                run.root, {**run.record, "status": "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"}
            )
        if isinstance(error, KeyboardInterrupt):
            kept = "no checkpoint was complete" if step is None else f"{run.root} holds the model of step {step}"
            reporter.note(
                f"interrupted at step {run.trainer.state.global_step}; {kept}; to continue, run the same command "
                "with --resume"
            )
        raise
    except DataError as error:
        # The message of an error in a data loader's worker is its whole traceback.
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("icclip.errors.DataError: ")) from error
