from __future__ import annotations

import json
from pathlib import Path

import pytest

from icclip.config import DatasetConfig, EncoderConfig, EvalConfig
from icclip.errors import CheckpointError, UsageError
from icclip.evaluating.request import dataset_identity, eval_config, leaking_options
from icclip.evaluating.run import output_directory
from icclip.plugins.registry import Registry
from icclip.runs.directory import RunDirectory

REGISTRY = Registry(load_plugins=frozenset())
DATA = {"name": "flickr8k", "path": "/copy", "val_fraction": 0.2, "seed": 3, "streaming": True}


@pytest.fixture
def run(tmp_path):
    config = {"eval_bs": 32, "precision": "bf16", "data": DATA}
    (tmp_path / "icclip.json").write_text(json.dumps({"config": config}))
    return tmp_path


def asked(checkpoint, dataset=None, data=None, precision=None, **options):
    encoder = {"checkpoint": str(checkpoint), "precision": precision}
    return eval_config(REGISTRY, {"encoder": encoder, "data": {"name": dataset, **(data or {})}, **options})


def test_a_run_is_evaluated_as_it_was_trained(run):
    config = asked(run, split=None)
    assert (config.eval_bs, config.encoder.precision, config.split) == (32, "bf16", "test")
    assert config.data == DatasetConfig(name="flickr8k", path="/copy", val_fraction=0.2, seed=3)  # and not streamed


def test_what_the_user_says_wins(run):
    config = asked(run, data={"seed": 9}, eval_bs=8, precision="fp32", split="validation")
    assert (config.eval_bs, config.encoder.precision, config.split, config.data.seed) == (8, "fp32", "validation", 9)
    assert leaking_options(REGISTRY, RunDirectory.open(run), config.data) == ["--split-seed"]


def test_another_copy_of_the_same_dataset_is_split_alike(run):
    config = asked(run, "flickr8k@/elsewhere")
    assert (config.data.path, config.data.seed, config.data.val_fraction) == ("/elsewhere", 3, 0.2)
    assert asked(run, "flickr8k").data.path is None
    assert leaking_options(REGISTRY, RunDirectory.open(run), config.data) == []


def test_another_dataset_takes_nothing_over(run):
    assert asked(run, "flickr30k").data == DatasetConfig(name="flickr30k", whole=True)


def test_a_checkpoint_of_a_run_knows_its_run(run):
    (run / "checkpoint-3").mkdir()
    (run / "elsewhere").mkdir()
    assert RunDirectory.open(run / "checkpoint-3").config["eval_bs"] == 32
    assert RunDirectory.open(run / "elsewhere").config == {}


def test_a_directory_that_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"there is no directory .*nothing: check the path"):
        asked(tmp_path / "nothing")


def test_without_a_run_a_dataset_has_to_be_named(tmp_path):
    with pytest.raises(UsageError, match="does not say what it was trained on: give --dataset"):
        asked(tmp_path)


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "icclip.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*icclip\.json"):
        asked(tmp_path)


@pytest.mark.parametrize("data", ["text", 7, [1], {"name": 7}, {"nmae": "shapes"}])
def test_data_that_no_config_has_are_named(tmp_path, data):
    (tmp_path / "icclip.json").write_text(json.dumps({"config": {"data": data}}))
    with pytest.raises(CheckpointError, match=r"icclip\.json is damaged: config\.data: "):
        asked(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"format": 1}', '{"config": 3}'])
def test_a_record_of_something_else_is_no_run(tmp_path, content):
    (tmp_path / "icclip.json").write_text(content)
    assert RunDirectory.open(tmp_path).config == {}


def test_a_dataset_that_is_a_path_is_that_path(tmp_path):
    here = DatasetConfig(name="hub", path=str(tmp_path))
    assert dataset_identity(REGISTRY, here) == f"hub@{tmp_path.resolve()}"
    assert dataset_identity(REGISTRY, DatasetConfig(name="hub", path="owner/name")) == "hub@owner/name"
    assert dataset_identity(REGISTRY, DatasetConfig(name="flickr8k", path=str(tmp_path))) == "flickr8k"


def test_where_the_metrics_go(run, tmp_path):
    own = asked(run)
    other = EvalConfig(encoder=EncoderConfig(checkpoint=str(run)), data=DatasetConfig(name="hub", path="owner/photos"))
    assert output_directory(REGISTRY, RunDirectory.open(run), own) == run
    assert output_directory(REGISTRY, RunDirectory.open(run), other) == Path("eval") / f"{run.name}-photos"
    assert output_directory(REGISTRY, RunDirectory.open(run), asked(run, output_dir=tmp_path / "x")) == tmp_path / "x"
