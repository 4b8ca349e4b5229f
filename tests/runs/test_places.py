"""A run's record travels without the directories of a machine, and finds them again where it was made."""

from __future__ import annotations

import json
import shutil

import pytest

from icclip.errors import CheckpointError, UsageError
from icclip.runs.directory import RunDirectory
from icclip.runs.record import LOCAL, RECORD, write_record
from icclip.runs.results import metric_path, refuse_other_numbers, write_metrics

CONTENT = {
    "status": "complete",
    "config": {"output_dir": "/home/me/runs/best", "data": {"name": "jsonl", "path": "/data/a.jsonl"}, "lr": 1e-5},
    "model": {"source": "/home/me/models/clip", "parameters": 3},
}


def test_names_travel_and_places_stay(tmp_path):
    write_record(tmp_path, CONTENT)
    public = (tmp_path / RECORD).read_text()
    assert "/home" not in public
    assert "/data" not in public
    assert json.loads(public)["model"]["source"] == "clip"
    assert RunDirectory.open(tmp_path).config == CONTENT["config"]


def test_elsewhere_the_names_are_what_is_known(tmp_path):
    write_record(tmp_path / "here", CONTENT)
    (tmp_path / "there").mkdir()
    shutil.copy(tmp_path / "here" / RECORD, tmp_path / "there" / RECORD)
    config = RunDirectory.open(tmp_path / "there").config
    assert config == {"output_dir": "best", "data": {"name": "jsonl", "path": "a.jsonl"}, "lr": 1e-5}


def test_an_edited_record_is_believed(tmp_path):
    write_record(tmp_path, CONTENT)
    record = json.loads((tmp_path / RECORD).read_text())
    record["config"]["data"]["path"] = "b.jsonl"
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert RunDirectory.open(tmp_path).config["data"]["path"] == "b.jsonl"


def test_a_record_without_paths_has_no_second_file(tmp_path):
    write_record(tmp_path, {"config": {"data": {"name": "shapes", "path": None}}})
    assert not (tmp_path / LOCAL).exists()


def test_places_that_cannot_be_read_are_named(tmp_path):
    write_record(tmp_path, CONTENT)
    (tmp_path / LOCAL).write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*local.json: .*delete it, and give paths on the command"):
        RunDirectory.open(tmp_path)
    (tmp_path / LOCAL).write_text('{"config": []}')
    assert RunDirectory.open(tmp_path).config["data"]["path"] == "a.jsonl"


def test_metrics_of_data_of_the_same_name_are_told_apart(tmp_path):
    path = metric_path(tmp_path, "test")
    about = {"checkpoint": ".", "dataset": "jsonl@/data/a.jsonl", "split": "test"}
    write_metrics(path, {"rsum": 1.0}, about)
    assert "/data" not in path.read_text()
    refuse_other_numbers(path, about)
    with pytest.raises(UsageError, match=r"holds the metrics of dataset jsonl@a.jsonl \([0-9a-f]{8}\): give another"):
        refuse_other_numbers(path, {**about, "dataset": "jsonl@/other/a.jsonl"})
    # What an earlier version wrote holds the path, and is about the same.
    path.write_text(json.dumps({"about": about}))
    refuse_other_numbers(path, about)
