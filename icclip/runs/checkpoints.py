"""Checkpoints, which are never half-written, and the root of the run directory, which is a copy of the best one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from icclip.errors import CheckpointError, UsageError
from icclip.files import fsync_tree, readable_os_errors

CHECKPOINT = "checkpoint"
TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*)\.(pt|pth|bin)|trainer_state\.json|weight(s_in_training|_average)\.safetensors|checkpoint\.json"
)
"""Files of a checkpoint that belong to the training, not to the model and its processor."""
FILES = "checkpoint.json"
"""The file of a checkpoint that holds the size and sha256 of each of its other files."""
STATE = "trainer_state.json"
NEEDED = ("model.safetensors", "optimizer.pt", "scheduler.pt", STATE)
"""Files that every checkpoint of one process has."""
UNREAD_PICKLE = "training_args.bin"
HALF_WRITTEN = ".publishing"
"""A marker in a run directory whose model is being replaced; its files may be from two checkpoints."""
FAILED_WRITES = ("write failed", "iostream error", "unexpected pos")
"""The messages of torch if a file could not be written to its end."""
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
            remove(staging)
            staging.mkdir(parents=True)
        wait()
        try:
            yield staging
            wait()
            if writer:
                # Nothing reads this pickle, since the arguments are in icclip.json.
                (staging / name / UNREAD_PICKLE).unlink(missing_ok=True)
                seal(staging / name)
                fsync_tree(staging)
                discard(root / name)
                (staging / name).replace(root / name)
            wait()
        finally:
            if writer:
                shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def full_disks_as_usage_errors(root: Path) -> Iterator[None]:
    """Turn an OSError, or the corresponding error of torch or safetensors, into one line about `root`."""
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
    """Whether the disk is full; torch's own error for this also means other failures, so the disk is checked."""
    if "No space left" in str(error):
        return True
    return any(words in str(error) for words in FAILED_WRITES) and shutil.disk_usage(root).free < 2**20


def require_space(root: Path, needed: int, free: int) -> None:
    """Refuse to begin a checkpoint that the disk cannot hold, so that the last complete one stays.

    Args:
        root: the run directory.
        needed: the minimum size of the checkpoint in bytes.
        free: the free space on the disk of `root` in bytes.

    Raises:
        UsageError: there is not enough space.
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
    """The newest complete checkpoint; an incomplete one never has such a name."""
    steps = checkpoint_steps(root)
    return root / f"{CHECKPOINT}-{steps[-1]}" if steps else None


def remove(path: Path) -> None:
    """Delete a file, a link (but not its target) or a directory; nothing happens if it does not exist."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def seal(checkpoint: Path) -> None:
    """Write the size and sha256 of every file of a checkpoint into its `checkpoint.json`."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != FILES)
    files = {path.relative_to(checkpoint).as_posix(): _identity(path) for path in paths}
    (checkpoint / FILES).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def damage(checkpoint: Path) -> str | None:
    """Describe what is wrong with the files of a checkpoint in one line; None if all are as they were written.

    In checkpoints of older versions, which have no `checkpoint.json`, only missing and empty files are noticed.
    """
    try:
        sealed = _sealed(checkpoint / FILES)
        if sealed is None:
            sealed = dict.fromkeys(NEEDED)
        return next(filter(None, (_file_damage(checkpoint / name, known) for name, known in sealed.items())), None)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{FILES} is damaged"


def newest_whole(root: Path, warn: Callable[[str], None]) -> Path | None:
    """Find the newest checkpoint whose files, and those of the best one so far, are as they were written.

    Args:
        root: the run directory.
        warn: called with one line for each newer checkpoint that is skipped.

    Raises:
        CheckpointError: there are checkpoints, but none is undamaged.
    """
    steps = checkpoint_steps(root)
    for step in reversed(steps):
        checkpoint = root / f"{CHECKPOINT}-{step}"
        problem = damage(checkpoint) or _damage_of_best(checkpoint)
        if problem is None:
            return checkpoint
        warn(f"{checkpoint} is damaged and passed over: {problem}")
    if steps:
        raise CheckpointError(f"no checkpoint in {root} is whole: start from the beginning with --overwrite")
    return None


def _damage_of_best(checkpoint: Path) -> str | None:
    """Check the best checkpoint, whose weights the run loads at its end."""
    best = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("best_global_step")
    if best is None or best == step_of(checkpoint):
        return None
    problem = damage(checkpoint.with_name(f"{CHECKPOINT}-{best}"))
    return problem and f"the best one before it, {CHECKPOINT}-{best}, is damaged ({problem})"


def _sealed(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    files: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"]
    if not files.keys() >= {STATE}:
        raise ValueError(path)
    return files


def _file_damage(path: Path, known: Mapping[str, Any] | None) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if known is None:
        return None if size else f"{path.name} is empty"
    if size != known["size"]:
        return f"{path.name} has {size:,} bytes instead of {known['size']:,}"
    return None if _identity(path) == known else f"the content of {path.name} has changed"


def _identity(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def rotate(root: Path, limit: int | None, keep: int | None, evaluated: Collection[int]) -> None:
    """Delete surplus checkpoints, but neither the newest nor the one of step `keep`.

    Args:
        root: the run directory.
        limit: how many evaluated checkpoints to keep; the oldest are deleted. None keeps all.
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
    """Delete a checkpoint if it exists; even if the process is killed, no part of it keeps its name."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.deleted.partial")
    if checkpoint.exists():
        remove(doomed)
        checkpoint.replace(doomed)
        remove(doomed)


def sweep(root: Path) -> None:
    """Delete the directories that a killed run was writing or deleting."""
    for path in root.glob(PARTIAL):
        remove(path)


def publish(checkpoint: Path, root: Path) -> None:
    """Make `root` a copy of a checkpoint's model and processor, and delete the results of the previous model.

    Each single file is replaced atomically, but not all of them together. While that goes on, and if the
    process is killed meanwhile, the marker HALF_WRITTEN keeps readers away. Publishing again repairs it.

    Raises:
        UsageError: the disk is full or not writable.
    """
    with full_disks_as_usage_errors(root):
        staging = root / ".publishing.partial"
        remove(staging)
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
