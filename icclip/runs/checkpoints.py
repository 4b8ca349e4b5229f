"""Checkpoints that are complete or absent, and the root of the run directory, which is a copy of the best one."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from icclip.errors import UsageError
from icclip.files import fsync_tree, readable_os_errors

CHECKPOINT = "checkpoint"
TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth|bin)|trainer_state\.json|weight(s_in_training|_average)\.safetensors"
)
"""Files of a checkpoint that belong to the training and not to the model and its processor."""
UNREAD_PICKLE = "training_args.bin"
HALF_WRITTEN = ".publishing"
"""A marker in a run directory whose model is being replaced; its files may be from two checkpoints."""
FAILED_WRITES = ("write failed", "iostream error", "unexpected pos")
"""What torch says where a file could not be written to its end."""
MEBI = 2**20
PARTIAL = ".*.partial"
"""Directories that are being written or deleted, or that a killed run has left behind."""


@contextlib.contextmanager
def staged_checkpoint(root: Path, name: str, *, writer: bool, wait: Callable[[], None]) -> Iterator[Path]:
    """Give all processes a staging directory below `root` to write `name` into; then move it up into `root`.

    Args:
        root: the run directory.
        name: `checkpoint-N`.
        writer: whether this process creates the directory and moves it; exactly one must.
        wait: returns once every process has called it.

    Raises:
        UsageError: the disk is full or not writable. Nothing is left of the checkpoint.
    """
    staging = root / f".{name}.partial"
    with full_disks_as_usage_errors(root):
        if writer:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        wait()
        try:
            yield staging
            wait()
            if writer:
                # A pickle that nothing reads: the arguments are in icclip.json.
                (staging / name / UNREAD_PICKLE).unlink(missing_ok=True)
                fsync_tree(staging)
                discard(root / name)
                (staging / name).replace(root / name)
            wait()
        finally:
            if writer:
                shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def full_disks_as_usage_errors(root: Path) -> Iterator[None]:
    """Turn an OSError, or the error that torch or safetensors raise in its place, into one line about `root`."""
    with readable_os_errors("a checkpoint", root):
        try:
            yield
        except UsageError:
            raise
        except Exception as error:
            if _is_full_disk(error, root):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise


def _is_full_disk(error: Exception, root: Path) -> bool:
    """Torch has words of its own for a full disk, which stand for other failures too: look at the disk."""
    if "No space left" in str(error):
        return True
    return any(words in str(error) for words in FAILED_WRITES) and shutil.disk_usage(root).free < 2**20


def require_space(root: Path, needed: int, free: int) -> None:
    """Refuse to begin a checkpoint that the disk cannot hold; the last whole one stays.

    Args:
        root: the run directory.
        needed: bytes that the checkpoint takes, at least.
        free: bytes that the disk of `root` has left.

    Raises:
        UsageError: there is too little space.
    """
    if free < needed:
        raise UsageError(
            f"cannot write a checkpoint to {root}: it needs {needed / MEBI:,.0f} MiB and the disk has {free / MEBI:,.0f} MiB "
            "free. The last whole checkpoint is intact: free some space and go on with --resume"
        )


def checkpoint_steps(root: Path) -> list[int]:
    """The steps of the complete checkpoints in a run directory, ascending."""
    named = (path for path in root.glob(f"{CHECKPOINT}-*") if re.fullmatch(rf"{CHECKPOINT}-\d+", path.name))
    return sorted(map(step_of, named))


def step_of(checkpoint: Path) -> int:
    """The step N of a `checkpoint-N`."""
    return int(checkpoint.name.removeprefix(f"{CHECKPOINT}-"))


def last_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint; one that is not complete never has such a name."""
    steps = checkpoint_steps(root)
    return root / f"{CHECKPOINT}-{steps[-1]}" if steps else None


def rotate(root: Path, limit: int | None, keep: int | None, evaluated: Collection[int]) -> None:
    """Delete surplus checkpoints, but neither the newest nor the one of step `keep`.

    Args:
        root: the run directory.
        limit: how many evaluated checkpoints to keep; the oldest are deleted. None: keep all.
        keep: the step of the best checkpoint.
        evaluated: the steps that were evaluated. The other checkpoints only serve to resume a run, for
            which the newest is enough.
    """
    steps = checkpoint_steps(root)
    ranked = [step for step in steps if step in evaluated]
    excess = max(0, len(ranked) - (limit or len(ranked)))
    surplus = [step for step in ranked if step not in (steps[-1], keep)][:excess]
    for step in (*surplus, *set(steps[:-1]).difference(evaluated, [keep])):
        discard(root / f"{CHECKPOINT}-{step}")


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint if it exists; even if the process is killed, no half of it keeps its name."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.deleted.partial")
    if checkpoint.exists():
        shutil.rmtree(doomed, ignore_errors=True)
        checkpoint.replace(doomed)
        shutil.rmtree(doomed)


def sweep(root: Path) -> None:
    """Delete the directories that a killed run was writing or deleting."""
    for path in root.glob(PARTIAL):
        shutil.rmtree(path)


def publish(checkpoint: Path, root: Path) -> None:
    """Make `root` a copy of a checkpoint's model and processor, and delete the results of the model before.

    Each single file is replaced atomically, but not all of them together. While that goes on, and if the
    process is killed meanwhile, the marker HALF_WRITTEN keeps readers away. Publishing again repairs it.

    Raises:
        UsageError: the disk is full or not writable.
    """
    with full_disks_as_usage_errors(root):
        staging = root / ".publishing.partial"
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(checkpoint, staging, ignore=_without_training_state)
        fsync_tree(staging)
        try:
            (root / HALF_WRITTEN).touch()
            for result in (root / "README.md", *root.glob("*_metric.json")):
                result.unlink(missing_ok=True)
            for path in (path for path in staging.rglob("*") if path.is_file()):
                target = root / path.relative_to(staging)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
            (root / HALF_WRITTEN).unlink()
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _without_training_state(_directory: str, names: list[str]) -> set[str]:
    return {name for name in names if TRAINING_STATE.fullmatch(name)}
