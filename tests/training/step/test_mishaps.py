from __future__ import annotations

import pytest
import torch

from icclip.errors import DataError, TrainingStoppedError, UsageError
from icclip.training.step.mishaps import understood


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_is_a_line_with_the_ways_out(error):
    made = understood(error, 7)
    assert isinstance(made, TrainingStoppedError)
    assert str(made).startswith("out of memory after step 7: give a smaller --micro-batch")
    assert made.__cause__ is error


def test_a_killed_loader_is_a_line():
    made = understood(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), 3)
    assert isinstance(made, TrainingStoppedError)
    assert str(made).startswith(
        "a process that loads images was killed after step 3 (DataLoader worker (pid 12) is killed by signal: Killed): "
        "the machine may have run out of memory; give fewer --workers"
    )


def test_what_a_loader_hands_over_is_its_last_line():
    handed = DataError(
        "Caught DataError in worker.\nTraceback:\n  ...\nicclip.errors.DataError: train row 4: no image\n"
    )
    assert str(understood(handed, 0)) == "train row 4: no image"


@pytest.mark.parametrize(
    "error", [DataError("train row 4"), UsageError("x"), RuntimeError("a bug"), KeyboardInterrupt()]
)
def test_anything_else_stays_what_it_is(error):
    assert understood(error, 0) is error
