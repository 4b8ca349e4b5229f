"""Faults that a process of a training run can be given: what happens, and when."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import active_children
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What happens to one process.

    Args:
        rank: of the process that it happens to.
        moment: a key of MOMENTS.
        what: a key of ACTIONS.
        step: when, in training and reading; elsewhere the first time.
    """

    rank: int
    moment: str
    what: str
    step: int = 5


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hang() -> None:
    time.sleep(10**6)


def _no_memory() -> None:
    raise MemoryError


def _no_gpu_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def _bug() -> None:
    raise ValueError("a bug")


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _kill_workers() -> None:
    for worker in active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    time.sleep(1)


ACTIONS: Mapping[str, Callable[[], None]] = {
    "kill -9": _kill,
    "SIGTERM": _terminate,
    "SIGINT": _interrupt,
    "SIGSTOP": _stop,
    "hang": _hang,
    "out of memory": _no_memory,
    "out of GPU memory": _no_gpu_memory,
    "a bug": _bug,
    "disk full": _full,
    "its loaders are killed": _kill_workers,
}


def install(fault: Fault) -> None:
    """Make the fault happen in this process, once."""
    MOMENTS[fault.moment](ACTIONS[fault.what], fault.step)


def _before(owner: Any, name: str, act: Callable[[], None], nth: int = 1) -> None:
    """Act before the n-th call of a function."""
    original, calls = getattr(owner, name), [0]

    def replacement(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            act()
        return original(*args, **options)

    setattr(owner, name, replacement)


def _at_step(act: Callable[[], None], step: int) -> None:
    from icclip.training.step.progress import Progress

    _before(Progress, "on_step_end", act, step)


def _loading(act: Callable[[], None], _step: int) -> None:
    from icclip.training import prepare

    _before(prepare, "_load", act)


def _reading(act: Callable[[], None], step: int) -> None:
    from icclip.training.step.trainer import ContrastiveTrainer

    _before(ContrastiveTrainer, "get_batch_samples", act, step)


def _measuring(act: Callable[[], None], _step: int) -> None:
    from icclip.training.step.validation import Validation

    # The first one is that of step 0.
    _before(Validation, "__call__", act, 2)


def _saving(act: Callable[[], None], step: int) -> None:
    """In the midst of the second checkpoint, after the weights and before the rest."""
    from transformers import Trainer

    _before(Trainer, "_save_rng_state", act, min(2, step))


def _publishing(act: Callable[[], None], _step: int) -> None:
    """Where the best checkpoint becomes the root: within it on the first process, beside it on the others."""
    from icclip.runs import checkpoints
    from icclip.training import loop, run

    if os.environ.get("RANK", "0") == "0":
        _before(loop, "publish", lambda: _before(checkpoints, "fsync_tree", act))
    else:
        _before(run, "publish_best", act)


MOMENTS: Mapping[str, Callable[[Callable[[], None], int], None]] = {
    "loading": _loading,
    "training": _at_step,
    "reading": _reading,
    "measuring": _measuring,
    "saving": _saving,
    "publishing": _publishing,
}
