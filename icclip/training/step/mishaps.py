"""What can go wrong in the midst of training through no fault of the program, in a line that says what to do."""

from __future__ import annotations

import torch

from icclip.errors import DataError, TrainingStoppedError

KILLED_WORKER = "DataLoader worker"
NO_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
OF_A_WORKER = "icclip.errors.DataError: "


def understood(error: BaseException, step: int) -> BaseException:
    """The error as a line where it is the data's or the machine's fault; any other as it is.

    Args:
        error: that ended the training.
        step: the last one that was made.
    """
    made = _in_plain_words(error, step)
    if made is not error:
        made.__cause__ = error
    return made


def _in_plain_words(error: BaseException, step: int) -> BaseException:
    if isinstance(error, DataError):
        # A loader's worker hands over its whole traceback as the message.
        return DataError(str(error).strip().splitlines()[-1].removeprefix(OF_A_WORKER)) if "\n" in str(error) else error
    text = str(error)
    if isinstance(error, RuntimeError) and text.startswith(KILLED_WORKER):
        return TrainingStoppedError(
            f"a process that loads images was killed after step {step} ({text.splitlines()[0].rstrip('. ')}): the "
            "machine may have run out of memory; give fewer --workers, and go on with --resume"
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)
    ):
        return TrainingStoppedError(
            f"out of memory after step {step}: give a smaller --micro-batch (the same batch in less memory), add "
            "--grad-ckpt or --fsdp, and go on with --resume"
        )
    return error
