from __future__ import annotations

import json
import subprocess
import sys

import pytest

from icclip.errors import CheckpointError
from icclip.runs.directory import RunDirectory

RECORD = {
    "format": 1,
    "status": "complete",
    "config": {"lr": 0.5},
    "data": {"splits": {"train": {"images": 3}}},
    "result": {"steps": 4, "best_step": 2, "seconds": 1.0},
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "icclip.json").write_text(json.dumps(RECORD))
    for step in (10, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / ".checkpoint-12.partial").mkdir()
    lines = [{"step": 0, "eval_rsum": 1.0, "eval_logit_scale": 2.0}, {"step": 1, "loss": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "test_metric.json").write_text(json.dumps({"rsum": 5.0, "about": {"split": "test"}}))
    return tmp_path


@pytest.mark.parametrize("inside", [".", "checkpoint-2"])
def test_a_run_and_its_checkpoints_open_as_the_run(root, inside):
    run = RunDirectory.open(root / inside)
    assert run.path == root
    assert (run.status, run.config, run.result["best_step"]) == ("complete", {"lr": 0.5}, 2)
    assert run.splits == {"train": {"images": 3}}
    assert run.checkpoint_steps == [2, 10]
    assert run.last_checkpoint == root / "checkpoint-10"
    assert [line["step"] for line in run.history()] == [0, 1]
    assert run.evaluations() == {0: {"rsum": 1.0}}
    assert run.metrics("test") == {"rsum": 5.0}


@pytest.mark.parametrize(
    "damage", [b"[1]\n", b"\xff\n", b"[" * 100_000, b'{"loss": 1}\n', b" " * (1 << 21) + b"\n"], ids=range(5)
)
def test_a_log_is_read_up_to_what_is_damaged(root, damage):
    with (root / "metrics.jsonl").open("ab") as log:
        log.write(damage + b'{"step": 2, "loss": 3.0}\n')
    assert [line["step"] for line in RunDirectory.open(root).history()] == [0, 1]


def test_a_record_is_read_when_the_directory_is_opened_and_not_again(root):
    run = RunDirectory.open(root)
    (root / "icclip.json").unlink()
    assert run.config == {"lr": 0.5}


def test_what_is_no_run_is_empty(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for run in (RunDirectory.open(tmp_path / "elsewhere"), RunDirectory.open("owner/name")):
        assert (run.status, run.config, run.splits, run.result, run.last_checkpoint) == (None, {}, {}, {}, None)
        assert run.history() == run.checkpoint_steps == []
        assert run.evaluations() == run.metrics("test") == {}


def test_a_folder_beside_a_run_is_not_its_checkpoint(root):
    (root / "other").mkdir()
    assert RunDirectory.open(root / "other").record == {}


def test_a_record_that_is_no_json_is_named(root):
    (root / "icclip.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*icclip\.json: "):
        RunDirectory.open(root / "checkpoint-2")


def test_opening_a_run_imports_nothing_heavy(root):
    heavy = "{'torch', 'transformers', 'datasets', 'onnxruntime'}"
    code = (
        "import importlib, pkgutil, sys, icclip.runs\n"
        "for module in pkgutil.iter_modules(icclip.runs.__path__): importlib.import_module(f'icclip.runs.{module.name}')\n"
        f"icclip.runs.directory.RunDirectory.open({str(root)!r}).evaluations()\n"
        f"sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
