"""A run that was cut and resumed ends as the one that was not. Real processes are killed in test_kill.py."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from icclip.config import DatasetConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import CheckpointError, ConfigError, UsageError
from icclip.models.opening import open_model
from icclip.runs import checkpoints
from icclip.runs.checkpoints import checkpoint_steps, discard, publish, rotate
from icclip.runs.history import read_history
from icclip.training.feeding.collate import CaptionedImages
from icclip.training.run import train
from icclip.training.step.progress import Progress


class CutError(BaseException):
    """Nobody catches it: as near to a kill as one process comes."""


def cut(monkeypatch, config, registry, step):
    """Train until `step` is done, and no further."""

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(CutError):
            train(config, registry, Reporter(silent=True))


def weights(path):
    return load_file(path / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def dropping(config, tiny, tmp_path):
    """Two epochs of four steps of a model that draws random numbers."""
    shutil.copytree(tiny["softmax"], folder := tmp_path / "dropping")
    values = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        values[tower]["attention_dropout"] = 0.2
    (folder / "config.json").write_text(json.dumps(values))
    return dataclasses.replace(config, model=ModelConfig(name=str(folder)), save_every_steps=1)


@pytest.fixture
def streamed(data, tmp_path, monkeypatch):
    # datasets sleeps that long after each pass.
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    (folder := tmp_path / "splits").mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.parquet").write_bytes((data / "train.parquet").read_bytes())
    return DatasetConfig(name="hub", path=str(folder), streaming=True)


STREAMED_STEPS = 7
"""Three passes of two steps, and a part of the fourth."""
CASES = {
    "every step is saved": {},
    "one in three is saved, none is logged": {"save_every_steps": 3, "logging_steps": 50},
    "loaders": {"workers": 1},
    "accumulation with a remainder": {"grad_accum": 3, "epochs": 3},
    "evaluated every other epoch": {"eval_every": 2, "epochs": 4, "save_every_steps": 4},
    "steps that are no whole epochs": {"max_steps": 6},
    "a stream": {"max_steps": STREAMED_STEPS, "grad_accum": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_cut_run_ends_as_the_whole_one(dropping, registry, streamed, monkeypatch, case):
    config = dataclasses.replace(dropping, save_total_limit=9, **case)
    if config.max_steps == STREAMED_STEPS:
        config = dataclasses.replace(config, data=streamed, train_bs=3)
    result = train(config, registry, Reporter(silent=True))
    parts = dataclasses.replace(config, output_dir=config.output_dir.with_name("parts"))
    # Where every step is saved: within an epoch, right after one, and before the last evaluation.
    for step in (2, 5, result.steps):
        cut(monkeypatch, dataclasses.replace(parts, resume=step > 2), registry, step)
    resumed = train(dataclasses.replace(parts, resume=True), registry, Reporter(silent=True))
    assert (resumed.steps, resumed.best_step) == (result.steps, result.best_step)
    assert resumed.test == result.test
    assert read_history(parts.output_dir / "metrics.jsonl") == read_history(config.output_dir / "metrics.jsonl")
    for name in ("", f"checkpoint-{result.steps}"):
        assert same(weights(config.output_dir / name), weights(parts.output_dir / name))


def test_resuming_decodes_no_image_that_was_seen(dropping, registry, quiet, monkeypatch):
    config = dataclasses.replace(dropping, epochs=1)
    cut(monkeypatch, config, registry, 3)
    seen = []
    get = CaptionedImages.__getitem__
    monkeypatch.setattr(CaptionedImages, "__getitem__", lambda self, index: seen.append(index) or get(self, index))
    train(dataclasses.replace(config, resume=True), registry, quiet)
    # Two steps are complete: the third was cut before its checkpoint.
    assert len(seen) == 2 * config.train_bs
    assert {epoch for epoch, _ in seen} == {0}


@pytest.mark.parametrize("limit", [1, 2])
def test_checkpoints_inside_epochs_do_not_crowd_out_the_best(dropping, registry, quiet, limit):
    result = train(dataclasses.replace(dropping, epochs=4, save_total_limit=limit), registry, quiet)
    assert {result.best_step, 16} <= set(checkpoint_steps(dropping.output_dir))
    assert all(step % 4 == 0 for step in checkpoint_steps(dropping.output_dir))


def test_rotation_keeps_the_newest_the_best_and_the_newest_evaluated(tmp_path):
    for step in (2, 4, 6, 8, 9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate(tmp_path, 2, keep=2, evaluated={2, 4, 6, 8})
    assert checkpoint_steps(tmp_path) == [2, 8, 10]


# Where a kill hits -------------------------------------------------------------------------------


def test_half_of_a_deleted_checkpoint_does_not_bear_its_name(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda path, **_: cut_if_there(path))
    with pytest.raises(CutError):
        discard(checkpoint)
    assert checkpoint_steps(tmp_path) == []


def cut_if_there(path):
    if path.exists():
        raise CutError


def test_a_root_of_two_steps_is_not_read_and_is_made_whole(config, registry, quiet, monkeypatch, icclip):
    train(dataclasses.replace(config, epochs=1), registry, quiet)
    root = config.output_dir
    replaced = []

    def replace_one(path, target):
        if len(replaced) == 2:
            raise CutError
        replaced.append(target)
        shutil.move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Path, "replace", replace_one)
        with pytest.raises(CutError):
            publish(root / "checkpoint-4", root)
    assert not (root / "test_metric.json").exists()
    with pytest.raises(
        CheckpointError, match=r"is still being written, or.*its last checkpoint is .*checkpoint-4; repeat the"
    ):
        open_model(registry, ModelConfig(name=str(root)))
    outcome = icclip("eval", root, "--split", "validation")
    assert outcome.code == 2
    assert "error: " in outcome.err
    assert "Traceback" not in outcome.err
    train(dataclasses.replace(config, resume=True), registry, quiet)
    open_model(registry, ModelConfig(name=str(root)))


def test_a_run_that_was_being_cleared_is_not_gone_on_with(config, registry, quiet, monkeypatch, tmp_path):
    train(dataclasses.replace(config, epochs=1), registry, quiet)
    replacing = dataclasses.replace(config, seed=7, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", cut_if_there)
        with pytest.raises(CutError):
            train(replacing, registry, quiet)
    assert (config.output_dir / "checkpoint-4").exists()
    resumed = dataclasses.replace(replacing, overwrite=False, resume=True)
    train(resumed, registry, quiet)
    train(dataclasses.replace(config, seed=7, output_dir=tmp_path / "whole"), registry, quiet)
    assert same(weights(config.output_dir), weights(tmp_path / "whole"))
    assert not list(config.output_dir.glob(".*"))


def test_a_torn_line_of_the_history_and_leavings_are_gone(dropping, registry, quiet, monkeypatch):
    cut(monkeypatch, dropping, registry, 3)
    root = dropping.output_dir
    with (root / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    (root / ".checkpoint-3.partial" / "checkpoint-3").mkdir(parents=True)
    train(dataclasses.replace(dropping, resume=True), registry, quiet)
    steps = [line["step"] for line in read_history(root / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 9))
    assert not list(root.glob(".*"))


DAMAGE = {
    "missing": None, "empty": b"", "zeroed": b"\0" * 99, "list": b"[1]\n", "number": b"7\n", "not UTF-8": b"\xff\n",
    "deep": b"[" * 100_000, "truncated": b'{"step": 0}\n{"ste',
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_history_is_restored_from_the_checkpoint(dropping, registry, quiet, monkeypatch, damage):
    whole = dropping.output_dir.with_name("whole")
    train(dataclasses.replace(dropping, output_dir=whole), registry, quiet)
    saved = dataclasses.replace(dropping, save_every_steps=2)
    told_at(monkeypatch, saved, registry, 7, signal.SIGTERM)
    log = dropping.output_dir / "metrics.jsonl"
    log.unlink()
    if damage is not None:
        log.write_bytes(damage)
    train(dataclasses.replace(saved, resume=True), registry, quiet)
    assert read_history(log) == read_history(whole / "metrics.jsonl")


def told_at(monkeypatch, config, registry, step, number):
    """Train until a signal comes at the end of `step`."""

    def tell(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), number)

    # What a shell starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "on_step_end", tell)
            with pytest.raises(KeyboardInterrupt):
                train(config, registry, Reporter(silent=True))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_and_resumed_run_has_each_step_once(dropping, registry, quiet, monkeypatch, number):
    saved = dataclasses.replace(dropping, save_every_steps=2)
    told_at(monkeypatch, saved, registry, 3, number)
    told_at(monkeypatch, dataclasses.replace(saved, resume=True), registry, 7, number)
    train(dataclasses.replace(saved, resume=True), registry, quiet)
    lines = read_history(dropping.output_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "eval_rsum" in line] == [0, 4, 8]


def test_a_run_killed_before_its_results_only_measures(config, registry, quiet, monkeypatch):
    whole = train(config, registry, quiet)
    root = config.output_dir
    record = json.loads((root / "icclip.json").read_text())
    (root / "icclip.json").write_text(json.dumps({**record, "status": "running"}))
    for lost in ("model.safetensors", "test_metric.json", "README.md"):
        (root / lost).unlink()
    monkeypatch.setattr("transformers.Trainer.training_step", None)
    again = train(dataclasses.replace(config, resume=True), registry, quiet)
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(whole, seconds=0)
    assert same(weights(root), weights(root / f"checkpoint-{whole.best_step}"))


def test_the_tested_weights_are_the_best_ones_after_the_directory_has_moved(config, registry, quiet, tmp_path):
    whole = train(dataclasses.replace(config, epochs=1), registry, quiet)
    moved = dataclasses.replace(config, output_dir=tmp_path / "moved", epochs=1, resume=True)
    shutil.move(config.output_dir, moved.output_dir)
    record = json.loads((moved.output_dir / "icclip.json").read_text())
    (moved.output_dir / "icclip.json").write_text(json.dumps({**record, "status": "running"}))
    assert train(moved, registry, quiet).test == whole.test


# What is said ------------------------------------------------------------------------------------


def test_a_complete_run_says_so_and_gives_its_result_again(config, registry, capsys, monkeypatch):
    whole = train(config, registry, Reporter(silent=True))
    monkeypatch.setattr("icclip.training.prepare.load_splits", None)
    again = train(dataclasses.replace(config, resume=True), registry, Reporter())
    said = capsys.readouterr().err
    assert "is complete, so there is nothing left to do; to train further, raise --epochs or --max-steps" in said
    without = {"confidence_95"}
    assert {k: v for k, v in again.test.items() if k not in without} == {
        k: v for k, v in whole.test.items() if k not in without
    }
    assert (again.best, again.baseline, again.best_step) == (whole.best, whole.baseline, whole.best_step)


def test_settings_that_take_effect_are_named(config, registry, capsys):
    train(dataclasses.replace(config, epochs=1), registry, Reporter(silent=True))
    train(dataclasses.replace(config, logging_steps=2, resume=True), registry, Reporter())
    said = capsys.readouterr().err
    assert "resuming from " in said
    assert "these settings differ from those the run began with: epochs 1 -> 2, logging_steps 1 -> 2" in said


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "cut"])
def test_settings_that_would_take_no_effect_are_refused(config, registry, quiet, monkeypatch, complete):
    if complete:
        train(config, registry, quiet)
    else:
        cut(monkeypatch, dataclasses.replace(config, save_every_steps=1), registry, 2)
    record = (config.output_dir / "icclip.json").read_bytes()
    changed = {"lr": 0.5, "weight_decay": 0.3, "scheduler": "linear", "seed": 7, "captions": "all", "grad_accum": 2}
    for name, value in changed.items():
        other = dataclasses.replace(config, resume=True, save_every_steps=1, **{name: value})
        with pytest.raises(ConfigError, match=f"{name} is {value}, and the run began with .*: a resumed run keeps it"):
            train(other, registry, quiet)
    assert (config.output_dir / "icclip.json").read_bytes() == record


def test_what_is_recorded_is_what_the_optimizer_and_the_sampler_held(config, registry, quiet, monkeypatch):
    cut(monkeypatch, dataclasses.replace(config, save_every_steps=1), registry, 3)
    held = {}

    def look(self, args, state, control, optimizer=None, **kwargs):
        held.update(lr=optimizer.param_groups[0]["initial_lr"], batch=args.train_batch_size, decay=max(
            group["weight_decay"] for group in optimizer.param_groups
        ))  # fmt: skip

    monkeypatch.setattr(Progress, "on_step_end", look)
    train(dataclasses.replace(config, save_every_steps=1, resume=True), registry, quiet)
    recorded = json.loads((config.output_dir / "icclip.json").read_text())["config"]
    assert held == {"lr": recorded["lr"], "batch": recorded["train_bs"], "decay": recorded["weight_decay"]}


def test_another_global_batch_is_refused_with_the_way_out(config, registry, quiet, monkeypatch):
    cut(monkeypatch, dataclasses.replace(config, save_every_steps=1), registry, 2)
    record = json.loads((config.output_dir / "icclip.json").read_text())
    (config.output_dir / "icclip.json").write_text(json.dumps({**record, "processes": 2}))
    size = config.train_bs
    with pytest.raises(
        UsageError,
        match=rf"batches of {2 * size} images \(2 processes x {size}\), and these would be of {size} \(1 x {size}\): "
        f"give --train-bs {2 * size} --micro-batch {size}",
    ):
        train(dataclasses.replace(config, resume=True), registry, quiet)


def test_an_interrupted_run_says_so(config, registry, quiet, monkeypatch):
    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(dataclasses.replace(config, save_every_steps=1), registry, quiet)
    assert json.loads((config.output_dir / "icclip.json").read_text())["status"] == "interrupted"
    train(dataclasses.replace(config, save_every_steps=1, resume=True), registry, quiet)
    assert json.loads((config.output_dir / "icclip.json").read_text())["status"] == "complete"


def test_a_run_that_can_make_no_step_is_refused(config, registry, quiet):
    with pytest.raises(UsageError, match=r"fewer than one batch of 99 x 1 processes: give a smaller --train-bs"):
        train(dataclasses.replace(config, train_bs=99, max_steps=5), registry, quiet)
    assert not (config.output_dir / "icclip.json").exists()


def test_data_that_has_changed_is_refused(config, registry, quiet):
    train(dataclasses.replace(config, epochs=1), registry, quiet)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, val_fraction=0.4), resume=True)
    with pytest.raises(UsageError, match=r"split has changed since .* began \(\d+ images then, \d+ now\): resume with"):
        train(other, registry, quiet)


def test_sigterm_is_an_interrupt_and_leaves_the_best_model(dropping, registry, capsys, monkeypatch):
    def terminate(self, args, state, control, **kwargs):
        if state.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Progress, "on_step_end", terminate)
    with pytest.raises(KeyboardInterrupt):
        train(dropping, registry, Reporter())
    assert "interrupted at step 6; " in capsys.readouterr().err
    assert same(weights(dropping.output_dir), weights(dropping.output_dir / "checkpoint-4"))
    assert signal.getsignal(signal.SIGTERM) is before
