from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from icclip.config import EvalConfig, ModelConfig
from icclip.errors import TrainingStoppedError, UsageError
from icclip.models.opening import open_model
from icclip.training.progress import evaluations, read_history
from icclip.training.run import train


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_explains_itself(config, registry, quiet):
    result = train(config, registry, quiet)
    root = config.output_dir
    record = json.loads((root / "icclip.json").read_text())
    assert record["status"] == "complete"
    assert record["data"]["splits"]["train"]["images"] == 8
    assert set(record["config"]) >= {"model", "data", "seed", "lr"}
    assert {path.name for path in root.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}
    assert not list(root.glob(".*")), "staging directories are gone"
    assert not list(root.rglob("training_args.bin"))
    best = root / f"checkpoint-{result.best_step}"
    assert same(weights(root), weights(best))
    for directory in (root, *root.glob("checkpoint-*")):
        open_model(registry, ModelConfig(name=str(directory)))


def test_validation_is_measured_before_the_first_step_and_after_every_epoch(config, registry, quiet):
    result = train(config, registry, quiet)
    measured = evaluations(config.output_dir / "metrics.jsonl")
    assert list(measured) == [0, 4, 8]
    assert result.baseline == measured[0]
    assert result.best["rsum"] == max(measured[4]["rsum"], measured[8]["rsum"])
    losses = [line["loss"] for line in read_history(config.output_dir / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 8
