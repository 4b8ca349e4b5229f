"""A run whose newest checkpoint is damaged goes on from the newest whole one, and says so in one line."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file

from icclip.console import Reporter
from icclip.errors import CheckpointError
from icclip.runs.checkpoints import FILES, damage, newest_whole, publish, remove, seal, sweep
from icclip.training.run import train

SILENT = Reporter(silent=True)
PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", FILES)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": zero,
    "missing": lambda path: path.unlink(),
    "one bit": flip,
    "a directory": replace_by_directory,
}


@pytest.fixture
def run(config, registry):
    """A complete run with several checkpoints."""
    config = dataclasses.replace(config, save_every_steps=2)
    train(config, registry, SILENT)
    return config


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two sealed checkpoints of the shape that a run writes."""
    root = tmp_path_factory.mktemp("run")
    for step in (2, 4):
        (folder := root / f"checkpoint-{step}").mkdir()
        for name in PARTS[:-2]:
            (folder / name).write_bytes(bytes(range(100)) + bytes([step]))
        (folder / "trainer_state.json").write_text('{"best_global_step": 2}')
        seal(folder)
    return root


@pytest.fixture
def root(checkpoints, tmp_path):
    return shutil.copytree(checkpoints, tmp_path / "run")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_named_and_the_checkpoint_passed_over(root, name, how):
    assert newest_whole(root, pytest.fail) == root / "checkpoint-4"
    DAMAGE[how](root / "checkpoint-4" / name)
    warnings = []
    found = newest_whole(root, warnings.append)
    if name == FILES and how == "missing":
        # As an older icclip wrote it: nothing to compare with.
        assert (found, warnings) == (root / "checkpoint-4", [])
        return
    assert found == root / "checkpoint-2"
    (line,) = warnings
    assert line.startswith(f"{root}/checkpoint-4 is damaged and passed over: ")
    # A bit of the list itself may be one of another file's hash.
    assert name in line or (name, how) == (FILES, "one bit")
    assert "\n" not in line


def test_a_damaged_best_checkpoint_is_no_place_to_end_at(root):
    truncate(root / "checkpoint-2/model.safetensors")
    warnings = []
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .* is whole: start from the beginning with --overwrite"
    ):
        newest_whole(root, warnings.append)
    assert (
        "the best one before it, checkpoint-2, is damaged (model.safetensors has 50 bytes instead of 101)"
        in warnings[0]
    )


def test_no_checkpoint_at_all_is_a_beginning(tmp_path):
    assert newest_whole(tmp_path, pytest.fail) is None


def test_an_older_checkpoint_is_searched_for_what_is_missing_or_empty(root):
    (root / "checkpoint-4" / FILES).unlink()
    assert damage(root / "checkpoint-4") is None
    (root / "checkpoint-4/optimizer.pt").write_bytes(b"")
    assert damage(root / "checkpoint-4") == "optimizer.pt is empty"
    (root / "checkpoint-4/optimizer.pt").unlink()
    assert damage(root / "checkpoint-4") == "optimizer.pt is missing"


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": 3}', '{"files": {"trainer_state.json": 3}}', "[" * 100_000])
def test_a_strange_list_of_files_is_damage(root, text):
    (root / "checkpoint-4" / FILES).write_text(text)
    assert damage(root / "checkpoint-4") == f"{FILES} is damaged"


def test_what_a_link_points_to_is_not_deleted(tmp_path):
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / ".checkpoint-2.partial").symlink_to(elsewhere)
    sweep(tmp_path)
    assert not (tmp_path / ".checkpoint-2.partial").exists()
    assert (elsewhere / "precious").exists()
    remove(tmp_path / "nothing")


def test_the_published_model_has_no_list_of_a_checkpoints_files(root, tmp_path):
    publish(root / "checkpoint-4", tmp_path / "run")
    assert not (root / FILES).exists()


@pytest.mark.parametrize("name", PARTS[:-1])
def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_ends_as_it_would_have(run, registry, icclip, name):
    root = run.output_dir
    newest = max(root.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert damage(newest) is None
    # Copies: safetensors maps the file, which is about to change.
    before = {key: values.clone() for key, values in load_file(newest / "model.safetensors").items()}
    truncate(newest / name)
    heard = []

    class Listening(Reporter):
        def warn(self, message):
            heard.append(str(message))

    record = root / "icclip.json"
    record.write_text(record.read_text().replace('"complete"', '"interrupted"'))
    train(dataclasses.replace(run, resume=True), registry, Listening(silent=True))
    assert any(f"{newest} is damaged and passed over: {name} has" in line for line in heard)
    after = load_file(newest / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert damage(newest) is None
