"""Real processes: one failure is one message, and the run goes on. `benchmarks/processes.py` has more, and a table."""

from __future__ import annotations

import pytest

from benchmarks.processes import cases, lab

CHOSEN = (
    "kill -9 of rank 0 while training", "kill -9 of rank 1 while saving", "kill -9 of the launcher while training",
    "SIGTERM to rank 1", "SIGTERM to all", "SIGTERM to rank 1 while saving", "a corrupt image in training",
    "out of memory on rank 1", "the loaders of rank 1 are killed", "a bug on rank 1", "rank 1 hangs while reading", "rank 1 hangs while saving",
    "rank 1 is stopped (SIGSTOP)", "rank 1 is never started", "a loss that is not finite", "an unknown option",
    "a disk that fills up in the midst of a save", "Open MPI's variables, 2 processes",
    "a stream that makes no whole batches", "another --train-bs on rank 1", "a second launch with --resume",
    "plain, 4 -> 4", "a stream, 2 -> 1", "LoRA with dropout, 2 -> 2", "LoRA with dropout, 2 -> 1", "FSDP, 2 -> 4",
)  # fmt: skip
CASES = {case.name: case for case in cases()}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("lab")) as one:
        yield one


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_expected_is_what_is_seen(here, name):
    case = CASES[name]
    ok, seen, _ = case.run(here)
    assert ok, f"{seen}; expected: {case.expected}"
