"""A disk without room for a checkpoint is one line, and the last whole checkpoint stays."""

from __future__ import annotations

import dataclasses
import re
import shutil
from types import SimpleNamespace

import pytest

from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.runs.checkpoints import checkpoint_steps, full_disks_as_usage_errors, require_space
from icclip.training.run import train

WORDS = ["file write failed", "basic_ios::clear: iostream error", "unexpected pos 704 vs 598"]


def disk_of(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free()))


@pytest.mark.parametrize("words", WORDS)
def test_torch_s_words_for_a_full_disk_are_one_line(tmp_path, monkeypatch, words):
    disk_of(monkeypatch, lambda: 0)
    with (
        pytest.raises(UsageError, match=rf"cannot write a checkpoint to {re.escape(str(tmp_path))}: No space left"),
        full_disks_as_usage_errors(tmp_path),
    ):
        raise RuntimeError(words)


@pytest.mark.parametrize("words", WORDS)
def test_the_same_words_on_a_disk_with_space_stay_what_they_are(tmp_path, monkeypatch, words):
    disk_of(monkeypatch, lambda: 2**30)
    with pytest.raises(RuntimeError, match=words), full_disks_as_usage_errors(tmp_path):
        raise RuntimeError(words)


def test_just_enough_space_is_enough(tmp_path):
    require_space(tmp_path, needed=100, free=100)
    with pytest.raises(UsageError, match="cannot write a checkpoint"):
        require_space(tmp_path, needed=101, free=100)


def test_too_little_space_before_a_save_keeps_the_last_checkpoint(config, registry, quiet, monkeypatch):
    config = dataclasses.replace(config, guard="off")
    disk_of(monkeypatch, lambda: 0 if checkpoint_steps(config.output_dir) else 2**40)
    with pytest.raises(
        UsageError, match=r"cannot write a checkpoint to .*run: it needs \d+ MiB and the disk has 0 MiB free"
    ):
        train(config, registry, quiet)
    (step,) = checkpoint_steps(config.output_dir)
    assert (config.output_dir / f"checkpoint-{step}" / "model.safetensors").exists()
    assert not list(config.output_dir.glob(".*.partial"))


def test_what_is_asked_for_is_what_a_checkpoint_takes(config, registry, quiet, monkeypatch):
    asked = []
    monkeypatch.setattr("icclip.training.step.saving.require_space", lambda _root, needed, _free: asked.append(needed))
    train(dataclasses.replace(config, guard="off"), registry, quiet)
    step = checkpoint_steps(config.output_dir)[-1]
    folder = config.output_dir / f"checkpoint-{step}"
    taken = sum((folder / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    assert asked[-1] <= taken
    assert asked[-1] == pytest.approx(taken, rel=0.25)


def test_little_space_is_said_before_the_first_step(config, registry, monkeypatch, capsys):
    disk_of(monkeypatch, lambda: 0)
    with pytest.raises(UsageError, match="cannot write a checkpoint"):
        train(dataclasses.replace(config, guard="off"), registry, Reporter())
    said = " ".join(capsys.readouterr().err.split())
    warning = said.index("a checkpoint will take about")
    assert f"MiB, and the disk of {config.output_dir} has 0 MiB free: free some space" in said
    assert warning < said.index("step 0/")
