"""Training two towers: BatchNorm, frozen towers, and another loss than the family's."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import towers

from icclip.assembling.run import assemble
from icclip.config import AssembleConfig, GentleConfig, LoraConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import CheckpointError, UsageError
from icclip.models.objective import BIAS, LOSS
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.training.gentle.evaluation_mode import check_batch_norm
from icclip.training.gentle.layers import block_modules
from icclip.training.gentle.plan import Gentle
from icclip.training.objective import fitted_bias
from icclip.training.run import train
from icclip.training.step.progress import Progress
from icclip.training.step.recomputation import allow_recomputation

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def joined(folder, vision=None, **options):
    """An EfficientNet and a BERT."""
    vision = towers.write_tower(folder / "v", towers.efficientnet(**(vision or {})))
    text = towers.write_tower(folder / "t", towers.bert(**options), seed=1)
    config = AssembleConfig(vision=str(vision), text=str(text), output_dir=folder / "start", projection_dim=16)
    return assemble(config, Registry(load_plugins=frozenset()), Reporter(silent=True)).output_dir


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return joined(tmp_path_factory.mktemp("dual"))


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Without dropout, which falls otherwise in two parts than in one."""
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return joined(
        tmp_path_factory.mktemp("still"), vision={"drop_connect_rate": 0.0, "initializer_range": 1.0}, **no_dropout
    )


def cut(config, registry, monkeypatch, step):
    """Train until `step` is done, and no further."""

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, registry, Reporter(silent=True))


@pytest.fixture
def dual(config, start):
    return dataclasses.replace(config, model=ModelConfig(name=str(start)), epochs=1, guard="off")


def gentle(config, **options):
    return dataclasses.replace(config, gentle=GentleConfig(**options))


def changed(before, after):
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def last_step(config):
    return max(config.output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


# Frozen and training BatchNorm --------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"gentle": GentleConfig(freeze="vision")}, {"lora": LoraConfig(rank=2)}], ids=str)
def test_a_frozen_tower_keeps_its_statistics_to_the_bit(dual, start, registry, quiet, options):
    config = dataclasses.replace(dual, **options)
    train(config, registry, quiet)
    moved = changed(start, last_step(config))
    assert moved
    assert not {name for name in moved if name.startswith("vision_model.")}


def test_a_tower_that_trains_moves_its_statistics(dual, start, registry, quiet):
    train(dual, registry, quiet)
    moved = changed(start, last_step(dual))
    for what in STATISTICS:
        assert any(name.endswith(what) for name in moved), what


def test_a_frozen_tower_encodes_in_training_as_it_is_evaluated(dual, registry):
    loaded, other = open_model(registry, dual.model), open_model(registry, dual.model)
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = loaded.image_features({"pixel_values": pictures})
        other.model.train()
        loose = other.image_features({"pixel_values": pictures})
        Gentle.prepare(loaded, gentle(dual, freeze="vision"))
        loaded.model.train()
        held = loaded.image_features({"pixel_values": pictures})
    assert torch.equal(held, expected)
    assert not torch.allclose(loose, expected)
    assert loaded.model.text_model.training


def test_frozen_blocks_keep_their_statistics(dual, registry):
    loaded = open_model(registry, dual.model)
    Gentle.prepare(loaded, gentle(dual, freeze_blocks=1))
    before = {name: value.clone() for name, value in loaded.model.named_buffers() if name.endswith(STATISTICS)}
    loaded.model.train()
    loaded.image_features({"pixel_values": torch.rand(2, 3, 32, 32)})
    moved = {name for name, value in loaded.model.named_buffers() if name in before and not value.equal(before[name])}
    assert any("encoder.blocks.1." in name for name in moved)
    assert not any("embeddings" in name or "encoder.blocks.0." in name for name in moved)


TOGETHER = "the vision tower has BatchNorm layers that train on the statistics of whole batches; "
EXACT = [{"freeze": "vision"}, {"freeze_bn_stats": True}]
INEXACT = {
    "--micro-batch 2 they would be those of 2 images": {"micro_batch": 2},
    "--ema they would not be those of the averaged weights": {"gentle": GentleConfig(ema=0.9)},
}


@pytest.mark.parametrize(("message", "options"), INEXACT.items(), ids=list(INEXACT))
def test_what_would_not_be_exact_is_refused(dual, registry, quiet, message, options):
    with pytest.raises(UsageError) as refused:
        train(dataclasses.replace(dual, train_bs=4, **options), registry, quiet)
    assert str(refused.value).startswith(f"{TOGETHER}with {message}")
    assert str(refused.value).endswith(
        "leave it out, keep the statistics as they are (--freeze-bn-stats), or freeze the tower (--freeze vision)"
    )
    assert not dual.output_dir.exists()


@pytest.mark.parametrize(
    ("message", "processes", "options"),
    [
        ("with 2 processes each would have its own", 2, {}),
        ("with --fsdp they would not be put together", 1, {"fsdp": True}),
        # An EfficientNet cannot recompute anyway; others with BatchNorm may.
        ("with --grad-ckpt they would be updated twice", 1, {"grad_ckpt": True}),
    ],
)
def test_statistics_that_would_not_be_those_of_the_batch(dual, registry, message, processes, options):
    loaded = open_model(registry, dual.model)
    config = dataclasses.replace(dual, **options)
    with pytest.raises(UsageError, match=TOGETHER + message):
        check_batch_norm(loaded.model, loaded.backend, config, processes, pytest.fail)
    for exact in EXACT:
        loaded = open_model(registry, dual.model)
        Gentle.prepare(loaded, gentle(config, **exact))
        check_batch_norm(loaded.model, loaded.backend, gentle(config, **exact), processes, pytest.fail)


@pytest.mark.parametrize("exact", EXACT, ids=str)
def test_without_statistics_of_batches_micro_batches_and_averages_are_exact(dual, still, registry, quiet, exact):
    weights = {}
    for size in (None, 2):
        options = {
            "micro_batch": size,
            "output_dir": dual.output_dir / str(size),
            "model": ModelConfig(name=str(still)),
        }
        # Some gradients are nothing but rounding errors, of which Adam would make whole steps.
        options["training_args"] = {"adam_epsilon": 1e-3}
        config = dataclasses.replace(gentle(dual, **exact, ema=0.5), train_bs=4, lr=1e-2, weight_decay=0.0, **options)
        train(config, registry, quiet)
        weights[size] = load_file(last_step(config) / "model.safetensors")
    before = load_file(still / "model.safetensors")
    moved = {"vision": 0.0, "text": 0.0}
    for name, weight in weights[None].items():
        torch.testing.assert_close(weights[2][name], weight, rtol=1e-4, atol=1e-5)
        tower = name.partition("_")[0]
        if tower in moved:
            moved[tower] = max(moved[tower], float((weight - before[name]).abs().max()))
    assert moved["text"] > 1e-3
    assert (moved["vision"] > 1e-3) == (exact == {"freeze_bn_stats": True})


def test_statistics_that_are_kept_do_not_move_while_the_tower_trains(dual, start, registry, quiet):
    config = gentle(dual, freeze_bn_stats=True)
    train(config, registry, quiet)
    moved = changed(start, last_step(config))
    assert {name for name in moved if "_bn." in name}
    assert not {name for name in moved if name.endswith(STATISTICS)}


def test_statistics_that_are_kept_are_those_that_normalise(dual, still, registry):
    config = dataclasses.replace(dual, model=ModelConfig(name=str(still)))
    loaded = open_model(registry, config.model)
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = loaded.image_features({"pixel_values": pictures})
    Gentle.prepare(loaded, gentle(config, freeze_bn_stats=True))
    loaded.model.train()
    kept = loaded.image_features({"pixel_values": pictures})
    torch.testing.assert_close(kept, expected)
    assert kept.requires_grad
    assert loaded.model.vision_model.training


def test_without_batch_norm_there_are_no_statistics_to_keep(config, registry, quiet):
    with pytest.raises(UsageError, match=r"this model has no BatchNorm layers, .* leave --freeze-bn-stats out"):
        train(gentle(config, freeze_bn_stats=True), registry, quiet)
    assert not config.output_dir.exists()


@pytest.mark.parametrize(("options", "told"), [({}, 1), *((exact, 0) for exact in EXACT)], ids=str)
def test_what_the_statistics_of_batches_can_cost_is_said(dual, registry, options, told):
    said = []
    loaded = open_model(registry, dual.model)
    config = gentle(dual, **options)
    Gentle.prepare(loaded, config)
    check_batch_norm(loaded.model, loaded.backend, config, 1, said.append)
    assert len(said) == told
    assert all("the vision tower has BatchNorm" in line and "--freeze-bn-stats" in line for line in said)


# Freezing -----------------------------------------------------------------------------------------


def test_frozen_towers_leave_their_projections_to_train(dual, start, registry, quiet):
    config = gentle(dual, freeze="both")
    train(config, registry, quiet)
    moved = changed(start, last_step(config))
    assert moved == {"visual_projection.weight", "text_projection.weight", "logit_scale"}


def test_of_clip_one_frozen_tower_keeps_its_embeddings_and_two_do_not(config, registry, quiet):
    trains = {}
    for freeze in ("vision", "both"):
        loaded = open_model(registry, config.model)
        Gentle.prepare(loaded, gentle(config, freeze=freeze))
        trains[freeze] = {name.partition(".")[0] for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert trains == {
        "vision": {"text_model", "text_projection", "logit_scale"},
        "both": {"visual_projection", "text_projection", "logit_scale"},
    }


def test_where_there_are_no_projections_nothing_would_train(config, tiny, registry, quiet):
    config = dataclasses.replace(gentle(config, freeze="both"), model=ModelConfig(name=str(tiny["sigmoid"])))
    with pytest.raises(UsageError, match="--freeze both leaves nothing to train: models of the backend 'siglip' have"):
        train(config, registry, quiet)


@pytest.mark.parametrize("kept", [False, True])
def test_a_resumed_run_goes_on_to_the_bit(dual, registry, quiet, monkeypatch, kept):
    whole = dataclasses.replace(gentle(dual, freeze_bn_stats=kept), epochs=2)
    train(dataclasses.replace(whole, output_dir=dual.output_dir / "whole"), registry, quiet)
    first = dataclasses.replace(whole, output_dir=dual.output_dir / "parts", save_every_steps=2)
    cut(first, registry, monkeypatch, 4)
    train(dataclasses.replace(first, resume=True), registry, quiet)
    whole = dataclasses.replace(whole, output_dir=dual.output_dir / "whole")
    assert last_step(whole).name == last_step(first).name
    assert not changed(last_step(whole), last_step(first))


# Recomputing --------------------------------------------------------------------------------------


def with_a_vit(folder):
    vision, text = towers.write_tower(folder / "v", towers.vit()), towers.write_tower(folder / "t", towers.bert(), 1)
    config = AssembleConfig(vision=str(vision), text=str(text), output_dir=folder / "start", projection_dim=16)
    return assemble(config, Registry(load_plugins=frozenset()), Reporter(silent=True)).output_dir


def test_towers_that_were_joined_recompute_their_activations(config, registry, quiet, tmp_path):
    model = ModelConfig(name=str(with_a_vit(tmp_path)))
    ends = []
    for again in (False, True):
        run = dataclasses.replace(
            config, model=model, epochs=1, guard="off", grad_ckpt=again, output_dir=tmp_path / str(again)
        )
        train(run, registry, quiet)
        ends.append(last_step(run))
    assert changed(tmp_path / "start", ends[0])
    # To the bit: dropout falls as it did the first time.
    assert not changed(*ends)


def test_a_block_that_recomputes_runs_twice(config, registry, tmp_path):
    loaded = open_model(registry, ModelConfig(name=str(with_a_vit(tmp_path))))
    allow_recomputation(loaded.model, loaded.backend)
    # transformers 5 calls it by its other name.
    name = "activation" if hasattr(loaded.model, "activation_checkpointing_enable") else "gradient"
    getattr(loaded.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    loaded.model.train()
    runs = []
    # In transformers 5 the hooks of a block itself are outside of what is recomputed.
    inner = [
        next(one for one in block.modules() if isinstance(one, torch.nn.Linear))
        for block in block_modules(loaded.model, loaded.backend)
    ]
    for layer in inner:
        layer.register_forward_pre_hook(lambda module, _: runs.append(module))
    image = loaded.image_features({"pixel_values": torch.rand(2, 3, towers.SIDE, towers.SIDE)})
    text = loaded.text_features(loaded.feeder.text_inputs(["a red square", "one"]))
    (image * text).sum().backward()
    assert [runs.count(layer) for layer in inner] == [2] * len(inner)
    assert len(inner) > 2


def test_what_cannot_recompute_is_one_line(dual, start, registry, quiet):
    with pytest.raises(UsageError, match=r"the vision tower cannot recompute its activations: .* \(--freeze vision\)"):
        train(dataclasses.replace(dual, grad_ckpt=True), registry, quiet)
    assert not dual.output_dir.exists()
    loaded = open_model(registry, dual.model)
    Gentle.prepare(loaded, gentle(dual, freeze="both"))
    allow_recomputation(loaded.model, loaded.backend)
    loaded.model.text_model.supports_gradient_checkpointing = False
    with pytest.raises(UsageError, match="neither tower can recompute its activations: leave --grad-ckpt out"):
        allow_recomputation(loaded.model, loaded.backend)


# The loss -----------------------------------------------------------------------------------------


@pytest.fixture(params=["clip", "dual"])
def without_bias(request, config, dual):
    return {"clip": dataclasses.replace(config, epochs=1, guard="off"), "dual": dual}[request.param]


def test_the_sigmoid_loss_learns_a_bias_that_stays_in_the_configuration(without_bias, registry, quiet):
    config = dataclasses.replace(without_bias, loss="sigmoid", lr=1e-2)
    train(config, registry, quiet)
    loaded = open_model(registry, ModelConfig(name=str(config.output_dir)))
    assert (loaded.loss, loaded.backend.loss) == ("sigmoid", "softmax")
    stored = [json.loads((path / "config.json").read_text()) for path in (last_step(config), config.output_dir)]
    assert stored[0][LOSS] == stored[1][LOSS] == "sigmoid"
    assert loaded.model.logit_bias.item() == stored[1][BIAS]
    assert "logit_bias" not in load_file(config.output_dir / "model.safetensors")
    # Whatever opens the family's models opens this one.
    _, info = transformers.AutoModel.from_pretrained(config.output_dir, output_loading_info=True)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_the_bias_trains(without_bias, registry, quiet):
    found = {}
    for lr in (1e-9, 1e-1):
        config = dataclasses.replace(without_bias, loss="sigmoid", lr=lr, output_dir=without_bias.output_dir / str(lr))
        train(config, registry, quiet)
        found[lr] = json.loads((last_step(config) / "config.json").read_text())[BIAS]
    assert found[1e-9] != pytest.approx(found[1e-1], abs=1e-3)


def test_a_new_bias_makes_matches_as_rare_as_they_are(config, registry, pictures, captions):
    loaded = open_model(registry, config.model)
    gallery = SimpleNamespace(images=pictures, captions=captions)
    bias = fitted_bias(loaded, gallery, batch=8)
    texts = [captions.texts[start] for start in captions.offsets[:-1]]
    with torch.inference_mode():
        image, text = (
            torch.nn.functional.normalize(rows, dim=-1)
            for rows in (
                loaded.image_features(loaded.feeder.image_inputs(pictures)),
                loaded.text_features(loaded.feeder.text_inputs(texts)),
            )
        )
        logits = loaded.model.logit_scale.exp() * image @ text.T
    n = len(pictures)
    average = (logits.sum() - logits.diagonal().sum()) / (n * n - n)
    assert torch.sigmoid(average + bias).item() == pytest.approx(1 / 8, rel=1e-4)


@pytest.mark.parametrize("extra", [{}, {"gentle": GentleConfig(ema=0.5)}, {"lora": LoraConfig(rank=2)}], ids=str)
def test_a_bias_is_resumed_to_the_bit(config, registry, quiet, monkeypatch, extra):
    wanted = dataclasses.replace(config, loss="sigmoid", lr=1e-2, guard="off", **extra)
    train(dataclasses.replace(wanted, output_dir=config.output_dir / "whole"), registry, quiet)
    parts = dataclasses.replace(wanted, output_dir=config.output_dir / "parts", save_every_steps=2)
    cut(parts, registry, monkeypatch, 4)
    train(dataclasses.replace(parts, resume=True), registry, quiet)
    ends = [last_step(dataclasses.replace(parts, output_dir=config.output_dir / name)) for name in ("whole", "parts")]
    assert ends[0].name == ends[1].name
    assert not changed(*ends)
    assert len({json.loads((end / "config.json").read_text())[BIAS] for end in ends}) == 1


def test_siglip_trains_with_the_softmax_loss_and_keeps_its_bias(config, tiny, registry, quiet):
    model = ModelConfig(name=str(tiny["sigmoid"]))
    config = dataclasses.replace(config, model=model, loss="softmax", lr=1e-2, guard="off")
    train(config, registry, quiet)
    loaded = open_model(registry, ModelConfig(name=str(config.output_dir)))
    before = load_file(tiny["sigmoid"] / "model.safetensors")
    after = load_file(config.output_dir / "model.safetensors")
    assert (loaded.loss, loaded.backend.loss) == ("softmax", "sigmoid")
    assert before["logit_bias"].equal(after["logit_bias"])
    assert not before["logit_scale"].equal(after["logit_scale"])


def test_the_last_loss_holds_until_another_is_asked_for(config, registry, quiet):
    first = dataclasses.replace(config, loss="sigmoid", epochs=1, guard="off")
    train(first, registry, quiet)
    second = dataclasses.replace(first, loss=None, model=ModelConfig(name=str(first.output_dir)))
    second = dataclasses.replace(second, output_dir=config.output_dir / "second")
    train(second, registry, quiet)
    assert open_model(registry, ModelConfig(name=str(second.output_dir))).loss == "sigmoid"
    third = dataclasses.replace(second, loss="softmax", output_dir=config.output_dir / "third")
    train(third, registry, quiet)
    back = open_model(registry, ModelConfig(name=str(third.output_dir)))
    assert (back.loss, getattr(back.model, "logit_bias", None)) == ("softmax", None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (LOSS, "triplet", "config.json has icclip_loss 'triplet': expected one of softmax, sigmoid"),
        (BIAS, "much", "config.json has icclip_logit_bias 'much': expected a number"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(start, registry, tmp_path, *, key, value, message):
    copy = shutil.copytree(start, tmp_path / "copy")
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        open_model(registry, ModelConfig(name=str(copy)))
