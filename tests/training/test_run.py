from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file
from support.images import photo

from icclip.config import ModelConfig
from icclip.console import Reporter
from icclip.errors import DataError, TrainingStoppedError, UsageError
from icclip.models.loaded import LoadedModel
from icclip.models.opening import open_model
from icclip.runs.history import evaluations, read_history
from icclip.training.run import train
from icclip.training.step import trainer
from icclip.training.step.progress import Progress


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


def test_the_same_seed_gives_the_same_weights_and_another_one_others(config, registry, quiet, tmp_path):
    train(config, registry, quiet)
    train(dataclasses.replace(config, output_dir=tmp_path / "again", workers=2), registry, quiet)
    train(dataclasses.replace(config, output_dir=tmp_path / "other", seed=43), registry, quiet)
    first = weights(config.output_dir / "checkpoint-8")
    assert same(first, weights(tmp_path / "again" / "checkpoint-8"))
    assert not same(first, weights(tmp_path / "other" / "checkpoint-8"))


@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
def test_cached_pixels_and_tokens_train_as_the_plain_pipeline_does(family, config, registry, tiny, monkeypatch):
    tmp_path, quiet = config.output_dir.parent, Reporter(silent=True)
    config = dataclasses.replace(config, model=ModelConfig(name=str(tiny[family]), image_resize=24))
    runs = {mode: tmp_path / mode for mode in ("on", "off", "plain")}
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "cache"))
    for mode in ("on", "off"):
        train(dataclasses.replace(config, output_dir=runs[mode], cache_images=mode), registry, quiet)
        caches = list((tmp_path / "cache").rglob("*.npy"))
        assert len(caches) == 2, "of the training and the validation split"
    monkeypatch.setattr(LoadedModel, "ready_for", lambda loaded, _: loaded)
    train(dataclasses.replace(config, output_dir=runs["plain"]), registry, quiet)
    history = {mode: _without_times(read_history(directory / "metrics.jsonl")) for mode, directory in runs.items()}
    assert history["on"] == history["off"] == history["plain"]
    assert len([line for line in history["on"] if "loss" in line]) == 8
    for mode in ("on", "off"):
        assert same(weights(runs[mode] / "checkpoint-8"), weights(runs["plain"] / "checkpoint-8"))


def _without_times(history):
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [{name: value for name, value in line.items() if name not in timed} for line in history]


def test_images_that_are_seen_once_are_not_cached_unless_asked(config, registry, quiet, tmp_path, monkeypatch):
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "cache"))
    train(dataclasses.replace(config, epochs=1), registry, quiet)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1, "of the validation split alone"
    train(dataclasses.replace(config, epochs=1, cache_images="on", overwrite=True), registry, quiet)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


def test_a_cache_for_a_processor_that_does_more_is_refused(config, registry, quiet, monkeypatch):
    monkeypatch.setattr(LoadedModel, "ready_for", lambda loaded, _: loaded)
    with pytest.raises(UsageError, match="does more than resize and normalise: its images cannot be cached"):
        train(dataclasses.replace(config, cache_images="on"), registry, quiet)


@pytest.fixture
def repetitive(config, tmp_path):
    """A run whose data holds two images twice, one of them scaled, and one caption for all images."""
    features = Features(image=ImageFeature(), captions=Sequence(Value("string")))
    images = [photo(80, 60, seed=number) for number in range(8)]
    images += [images[0], images[1].resize((64, 48))]
    (folder := tmp_path / "repetitive").mkdir()
    for split in ("train", "validation", "test"):
        rows = {"image": images, "captions": [["a square", f"square {number}"] for number in range(10)]}
        Dataset.from_dict(rows, features).to_parquet(folder / f"{split}.parquet")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(folder)), train_bs=5, epochs=1)


def test_duplicates_are_counted_and_what_becomes_of_them_is_said(repetitive, registry, capsys):
    train(repetitive, registry, Reporter())
    said = "1 copy of other images and 1 caption of several images: they are not used as negatives of each other"
    assert said in capsys.readouterr().err
    train(dataclasses.replace(repetitive, near_duplicates=4, duplicates="soft", overwrite=True), registry, Reporter())
    said = "2 copies of other images and 1 caption of several images: they are used as positives of each other"
    assert said in capsys.readouterr().err
    train(dataclasses.replace(repetitive, duplicates="off", overwrite=True), registry, Reporter())
    assert "are duplicates" not in capsys.readouterr().err


def test_each_way_to_treat_duplicates_trains_another_model(repetitive, registry, quiet, tmp_path):
    for policy in ("mask", "soft", "off"):
        asked = dataclasses.replace(repetitive, duplicates=policy, output_dir=tmp_path / policy)
        train(asked, registry, quiet)
    mask, soft, off = (weights(tmp_path / policy) for policy in ("mask", "soft", "off"))
    assert not same(mask, soft)
    assert not same(mask, off)


def test_augmented_images_are_not_cached(config, registry, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path / "cache"))
    train(dataclasses.replace(config, augment="light"), registry, Reporter())
    assert (
        "augmentation needs the original images, so the images of the training split are not cached"
        in capsys.readouterr().err
    )
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1, "of the validation split alone"


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(config, registry, quiet, tmp_path):
    whole = dataclasses.replace(config, scheduler="constant", epochs=3, save_total_limit=3)
    train(whole, registry, quiet)
    part = dataclasses.replace(whole, output_dir=tmp_path / "part")
    train(dataclasses.replace(part, epochs=1), registry, quiet)
    train(dataclasses.replace(part, resume=True), registry, quiet)
    name = "checkpoint-12"
    assert same(weights(config.output_dir / name), weights(part.output_dir / name))
    assert list(evaluations(part.output_dir / "metrics.jsonl")) == [0, 4, 8, 12]


def test_resuming_where_nothing_is_complete_starts_anew(config, registry, capsys):
    (config.output_dir / ".checkpoint-4.partial" / "checkpoint-4").mkdir(parents=True)
    result = train(dataclasses.replace(config, resume=True, epochs=1), registry, Reporter())
    assert result.baseline
    assert "holds no complete checkpoint yet: starting from the beginning" in capsys.readouterr().err
    assert not list(config.output_dir.glob(".*"))


def test_an_existing_run_is_not_touched_unless_asked(config, registry, quiet):
    config = dataclasses.replace(config, epochs=1)
    train(config, registry, quiet)
    before = weights(config.output_dir)
    with pytest.raises(UsageError, match=r"already holds a run .*--resume to continue it, or --overwrite"):
        train(dataclasses.replace(config, seed=7), registry, quiet)
    assert same(before, weights(config.output_dir))
    train(dataclasses.replace(config, seed=7, overwrite=True), registry, quiet)
    assert not same(before, weights(config.output_dir))


def test_resuming_another_models_run_is_refused(config, registry, quiet, tiny):
    train(dataclasses.replace(config, epochs=1), registry, quiet)
    other = dataclasses.replace(config, model=ModelConfig(name=str(tiny["sigmoid"])), resume=True)
    with pytest.raises(UsageError, match=r"was trained with model .*: resume with the same"):
        train(other, registry, quiet)


def test_a_nonfinite_loss_stops_names_the_step_and_keeps_the_last_good_checkpoint(config, registry, quiet, monkeypatch):
    poison_after(monkeypatch, step=5)
    with pytest.raises(TrainingStoppedError, match=r"non-finite loss at step 6 \(lr .*, logit_scale .*\).*intact"):
        train(dataclasses.replace(config, logging_steps=50), registry, quiet)
    root = config.output_dir
    assert [path.name for path in root.glob("checkpoint-*")] == ["checkpoint-4"]
    for directory in (root, root / "checkpoint-4"):
        loaded = open_model(registry, ModelConfig(name=str(directory)))
        assert all(torch.isfinite(p).all() for p in loaded.model.parameters())
    assert json.loads((root / "icclip.json").read_text())["status"] == "stopped"


def test_weights_that_a_last_step_spoiled_are_not_saved(config, registry, quiet, monkeypatch):
    poison_after(monkeypatch, step=4)
    with pytest.raises(TrainingStoppedError, match=r"non-finite weights at step 4"):
        train(config, registry, quiet)
    assert not list(config.output_dir.glob("checkpoint-*"))


def poison_after(monkeypatch, step):
    """Damage a weight right after an optimizer step, as an overflowing gradient would."""
    clamp = trainer._ClampLogitScale.on_optimizer_step

    def poison(self, args, state, control, model=None, **kwargs):
        clamp(self, args, state, control, model=model, **kwargs)
        if state.global_step + 1 == step:
            with torch.no_grad():
                model.visual_projection.weight[0, 0] = torch.nan

    monkeypatch.setattr(trainer._ClampLogitScale, "on_optimizer_step", poison)


def test_an_interrupt_leaves_the_best_model_and_says_how_to_go_on(config, registry, capsys, monkeypatch):
    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "on_step_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(config, registry, Reporter())
    said = capsys.readouterr().err
    assert "interrupted at step 6" in said
    assert "run the same command with --resume" in said
    assert same(weights(config.output_dir), weights(config.output_dir / "checkpoint-4"))


@pytest.mark.parametrize(
    "ending",
    [("_trainer", KeyboardInterrupt, "interrupted"), ("_trainer", DataError, "stopped"), ("finish", KeyboardInterrupt, "interrupted"),
     ("loop", DataError, "stopped"), ("loop", RuntimeError, "stopped")],
)  # fmt: skip
def test_no_record_says_running_for_ever(config, registry, quiet, monkeypatch, ending):
    """Whenever a run is ended: while images are cached, between the steps, or while the test split is measured."""

    moment, error, status = ending

    def end(*_args, **_options):
        raise error

    monkeypatch.setattr(f"icclip.training.{'prepare' if moment == '_trainer' else 'run'}.{moment}", end)
    with pytest.raises(error):
        train(config, registry, quiet)
    assert json.loads((config.output_dir / "icclip.json").read_text())["status"] == status


def test_a_run_that_is_refused_leaves_the_record_of_the_one_that_is_there(config, registry, quiet):
    config.output_dir.mkdir()
    (config.output_dir / "icclip.json").write_text('{"status": "running"}')
    with pytest.raises(UsageError, match="already holds a run"):
        train(config, registry, quiet)
    assert json.loads((config.output_dir / "icclip.json").read_text()) == {"status": "running"}


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(config, registry, quiet, monkeypatch):
    monkeypatch.setattr("transformers.CLIPModel.save_pretrained", lambda *_, **__: write_to_full_disk())
    with pytest.raises(UsageError, match=r"cannot write a checkpoint to .*run: No space left on device"):
        train(config, registry, quiet)
    assert not list(config.output_dir.glob("*checkpoint*"))


def write_to_full_disk():
    with Path("/dev/full").open("w") as file:
        file.write("x")


def test_too_few_images_for_a_batch(config, registry, quiet):
    with pytest.raises(
        UsageError, match=r"8 images, fewer than one batch of 64 x 1 processes: give a smaller --train-bs"
    ):
        train(dataclasses.replace(config, train_bs=64), registry, quiet)


def test_an_epoch_of_all_captions_is_as_long_as_they_are(config, registry, quiet):
    config = dataclasses.replace(config, captions="all", augment="light", epochs=1)
    assert train(config, registry, quiet).steps == 8
    with pytest.raises(UsageError, match=r"16 captions, fewer than one batch of 64 x 1 processes"):
        train(dataclasses.replace(config, train_bs=64, overwrite=True), registry, quiet)


def test_the_sigmoid_family_trains_and_learns_its_bias(config, registry, quiet, tiny):
    name = str(tiny["sigmoid"])
    train(dataclasses.replace(config, model=ModelConfig(name=name)), registry, quiet)
    before, after = load_file(f"{name}/model.safetensors"), weights(config.output_dir / "checkpoint-8")
    assert not torch.equal(before["logit_bias"], after["logit_bias"])


def test_eval_every_and_the_last_epoch(config, registry, quiet):
    result = train(dataclasses.replace(config, epochs=3, eval_every=2), registry, quiet)
    assert list(evaluations(config.output_dir / "metrics.jsonl")) == [0, 8, 12]
    assert result.steps == 12


def test_two_checkpoints_are_kept_and_the_best_is_one(config, registry, quiet):
    result = train(dataclasses.replace(config, epochs=5), registry, quiet)
    kept = {path.name for path in config.output_dir.glob("checkpoint-*")}
    assert kept >= {"checkpoint-20", f"checkpoint-{result.best_step}"}
    assert len(kept) == 2


def test_streaming_trains_for_max_steps(config, registry, quiet, data, tmp_path):
    (folder := tmp_path / "splits").mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.parquet").write_bytes((data / "train.parquet").read_bytes())
    streamed = dataclasses.replace(config.data, path=str(folder), streaming=True)
    result = train(dataclasses.replace(config, data=streamed, max_steps=10), registry, quiet)
    # 8 steps are one pass over the 16 images.
    assert list(evaluations(config.output_dir / "metrics.jsonl")) == [0, 8, 10]
    assert result.test == {}


def test_bf16_keeps_float32_weights(config, registry, quiet):
    train(dataclasses.replace(config, precision="bf16", grad_ckpt=True, epochs=1), registry, quiet)
    assert {tensor.dtype for tensor in weights(config.output_dir).values()} == {torch.float32}


def test_tensorboard_gets_the_metrics(config, registry, quiet):
    train(dataclasses.replace(config, epochs=1, report_to=("tensorboard",)), registry, quiet)
    (events,) = (config.output_dir / "logs").glob("events*")
    assert b"eval/rsum" in events.read_bytes()


def test_a_broken_image_is_one_line_even_from_a_worker(config, registry, quiet, tmp_path):
    good = {"image": Image.new("RGB", (8, 8)), "captions": ["a", "b"]}
    features = Features(image=ImageFeature(), captions=Sequence(Value("string")))
    table = Dataset.from_list([good] * 16, features).cast_column("image", ImageFeature(decode=False)).to_list()
    table[0]["image"]["bytes"] = b"no image"
    (folder := tmp_path / "broken").mkdir()
    Dataset.from_list(table, features).to_parquet(folder / "train.parquet")
    data = dataclasses.replace(config.data, path=str(folder))
    with pytest.raises(DataError) as caught:
        train(dataclasses.replace(config, data=data, workers=1, epochs=1), registry, quiet)
    assert "\n" not in str(caught.value)


def test_a_run_reads_the_captions_of_each_split_once(config, registry, quiet, monkeypatch):
    from icclip.data import gallery, split

    read = []

    def counted(rows, plain=split.caption_lists):
        read.append(len(rows))
        return plain(rows)

    monkeypatch.setattr(split, "caption_lists", counted)
    assert gallery.caption_map is split.caption_map
    train(dataclasses.replace(config, near_duplicates=2), registry, quiet)
    assert sorted(read) == [4, 4, 8]
