"""Checkpoints that are complete or absent, and the run directory's root, which is the best of them."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import distributed

from icclip.errors import UsageError
from icclip.files import fsync_tree, readable_os_errors
from icclip.training.gather import is_distributed

CHECKPOINT = "checkpoint"
TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth|bin)|trainer_state\.json|weight(s_in_training|_average)\.safetensors"
)
"""What a checkpoint holds beyond a model and its processor."""
UNREAD_PICKLE = "training_args.bin"


@contextlib.contextmanager
def staged_checkpoint(root: Path, name: str, *, writer: bool) -> Iterator[Path]:
    """Give all processes a directory below `root` to write `name` into; it then moves up to `root`.

    Args:
        root: the run directory.
        name: `checkpoint-N`.
        writer: whether this process prepares and moves; one does.

    Raises:
        UsageError: the disk is full, or not writable. Nothing is left of the checkpoint.
    """
    staging = root / f".{name}.partial"
    with full_disks_as_usage_errors(root):
        if writer:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        _wait()
        try:
            yield staging
            _wait()
            if writer:
                # A pickle that nothing reads: the arguments are in icclip.json.
                (staging / name / UNREAD_PICKLE).unlink(missing_ok=True)
                fsync_tree(staging)
                shutil.rmtree(root / name, ignore_errors=True)
                (staging / name).replace(root / name)
            _wait()
        finally:
            if writer:
                shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def full_disks_as_usage_errors(root: Path) -> Iterator[None]:
    """OSErrors, and those that torch and safetensors make of them, as one line about `root`."""
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
    """Of a full disk torch says `file write failed` and no more: look at the disk."""
    if "No space left" in str(error):
        return True
    return "write failed" in str(error) and shutil.disk_usage(root).free < 2**20


def checkpoint_steps(root: Path) -> list[int]:
    """The steps of the checkpoints in a run directory, ascending. A staging name is none of them."""
    found = (re.fullmatch(rf"{CHECKPOINT}-(\d+)", path.name) for path in root.glob(f"{CHECKPOINT}-*"))
    return sorted(int(match[1]) for match in found if match)


def last_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint. What is not complete never has its name."""
    steps = checkpoint_steps(root)
    return root / f"{CHECKPOINT}-{steps[-1]}" if steps else None


def rotate(root: Path, limit: int | None, keep: int | None) -> None:
    """Delete the oldest checkpoints beyond `limit`, but neither the newest nor that of step `keep`."""
    steps = checkpoint_steps(root)
    protected = {steps[-1], keep}
    old = [step for step in steps if step not in protected]
    excess = len(steps) - (limit or len(steps))
    for step in old[: max(0, excess)]:
        shutil.rmtree(root / f"{CHECKPOINT}-{step}")


def publish(checkpoint: Path, root: Path) -> None:
    """Make `root` a copy of the model and processor of a checkpoint, file by file, each at once.

    Raises:
        UsageError: the disk is full, or not writable.
    """
    with full_disks_as_usage_errors(root):
        staging = root / ".publishing.partial"
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(checkpoint, staging, ignore=_without_training_state)
        fsync_tree(staging)
        try:
            for path in (path for path in staging.rglob("*") if path.is_file()):
                target = root / path.relative_to(staging)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _without_training_state(_directory: str, names: list[str]) -> set[str]:
    return {name for name in names if TRAINING_STATE.fullmatch(name)}


def _wait() -> None:
    if is_distributed():
        distributed.barrier()
