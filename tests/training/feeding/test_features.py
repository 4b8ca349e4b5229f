"""What frozen towers make of images and captions, computed once: the same training as if they encoded in every step."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import towers

from icclip.assembling.run import assemble
from icclip.config import AssembleConfig, DatasetConfig, GentleConfig, LoraConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.models.opening import open_model
from icclip.models.trunk import CaptionFeatures, Trunk, is_features
from icclip.runs.history import read_history
from icclip.training.feeding import features
from icclip.training.gentle.plan import Gentle
from icclip.training.run import train
from icclip.training.step.progress import Progress

FREEZE = [("softmax", "vision"), ("softmax", "text"), ("softmax", "both"), ("sigmoid", "vision"), ("sigmoid", "text")]
FREEZE += [("dual", "vision"), ("dual", "text"), ("dual", "both")]


class CutError(BaseException):
    """Nobody catches it."""


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    """An EfficientNet and a BERT."""
    folder = tmp_path_factory.mktemp("dual")
    vision = towers.write_tower(folder / "v", towers.efficientnet())
    text = towers.write_tower(folder / "t", towers.bert(), seed=1)
    config = AssembleConfig(vision=str(vision), text=str(text), output_dir=folder / "start", projection_dim=16)
    return assemble(config, towers_registry(), Reporter(silent=True)).output_dir


def towers_registry():
    from icclip.plugins.registry import Registry

    return Registry(load_plugins=frozenset())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICCLIP_CACHE", str(folder := tmp_path / "cache"))
    return folder / "features"


@pytest.fixture
def of_family(config, tiny, dual):
    """(family, frozen tower) -> a run that makes more of its weights move than floats can hide."""
    folders = {**tiny, "dual": dual}

    def made(family, freeze, **options):
        return dataclasses.replace(
            config,
            model=ModelConfig(name=str(folders[family])),
            gentle=GentleConfig(freeze=freeze),
            guard="off",
            # Before a BatchNorm, some gradients are nothing but rounding errors, of which Adam would make whole steps.
            training_args={"adam_epsilon": 1e-3},
            **options,
        )

    return made


def losses(folder):
    return [line["loss"] for line in read_history(folder / "metrics.jsonl") if "loss" in line]


def last_weights(folder):
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return load_file(last / "model.safetensors")


def both_ways(config, registry, folder, **options):
    """The folders of the same run with features and without."""
    for mode in ("on", "off"):
        own = dataclasses.replace(config, cache_features=mode, output_dir=folder / mode, **options)
        train(own, registry, Reporter(silent=True))
    return folder / "on", folder / "off"


def assert_same_training(one, other):
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)
    weights, expected = last_weights(one), last_weights(other)
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        # A bias of keys moves all scores of a row alike: its gradient is rounding errors, which Adam makes steps of.
        if name.endswith(("k_proj.bias", "key.bias")):
            continue
        torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=2e-4, msg=name)


# Equal to the plain path --------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "freeze"), FREEZE)
def test_features_train_as_the_towers_themselves_do(family, freeze, of_family, registry, tmp_path):
    # A BatchNorm that trains makes a sign of two images: the smallest difference may turn it round.
    larger = {"train_bs": 6} if (family, freeze) == ("dual", "text") else {}
    on, off = both_ways(of_family(family, freeze), registry, tmp_path, **larger)
    cache = tmp_path / "cache" / "features"
    assert_same_training(on, off)
    files = 3 * (2 if freeze == "both" else 1)
    assert len(list(cache.glob("*.npy"))) == files, "of each split and frozen tower"
    start = load_file(Path(of_family(family, freeze).model.name) / "model.safetensors")
    assert any(not torch.equal(value, start[name]) for name, value in last_weights(on).items()), "it has trained"


OTHERS = {
    "micro-batches": {"micro_batch": 2, "train_bs": 4},
    "all captions": {"captions": "all"},
    "adapters on the other tower": {"lora": LoraConfig(rank=2)},
    "an average": {"gentle": GentleConfig(freeze="vision", ema=0.9)},
    "bf16": {"precision": "bf16"},
    "workers": {"workers": 1},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=list(OTHERS))
def test_features_go_together_with(options, of_family, registry, tmp_path):
    on, off = both_ways(of_family("dual", "vision"), registry, tmp_path, **options)
    if "precision" in options:
        assert losses(on) == pytest.approx(losses(off), rel=2e-2)
    else:
        assert_same_training(on, off)


def test_the_frozen_tower_runs_no_more(of_family, registry, quiet, monkeypatch):
    config = dataclasses.replace(of_family("softmax", "vision"), cache_features="on")
    train(config, registry, quiet)
    encoded = []
    monkeypatch.setattr(
        Trunk, "features", lambda self, inputs: encoded.append(len(next(iter(inputs.values())))) or plain(self, inputs)
    )
    train(dataclasses.replace(config, overwrite=True), registry, quiet)
    assert encoded == [1, 1, 1], "only the image of each split with which the stand-in is tried"


plain = Trunk.features


def test_a_cut_run_ends_as_the_one_that_was_not(of_family, registry, quiet, tmp_path, monkeypatch):
    config = dataclasses.replace(of_family("dual", "vision"), cache_features="on", save_every_steps=1)
    train(config, registry, quiet)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise CutError

    other = dataclasses.replace(config, output_dir=tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(CutError):
            train(other, registry, quiet)
    train(dataclasses.replace(other, resume=True), registry, quiet)
    assert losses(other.output_dir) == losses(config.output_dir)
    one, two = last_weights(other.output_dir), last_weights(config.output_dir)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_resumed_run_encodes_with_the_tower_of_its_checkpoint(of_family, registry, quiet, tmp_path, monkeypatch):
    """The directory that it began with may have changed since."""
    config = of_family("dual", "vision", cache_features="on", epochs=1)
    start = tmp_path / "start"
    shutil.copytree(config.model.name, start)
    config = dataclasses.replace(config, model=ModelConfig(name=str(start)), epochs=1)
    train(config, registry, quiet)
    weights = load_file(start / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, start / "model.safetensors", {"format": "pt"})
    given = []
    monkeypatch.setattr(features, "_weights", lambda module: given.append(module.state_dict()) or iter(()))
    train(dataclasses.replace(config, epochs=2, resume=True), registry, quiet)
    name = "encoder.blocks.0.expansion.expand_conv.weight"
    name = name if name in given[0] else next(key for key in given[0] if key.endswith("conv.weight"))
    assert torch.equal(given[0][name], weights[f"vision_model.{name}"])


@pytest.mark.distributed
def test_two_processes_share_features(of_family, data, tmp_path):
    model = of_family("dual", "vision").model.name
    for mode in ("on", "off"):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "icclip", "train"]
        options = ["--freeze", "vision", "--cache-features", mode, "--epochs", 1, "--train-bs", 2, "--device", "cpu"]
        options += ["--workers", 0, "--report-to", "none", "--lr", 1e-3, "--logging-steps", 1, "--guard", "off"]
        command = [sys.executable, *torchrun, "-m", model, "-d", data, "-o", tmp_path / mode, *options]
        done = subprocess.run([str(part) for part in command], timeout=300, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert_same_training(tmp_path / "on", tmp_path / "off")


# What is kept, and under which name ---------------------------------------------------------------


def test_other_weights_have_other_features(of_family, registry, quiet, tmp_path, cache):
    config = of_family("softmax", "vision", cache_features="on")
    train(config, registry, quiet)
    first = set(cache.glob("*.npy"))
    train(dataclasses.replace(config, overwrite=True, lr=2e-3), registry, quiet)
    assert set(cache.glob("*.npy")) == first, "the same tower has the same features"
    shutil.copytree(config.model.name, changed := tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    weights["vision_model.post_layernorm.weight"] *= 2
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    other = dataclasses.replace(config, model=ModelConfig(name=str(changed)), overwrite=True)
    train(other, registry, quiet)
    assert len(set(cache.glob("*.npy")) - first) == len(first) == 3


def test_a_checkpoint_of_the_run_has_the_features_of_its_start(of_family, registry, quiet, tmp_path, cache):
    config = of_family("dual", "vision", cache_features="on")
    train(config, registry, quiet)
    first = set(cache.glob("*.npy"))
    again = dataclasses.replace(config, model=ModelConfig(name=str(config.output_dir)), output_dir=tmp_path / "second")
    train(again, registry, quiet)
    assert set(cache.glob("*.npy")) == first


def test_auto_keeps_what_is_read_again(of_family, registry, quiet, cache):
    config = of_family("softmax", "both")
    train(dataclasses.replace(config, epochs=1), registry, quiet)
    assert len(list(cache.glob("*.npy"))) == 2, "of the validation split, by both towers"
    train(dataclasses.replace(config, epochs=3, overwrite=True), registry, quiet)
    assert len(list(cache.glob("*.npy"))) == 4, "and of the training split"


def test_the_size_is_said(of_family, registry, capsys):
    train(of_family("softmax", "vision"), registry, Reporter())
    said = capsys.readouterr().err
    assert "vision-feature cache: 8 images" in " ".join(said.split())


def test_augmented_images_have_no_features(of_family, registry, cache, capsys):
    config = of_family("softmax", "vision", augment="light")
    train(config, registry, Reporter())
    assert "the frozen vision tower encodes those of the training split in every step" in " ".join(
        capsys.readouterr().err.split()
    )
    assert len(list(cache.glob("*.npy"))) == 1, "of the validation split, whose images stay as they are"


def test_nothing_is_kept_where_towers_train(config, registry, quiet, cache):
    train(config, registry, quiet)
    assert not cache.exists()


def test_what_cannot_be_kept_is_refused_where_it_is_asked_for(config, registry, quiet):
    with pytest.raises(UsageError, match=r"here no tower is frozen as a whole: freeze one \(--freeze vision\)"):
        train(dataclasses.replace(config, cache_features="on"), registry, quiet)
    assert not config.output_dir.exists(), "before anything is written"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": DatasetConfig(name="shapes", streaming=True), "max_steps": 1}, "streaming data has no features"),
        ({"fsdp": True}, "shards frozen towers too"),
    ],
)
def test_features_are_refused_with(config, options, said):
    problems = dataclasses.replace(config, cache_features="on", **options).problems()
    assert any(said in problem for problem in problems)


def test_a_full_disk_is_said(of_family, registry, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "file"))
    config = of_family("softmax", "vision")
    train(config, registry, Reporter())
    assert "the frozen vision tower will encode its images in every step" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match=r"cannot write the vision-feature cache .*leave out --cache-features"):
        train(dataclasses.replace(config, cache_features="on", overwrite=True), registry, Reporter(silent=True))


def test_a_family_that_uses_more_keeps_no_features(of_family, registry, monkeypatch, cache, capsys):
    config = of_family("softmax", "vision")
    plain = Trunk.of

    def averaged(loaded, tower):
        # A model whose embedding is made of all positions, and not of the pooled output.
        def encode(inputs):
            return loaded.model.vision_model(**inputs).last_hidden_state.std(dim=1)

        return dataclasses.replace(plain(loaded, tower), encode=encode)

    monkeypatch.setattr(Trunk, "of", averaged)
    train(config, registry, Reporter())
    said = " ".join(capsys.readouterr().err.split())
    assert "models of the backend 'clip' use more of their vision tower than its pooled output" in said
    assert not list(cache.glob("*.npy"))
    with pytest.raises(UsageError, match="use more of their vision tower than its pooled output"):
        train(dataclasses.replace(config, cache_features="on", overwrite=True), registry, Reporter(silent=True))


# The parts ----------------------------------------------------------------------------------------


def test_what_is_features():
    assert is_features(torch.zeros(2, 3))
    assert is_features([np.zeros(3, np.float32)])
    assert not is_features(torch.zeros(2, 3, dtype=torch.int64)), "token ids"
    assert not is_features(torch.zeros(2, 3, 4, 4)), "pixels"
    assert not is_features([np.zeros((3, 4, 4), np.uint8)]), "resized images"
    assert not is_features([])


def test_captions_have_the_rows_of_their_part():
    known = CaptionFeatures([(["a", "b"], [np.array([1.0]), np.array([2.0])]), (["c"], [np.array([3.0])])])
    assert "b" in known
    assert "d" not in known
    assert known["c"] == 3
    assert known["b"] == 2


def test_rows_come_back_in_their_order():
    order = [np.array([2, 0, 1]), np.array([4, 3])]
    batches = iter([np.array([[2.0], [0.0]]), np.array([[1.0]]), np.array([[4.0]]), np.array([[3.0]])])
    found = list(features._in_order(batches, order))
    assert np.concatenate(found).ravel().tolist() == [0, 1, 2, 3, 4]


def test_a_tower_passes_features_on(of_family, registry):
    config = of_family("sigmoid", "text")
    loaded = open_model(registry, config.model)
    Gentle.prepare(loaded, config)
    trunk = Trunk.of(loaded, "text")
    inputs = loaded.feeder.text_inputs(["a red square", "a blue one"])
    trunk.accept_features()
    with torch.inference_mode():
        assert trunk.passes_on(inputs)
        assert torch.equal(loaded.text_features(inputs), loaded.text_features({"input_ids": trunk.features(inputs)}))
