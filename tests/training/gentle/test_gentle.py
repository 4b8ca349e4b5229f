from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from icclip.config import EncoderConfig, EvalConfig, GentleConfig, LoraConfig, ModelConfig
from icclip.errors import UnknownNameError, UsageError
from icclip.evaluating.run import evaluate
from icclip.models.opening import open_model
from icclip.training.feeding.collate import CaptionedImages
from icclip.training.gentle.averaging import WeightAverage
from icclip.training.gentle.layers import tower_positions
from icclip.training.gentle.lora import adapters_merged, add_adapters, plain_state, remove_adapters
from icclip.training.gentle.plan import Gentle
from icclip.training.run import train
from icclip.training.step.arguments import training_arguments
from icclip.training.step.trainer import ContrastiveTrainer


@pytest.fixture(params=["softmax", "sigmoid"])
def family(request):
    return request.param


@pytest.fixture
def loaded(family, registry, tiny):
    return open_model(registry, ModelConfig(name=str(tiny[family])))


@pytest.fixture
def gently(config, tiny, family):
    """One epoch of either family, as a function of its gentle options and adapters."""

    def of(lora=None, **options):
        return dataclasses.replace(
            config,
            model=ModelConfig(name=str(tiny[family])),
            gentle=GentleConfig(**options),
            lora=lora or LoraConfig(),
            scheduler="constant",
            epochs=1,
        )

    return of


def weights(directory):
    return load_file(directory / "model.safetensors")


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# Places and rates ---------------------------------------------------------------------------------


def test_every_parameter_has_its_place(loaded):
    where = tower_positions(loaded.model, loaded.backend)
    assert {name for name, place in where.items() if place.tower is None} <= {"logit_scale", "logit_bias"}
    for tower in ("vision", "text"):
        own = {name: place for name, place in where.items() if place.tower == tower}
        assert {place.layer for place in own.values()} == {0, 1, 2}
        assert all(place.layer + place.above == 2 for place in own.values())
        assert {name for name, place in own.items() if place.layer == 0} == {
            name for name in own if "embeddings" in name or "pre_layrnorm" in name
        }
        assert {name for name, place in own.items() if place.layer == 1} == {n for n in own if ".layers.0." in n}


def test_rates_and_weight_decay_of_each_parameter(loaded, config, pictures, captions):
    gentle = GentleConfig(layer_decay=0.5, vision_lr=1e-3)
    config = dataclasses.replace(config, lr=1e-2, gentle=gentle)
    prepared = Gentle.prepare(loaded, config)
    data = CaptionedImages(pictures, captions)
    trainer = ContrastiveTrainer(
        loaded, training_arguments(config, workers=0), data, lambda _: {"rsum": 0.0}, gentle=prepared
    )
    groups = trainer.create_optimizer().param_groups
    names = {parameter: name for name, parameter in loaded.model.named_parameters()}
    found = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    # One block: what follows it has the tower's rate, the block half of it, the embeddings a quarter.
    by_hand = {
        "logit_scale": (1e-2, 0.0),
        "vision_model.post_layernorm.weight": (1e-3, 0.0),
        "vision_model.encoder.layers.0.mlp.fc1.weight": (5e-4, 0.1),
        "vision_model.encoder.layers.0.mlp.fc1.bias": (5e-4, 0.0),
        "vision_model.embeddings.patch_embedding.weight": (2.5e-4, 0.1),
        "text_model.final_layer_norm.bias": (1e-2, 0.0),
        "text_model.encoder.layers.0.self_attn.q_proj.weight": (5e-3, 0.1),
        "text_model.encoder.layers.0.layer_norm1.weight": (5e-3, 0.0),
        "text_model.embeddings.token_embedding.weight": (2.5e-3, 0.1),
    }
    for name, (rate, decay) in by_hand.items():
        assert found[name] == pytest.approx((rate, decay)), name
    assert groups[0]["lr"] == max(group["lr"] for group in groups), "the one that is logged"


def test_the_schedule_scales_every_rate(gently, registry, quiet):
    config = dataclasses.replace(gently(layer_decay=0.5), scheduler="linear", warmup_ratio=0.0)
    train(config, registry, quiet)
    state = torch.load(config.output_dir / "checkpoint-4" / "scheduler.pt", weights_only=True)
    assert len(set(state["base_lrs"])) == 3
    assert set(state["_last_lr"]) == {0.0}


# Freezing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_frozen_tower_is_the_same_to_the_bit(gently, registry, quiet, tower):
    config = gently(freeze=tower)
    train(config, registry, quiet)
    moved = changed(load_file(f"{config.model.name}/model.safetensors"), weights(config.output_dir / "checkpoint-4"))
    loaded = open_model(registry, config.model)
    where = tower_positions(loaded.model, loaded.backend)
    # CLIP's keys have a gradient of zero in their bias, and SigLIP's so too.
    still = {name for name in where if name not in moved and not name.endswith("k_proj.bias")}
    assert still == {name for name, place in where.items() if place.tower == tower and not name.endswith("k_proj.bias")}


def test_frozen_blocks_are_the_same_to_the_bit_and_what_follows_them_trains(gently, registry, quiet, tiny, family):
    config = gently(freeze_blocks=1)
    train(config, registry, quiet)
    moved = changed(weights(tiny[family]), weights(config.output_dir / "checkpoint-4"))
    assert not [name for name in moved if "embeddings" in name or ".layers." in name or "pre_layrnorm" in name]
    assert {"vision_model.post_layernorm.weight", "text_model.final_layer_norm.weight", "logit_scale"} <= moved


def test_more_blocks_than_there_are(loaded, gently):
    with pytest.raises(UsageError, match=r"the (vision|text) tower has 1 blocks: give --freeze-blocks 1 or less"):
        Gentle.prepare(loaded, gently(freeze_blocks=2))


# Adapters -----------------------------------------------------------------------------------------


@pytest.fixture
def adapted(loaded):
    """With adapters that do something: peft begins with zeros."""
    add_adapters(loaded.model, tower_positions(loaded.model, loaded.backend), LoraConfig(rank=2), seed=1)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return loaded


def features(loaded, pictures):
    with torch.no_grad():
        return torch.cat([
            loaded.image_features(loaded.feeder.image_inputs(pictures[:4])),
            loaded.text_features(loaded.feeder.text_inputs(["a red square", "one"])),
        ])  # fmt: skip


def test_merged_the_model_gives_what_it_gives_with_adapters(adapted, pictures, family, registry, tiny):
    with_adapters = features(adapted, pictures)
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    with adapters_merged(adapted.model):
        torch.testing.assert_close(features(adapted, pictures), with_adapters, atol=1e-5, rtol=1e-4)
        plain = {name: tensor.clone() for name, tensor in plain_state(adapted.model).items()}
    assert not changed(before, adapted.model.state_dict())
    fresh = open_model(registry, ModelConfig(name=str(tiny[family])))
    without_adapters = features(fresh, pictures)
    assert not torch.allclose(without_adapters, with_adapters, atol=1e-3)
    fresh.model.load_state_dict(plain)
    torch.testing.assert_close(features(fresh, pictures), with_adapters, atol=1e-5, rtol=1e-4)
    remove_adapters(adapted.model)
    assert torch.equal(features(adapted, pictures), without_adapters)


def test_adapters_and_the_temperature_train_and_nothing_else(loaded):
    add_adapters(loaded.model, tower_positions(loaded.model, loaded.backend), LoraConfig(rank=2), seed=1)
    training = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    temperature = {name for name in training if name.startswith("logit_")}
    assert temperature == {name for name, _ in loaded.model.named_parameters() if name.startswith("logit_")}
    # Two towers of one block of six linear layers, each with two matrices.
    assert len(training - temperature) == 2 * 6 * 2
    assert all(".lora_" in name and ".layers.0." in name for name in training - temperature)


def test_adapters_go_where_they_are_wanted_and_nowhere_frozen(loaded, gently):
    gentle = Gentle.prepare(loaded, gently(LoraConfig(rank=2, targets=("q_proj", "fc1")), freeze="vision"))
    layers = {name.split(".lora_")[0] for name, p in loaded.model.named_parameters() if ".lora_" in name}
    block = "text_model.encoder.layers.0"
    assert layers == {f"{block}.self_attn.q_proj", f"{block}.mlp.fc1"}
    assert gentle.summary.endswith("parameters, adapters")


def test_a_layer_that_is_not_there(loaded):
    where = tower_positions(loaded.model, loaded.backend)
    with pytest.raises(UnknownNameError, match=r"unknown layer to adapt 'q_prj'; did you mean 'q_proj'\?"):
        add_adapters(loaded.model, where, LoraConfig(rank=2, targets=("q_prj",)), seed=1)


def test_the_seed_alone_decides_the_first_adapters(registry, tiny, family):
    def first(seed):
        loaded = open_model(registry, ModelConfig(name=str(tiny[family])))
        torch.rand(seed)
        add_adapters(loaded.model, tower_positions(loaded.model, loaded.backend), LoraConfig(rank=2), seed=seed)
        return {name: p.detach() for name, p in loaded.model.named_parameters() if ".lora_A." in name}

    assert not changed(first(1), first(1))
    assert changed(first(1), first(2))


# The average --------------------------------------------------------------------------------------


def test_the_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(model, 0.75)
    for value in (2.0, 4.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
    # 0.75 * 1 + 0.25 * 2 = 1.25; 0.75 * 1.25 + 0.25 * 4 = 1.9375.
    with average.in_place():
        assert model.weight.item() == 1.9375
    assert model.weight.item() == 4.0


def test_a_half_precision_model_has_a_float32_average():
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(3):
        average.update()
    (value,) = average.values.values()
    assert value.dtype == torch.float32
    assert value.item() != model.weight.item()


class Recorder(TrainerCallback):
    """The temperature before training, and after every step."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.seen.append(model.logit_scale.item())

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(model.logit_scale.item())


def test_every_optimizer_step_is_averaged_once(loaded, gently, pictures, captions):
    config = dataclasses.replace(gently(ema=0.5), grad_accum=2)
    prepared, recorder = Gentle.prepare(loaded, config), Recorder()
    measured = []
    trainer = ContrastiveTrainer(
        loaded, training_arguments(config, workers=0), CaptionedImages(pictures, captions),
        lambda loaded: measured.append(loaded.model.logit_scale.item()) or {"rsum": 0.0},
        callbacks=[recorder], gentle=prepared,
    )  # fmt: skip
    trainer.train()
    expected = recorder.seen[0]
    for value in recorder.seen[1:]:
        expected = 0.5 * expected + 0.5 * value
    assert len(recorder.seen) == 5
    saved = weights(config.output_dir / "checkpoint-4")["logit_scale"].item()
    assert saved == pytest.approx(expected, rel=1e-6)
    assert measured == [recorder.seen[0], saved]
    in_training = load_file(config.output_dir / "checkpoint-4" / "weights_in_training.safetensors")
    assert in_training["logit_scale"].item() == recorder.seen[-1]


# Runs ---------------------------------------------------------------------------------------------

WAYS = {
    "rates": {"layer_decay": 0.5, "freeze_blocks": 1},
    "ema": {"ema": 0.5},
    "lora": {"lora": LoraConfig(rank=2, dropout=0.1)},
    "lora and ema": {"lora": LoraConfig(rank=2), "ema": 0.5},
}


@pytest.mark.parametrize(("way", "family"), [*((way, "softmax") for way in WAYS), ("lora and ema", "sigmoid")])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(gently, registry, quiet, tmp_path, way):
    whole = dataclasses.replace(gently(**WAYS[way]), epochs=2)
    train(whole, registry, quiet)
    part = dataclasses.replace(whole, output_dir=tmp_path / "part")
    train(dataclasses.replace(part, epochs=1), registry, quiet)
    result = train(dataclasses.replace(part, resume=True), registry, quiet)
    last = [config.output_dir / "checkpoint-8" for config in (whole, part)]
    for file in {path.name for path in last[0].glob("*.safetensors")}:
        assert not changed(*(load_file(checkpoint / file) for checkpoint in last)), file
    assert_measured(part, registry, quiet, result)


def assert_measured(config, registry, quiet, result):
    """What a run says of its best checkpoint is what the saved model gives."""
    for directory in map(str, (config.output_dir, config.output_dir / f"checkpoint-{result.best_step}")):
        encoder = EncoderConfig(checkpoint=directory, workers=0, device="cpu")
        asked = EvalConfig(encoder=encoder, data=config.data, split="validation", eval_bs=config.eval_bs,
                           output_dir=config.output_dir / "again", bootstrap=0)  # fmt: skip
        again = evaluate(asked, registry, quiet).metrics
        (config.output_dir / "again" / "validation_metric.json").unlink()
        assert {name: again[name] for name in result.best} == result.best


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lora": LoraConfig(rank=3)}, "lora.rank is 3, and the run began with 2: a resumed run keeps it"),
        ({"gentle": GentleConfig(freeze_blocks=1)}, "gentle.freeze_blocks is 1, and the run began with 0"),
    ],
)
def test_resuming_with_other_weights_in_training_is_refused(gently, registry, quiet, other, message):
    config = gently(LoraConfig(rank=2))
    train(config, registry, quiet)
    with pytest.raises(UsageError, match=message):
        train(dataclasses.replace(config, epochs=2, resume=True, **other), registry, quiet)


def test_adapters_under_bf16_and_checkpointing_keep_the_base_and_learn(gently, registry, quiet, tiny, family):
    config = dataclasses.replace(gently(LoraConfig(rank=2)), precision="bf16", grad_ckpt=True)
    train(config, registry, quiet)
    moved = changed(weights(tiny[family]), weights(config.output_dir / "checkpoint-4"))
    assert "vision_model.encoder.layers.0.self_attn.q_proj.weight" in moved
    assert not [name for name in moved if ".layers." not in name and not name.startswith("logit_")]
