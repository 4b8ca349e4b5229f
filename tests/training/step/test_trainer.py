from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.training.feeding.collate import CaptionedImages
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer, _ClampLogitScale


@pytest.fixture(params=["softmax", "sigmoid"])
def loaded(request, registry, tiny):
    return open_model(registry, ModelConfig(name=str(tiny[request.param])))


@pytest.fixture
def trainer(loaded, config, pictures, captions):
    arguments = training_arguments(config, workers=0)
    return ContrastiveTrainer(loaded, arguments, CaptionedImages(pictures, captions), lambda _: {"rsum": 0.0})


def test_only_matrices_decay(trainer):
    decaying, others, temperature = trainer.create_optimizer().param_groups
    assert [group["weight_decay"] for group in (decaying, others, temperature)] == [0.1, 0.0, 0.0]
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    spared = {names[id(p)] for p in others["params"]}
    assert {names[id(p)] for p in temperature["params"]} == names_of_temperature(trainer.model)
    spared |= names_of_temperature(trainer.model)
    assert {name for name in names.values() if name.endswith("bias") or "norm" in name} <= spared
    # SigLIP's attention pooling has a bias of its own spelling, and embeddings are matrices.
    assert all(p.ndim > 1 for p in decaying["params"])
    assert any("position_embedding" in names[id(p)] for p in decaying["params"])
    assert len(decaying["params"]) + len(others["params"]) + len(temperature["params"]) == len(names)


def names_of_temperature(model):
    return {name for name in ("logit_scale", "logit_bias") if hasattr(model, name)}


def test_training_leaves_the_models_config_alone(trainer):
    # As published CLIP configs have it; it decides how their text is pooled. The tokenizer has another.
    trainer.model.config.text_config.eos_token_id = 2
    before = trainer.model.config.to_dict()
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.train()
    assert trainer.model.config.to_dict() == before


def test_duplicates_in_a_batch_are_no_negatives(trainer, pictures, captions):
    data = CaptionedImages([pictures[0], pictures[0]], type(captions).from_lists([["same"], ["Same"]]))
    batch = trainer.data_collator([data[0, 0], data[0, 1]])
    loss = trainer.compute_loss(trainer.model, batch)
    model = trainer.model
    if trainer.loaded.backend.loss == "softmax":
        assert loss.item() == pytest.approx(0, abs=1e-6)
    else:
        outputs = model(batch["input_ids"], batch["pixel_values"])
        positives = outputs.logits_per_image.diagonal()
        assert loss.item() == pytest.approx(-nn.functional.logsigmoid(positives).mean().item(), abs=1e-5)


@pytest.mark.parametrize(("start", "now", "after"), [(2.6, 9.0, math.log(100)), (4.77, 9.0, 4.77), (2.6, 3.0, 3.0)])
def test_the_temperature_is_clamped_to_a_hundred_or_where_the_checkpoint_had_it(start, now, after):
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.tensor(start))
    clamp = _ClampLogitScale(model.logit_scale)
    with torch.no_grad():
        model.logit_scale.fill_(now)
    clamp.on_optimizer_step(None, TrainerState(), TrainerControl(), model=model)
    assert model.logit_scale.item() == pytest.approx(after, abs=1e-6)
