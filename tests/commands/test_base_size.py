"""The whole way with a model of a published size, on a handful of images."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import write_clip_vit_base_patch16
from support.images import photo

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry

IMAGES = 12


@pytest.fixture
def manifest(tmp_path):
    lines = []
    for number in range(IMAGES):
        photo(240, 180 + number, seed=number).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": [f"photo number {number}", f"the {number}th"]}))
    path = tmp_path / "photos.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.slow
def test_openai_clip_vit_base_patch16_trains_reloads_bit_for_bit_and_evaluates(
    icclip, manifest, clip_tokenizer, tmp_path
):
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "run"
    write_clip_vit_base_patch16(checkpoint, clip_tokenizer)
    trained = icclip(
        "train", "--model", checkpoint, "--dataset", manifest, "--output-dir", run, "--train-bs", 4, "--epochs", 1,
        "--val-fraction", 0.17, "--guard", "off", "--device", "cpu", "--workers", 0, "--report-to", "none", "--set",
        "save_only_model=true", "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    result = json.loads(trained.out)
    assert result["steps"] == 2

    first, saved = (load_file(directory / "model.safetensors") for directory in (checkpoint, run))
    changed = {name for name in saved if not torch.equal(saved[name], first[name])}
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} <= changed
    again = open_model(Registry(load_plugins=frozenset()), ModelConfig(name=str(run)))
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()

    evaluated = icclip("eval", run, "--device", "cpu", "--json")
    assert evaluated.code == 0, evaluated.err
    metrics = json.loads(evaluated.out)
    assert {key: metrics[key] for key in ("rsum", "avg_best_cosine", "n_images")} == {
        key: result["test"][key] for key in ("rsum", "avg_best_cosine", "n_images")
    }
