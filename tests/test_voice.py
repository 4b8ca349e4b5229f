"""What several processes would all say before they have met is said once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from icclip.voice import STALE, is_first_to_say


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def told(rank, size=3, **more):
    return {"RANK": str(rank), "WORLD_SIZE": str(size), **more}


def test_one_of_several_speaks_and_nothing_is_left(tmp_path):
    assert [is_first_to_say("wrong", told(rank)) for rank in (2, 0, 1)] == [True, False, False]
    assert list(tmp_path.iterdir()) == []
    # The next launch, from the same shell.
    assert is_first_to_say("wrong", told(0))


def test_another_line_is_said_too():
    assert is_first_to_say("wrong", told(0))
    assert is_first_to_say("also wrong", told(1))


def test_a_process_alone_always_speaks(tmp_path):
    assert all(is_first_to_say("wrong", {}) for _ in range(3))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_know_who_it_is_speaks():
    assert all(is_first_to_say("wrong", {"RANK": "1"}) for _ in range(2))


def test_what_a_killed_launch_has_left_is_soon_forgotten(tmp_path):
    assert is_first_to_say("wrong", told(0))
    assert not is_first_to_say("wrong", told(1))
    (left,) = tmp_path.iterdir()
    os.utime(left, (time.time() - 2 * STALE,) * 2)
    assert is_first_to_say("wrong", told(0))


def test_a_folder_that_cannot_be_written_to_silences_nobody(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    assert all(is_first_to_say("wrong", told(rank)) for rank in range(3))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "--no-such-option"], "No such option"),
        (["train", "--dataset", "nowhere-at-all", "--model", "clip-tiny"], "nowhere-at-all"),
    ],
)
def test_a_mistake_in_the_command_is_shown_by_one_process(tmp_path, words, line):
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "icclip", *words], stderr=subprocess.PIPE, text=True,
            env=os.environ | told(rank, 2) | {"TMPDIR": str(tmp_path)}, cwd=Path(__file__).parents[1],
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert sum(line in one for one in said) == 1, said
    assert "" in said
