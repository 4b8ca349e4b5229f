from __future__ import annotations

import json

import pytest

from icclip.retrieval.metrics import SEED_KEYS


def test_a_run_directory_alone_is_enough(icclip, run_directory):
    outcome = icclip("eval", run_directory)
    assert outcome.code == 0
    assert "hub" in outcome.out
    assert "95 % interval" in outcome.out
    for part in ("model", "M parameters, cpu, fp32", "split test: 12 images, 24 captions", "test_metric.json"):
        assert part in outcome.err
    written = json.loads((run_directory / "test_metric.json").read_text())
    assert tuple(written)[:13] == SEED_KEYS
    assert written["about"]["checkpoint"] == "."
    assert written["about"]["split"] == "test"


def test_json_is_the_file_and_repeats(icclip, run_directory):
    first = icclip("eval", run_directory, "--json")
    assert json.loads(first.out) == json.loads((run_directory / "test_metric.json").read_text())
    assert icclip("eval", run_directory, "--json").out == first.out


def test_the_dataset_named_again_is_split_as_in_training(icclip, run_directory, photos):
    own = icclip("eval", run_directory, "--json").out
    assert icclip("eval", run_directory, "--dataset", photos, "--json").out == own


def test_another_split_goes_beside(icclip, run_directory, tmp_path):
    outcome = icclip(
        "eval", run_directory, "--split", "validation", "--output-dir", tmp_path, "--bootstrap", 0, "--json"
    )
    assert "confidence_95" not in json.loads(outcome.out)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["validation_metric.json", "validation_ranks.parquet"]


def test_recall_at_further_k(icclip, run_directory, tmp_path):
    found = json.loads(
        icclip("eval", run_directory, "-o", tmp_path, "--at", "1,3,50", "--bootstrap", "0", "--json").out
    )
    assert found["i2t_R@1"] <= found["i2t_R@3"] <= found["i2t_R@5"]
    assert found["t2i_R@50"] == 1
    assert "t2i_R@1" in found
    wrong = icclip("eval", run_directory, "-o", tmp_path, "--at", "1,x")
    assert (wrong.code, "--at 1,x: write it as --at 1,5,10" in wrong.err) == (2, True)


def test_splitting_otherwise_than_training_is_warned_of(icclip, run_directory, tmp_path):
    outcome = icclip("eval", run_directory, "--split-seed", 4, "--output-dir", tmp_path)
    assert "warning: --split-seed differs from training" in outcome.err


WORST_RANK = """
from icclip import hookimpl
from icclip.plugins.specs import MetricSpec

@hookimpl
def icclip_metrics():
    return [MetricSpec(name="worst", summary="", compute=lambda ranks: {"t2i_worst": ranks.t2i.max()})]
"""


def test_a_metric_of_another_distribution_is_added(icclip, run_directory, tmp_path, monkeypatch):
    information = tmp_path / "worst_rank-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: worst-rank\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[icclip]\nworst-rank = worst_rank\n")
    (tmp_path / "worst_rank.py").write_text(WORST_RANK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ICCLIP_LOAD_PLUGINS", "worst-rank")
    outcome = icclip("eval", run_directory, "--metric", "worst", "--metric", "map", "--json")
    metrics = json.loads(outcome.out)
    assert 1 <= metrics["t2i_worst"] <= metrics["n_images"]
    assert "t2i_worst" not in icclip("eval", run_directory, "--json").out


@pytest.mark.parametrize("command", ["eval", "train"])
def test_help_shows_the_defaults(icclip, command):
    text = " ".join(icclip(command, "--help").out.replace("│", " ").split())
    for default in ("[default: fail]", "[default: from the number of cores]", "[default: the GPU if there is one]"):
        assert default in text


def fails(outcome, *parts):
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


def test_an_unknown_split_is_answered_with_the_known_ones(icclip, run_directory):
    parts = ("unknown split 'tset'", "did you mean 'test'?", "known: test, train, validation")
    fails(icclip("eval", run_directory, "--split", "tset"), *parts)


def test_an_unknown_metric_is_answered_with_the_known_ones(icclip, run_directory):
    fails(icclip("eval", run_directory, "--metric", "mapp"), "unknown metric 'mapp'", "did you mean 'map'?")


def test_numbers_of_another_dataset_are_kept(icclip, run_directory, tmp_path):
    there = tmp_path / "test_metric.json"
    there.write_text('{"about": {"dataset": "flickr8k", "split": "test"}}')
    outcome = icclip("eval", run_directory, "--output-dir", tmp_path)
    fails(outcome, "holds the metrics of dataset flickr8k", "--output-dir")
    assert "encoding" not in outcome.err


def test_a_result_that_cannot_be_written_is_named(icclip, run_directory, tmp_path):
    (tmp_path / "file").write_text("")
    fails(icclip("eval", run_directory, "--output-dir", tmp_path / "file"), "test_metric.json: Not a directory")


def test_no_dataset_is_named(icclip, tmp_path):
    fails(icclip("eval", tmp_path), "does not say what it was trained on: give --dataset")


def test_two_precisions_exclude_each_other(icclip, run_directory):
    fails(icclip("eval", run_directory, "--bf16", "--fp32"), "--fp32 and --bf16 exclude each other: choose one")
    fails(icclip("eval", run_directory, "--precision", "fp16", "--fp32"), "--precision and --fp32 exclude each other")


def test_values_out_of_range_are_named(icclip, run_directory):
    fails(icclip("eval", run_directory, "--eval-bs", 0), "--eval-bs is 0: it must be at least 1")
