"""Make the steps of a run, and keep the best checkpoint if it stops early."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from icclip.console import Reporter
from icclip.errors import EXIT_INTERRUPTED, ElsewhereError, InterruptError, TrainingStoppedError, UsageError
from icclip.runs.checkpoints import CHECKPOINT, checkpoint_steps, publish, step_of
from icclip.runs.history import HISTORY, evaluations
from icclip.runs.record import write_record
from icclip.training.prepare import Run
from icclip.training.processes.company import Company
from icclip.training.processes.gather import on_first_process
from icclip.training.processes.watch import LauncherWatch
from icclip.training.processes.whereabouts import Whereabouts
from icclip.training.step.guards import Guard, has_given_up
from icclip.training.step.mishaps import understood
from icclip.training.step.profiling import Profile
from icclip.training.step.progress import Progress, restore_history


def loop(run: Run, company: Company, reporter: Reporter) -> None:
    """Make the remaining steps.

    Args:
        run: is made ready to start.
        company: the other processes.
        reporter: shows the progress.

    Raises:
        TrainingStoppedError: a loss, gradient or weight was not finite, or a process ran out of memory.
        DataError: an image could not be read.
    """
    if run.checkpoint is not None and _is_over(run, run.checkpoint):
        # Trainer would otherwise make one more step.
        run.trainer.restore(run.checkpoint)
        return
    with _kept_when_stopped(run, company, reporter), reporter.progress("training", run.steps) as advance:
        run.trainer.add_callback(Progress(reporter, advance))
        if company.who.size > 1:
            run.trainer.add_callback(LauncherWatch())
            # The last one, which hears what the others have decided about the next thing to do.
            run.trainer.add_callback(Whereabouts(company))
        if run.config.guard == "on":
            run.trainer.add_callback(Guard(run.config.patience, reporter))
        if run.config.profile is not None:
            run.trainer.add_callback(Profile(run.root, run.config.profile, reporter))
        run.trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    company.relax()


def publish_best(run: Run) -> int | None:
    """Make the best checkpoint the directory's root; returns its step, or None if no checkpoint is complete yet."""
    steps = checkpoint_steps(run.root)
    best = run.trainer.state.best_global_step
    step = best if best in steps else next(reversed(steps), None)
    if step is not None and run.first_process:
        publish(run.root / f"{CHECKPOINT}-{step}", run.root)
    return step


def _is_over(run: Run, checkpoint: Path) -> bool:
    """Whether nothing is left to do after a checkpoint. The first process, which writes the log, decides for all."""
    return on_first_process(lambda: _is_over_by_the_log(run, checkpoint))


def _is_over_by_the_log(run: Run, checkpoint: Path) -> bool:
    restore_history(run.root / HISTORY, checkpoint)
    step = step_of(checkpoint)
    measured = {at: metrics for at, metrics in evaluations(run.root / HISTORY).items() if at <= step}
    stopped = run.config.guard == "on" and has_given_up(measured, run.config.patience)
    return step >= run.steps or stopped


@contextlib.contextmanager
def _kept_when_stopped(run: Run, company: Company, reporter: Reporter) -> Iterator[None]:
    """After an interrupt, a non-finite loss or a failure on another process the root is the best checkpoint so far."""
    company.last_words = lambda: _keep(run, "stopped")
    try:
        yield
    except BaseException as error:
        raised = company.settled(understood(error, run.trainer.state.global_step))
        if isinstance(raised, KeyboardInterrupt | InterruptError | TrainingStoppedError | ElsewhereError):
            _end(run, raised, reporter)
        if raised is error:
            raise
        raise raised from error


def _end(run: Run, error: BaseException, reporter: Reporter) -> None:
    interrupted = isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", None) == EXIT_INTERRUPTED
    step = _keep(run, "interrupted" if interrupted else "stopped")
    if interrupted:
        kept = "no checkpoint was complete" if step is None else f"{run.root} holds the model of step {step}"
        reporter.note(
            f"interrupted at step {run.trainer.state.global_step}; {kept}; to continue, run the same command with --resume"
        )


def _keep(run: Run, status: str) -> int | None:
    """Publish the best checkpoint so far, and record how the run ended; its step."""
    # A disk that is full was the reason to end, and would now hide it.
    with contextlib.suppress(UsageError):
        step = publish_best(run)
        if run.first_process:
            write_record(run.root, {**run.record, "status": status})
        return step
    return None
