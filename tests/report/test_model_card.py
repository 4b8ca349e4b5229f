from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from icclip.config import DatasetConfig, GentleConfig, LoraConfig, ModelConfig, TrainConfig
from icclip.report.model_card import model_card

MODEL = {"source": "clip-tiny", "model_type": "clip", "parameters": 3_140_000}
SPLITS = {"train": {"images": 6000, "captions": 30000}, "test": {"images": None, "captions": None}}


def metrics(recall, **extra):
    recalls = {f"{direction}_R@{k}": recall for direction in ("i2t", "t2i") for k in (1, 5, 10)}
    return {
        **recalls,
        "rsum": 600 * recall,
        "i2t_MedR": 3.0,
        "t2i_MedR": 4.0,
        "n_images": 10.0,
        "n_texts": 50.0,
        **extra,
    }


@pytest.fixture
def config(tmp_path):
    return TrainConfig(
        model=ModelConfig(name="openai/clip-vit-base-patch16"),
        data=DatasetConfig(name="flickr8k", path="/somewhere/private"),
        output_dir=tmp_path / "my-run",
    )


POLICY = {"padding": "longest", "max_length": 77, "lowercase": False}


def card_of(config, step0, validation, test, **options):
    options = {"text_policy": POLICY, **options}
    return model_card(
        model=MODEL, config=config, splits=SPLITS, step0=step0, validation=validation, test=test, **options
    )


def test_front_matter_is_what_the_hub_reads(config):
    yaml = pytest.importorskip("yaml")
    card = card_of(config, metrics(0.1), metrics(0.2), None)
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["icclip", "image-text-retrieval"],
        "datasets": ["flickr8k"],
        "metrics": ["recall"],
        "base_model": "openai/clip-vit-base-patch16",
    }


def test_results_stand_beside_the_baseline(config):
    test = metrics(0.3, confidence_95={"t2i_R@1": [0.25, 0.35], "rsum": [170.0, 190.0]})
    card = card_of(config, metrics(0.1), metrics(0.2), test)
    assert "# openai/clip-vit-base-patch16 trained on flickr8k\n" in card
    assert "3.1 million parameters" in card
    assert "|  | validation, before training | validation | test |" in card
    assert "| text to image R@1 | 10.0 % | 20.0 % | 30.0 % [25.0, 35.0] |" in card
    assert "| rsum (0 to 600) | 60.0 | 120.0 | 180.0 [170.0, 190.0] |" in card
    assert "| train | 6,000 | 30,000 |" in card
    assert "| test | unknown | unknown |" in card
    assert "learning rate: 1e-05, cosine schedule, warm-up 0.05" in card


def test_what_was_not_measured_has_no_column(config):
    card = card_of(config, {}, metrics(0.2), None)
    assert "before training" not in card
    assert "|  | validation |" in card


def test_no_path_of_the_machine_is_published(config, tmp_path):
    local = dataclasses.replace(config, model=ModelConfig(name=str(tmp_path / "weights")))
    card = card_of(local, {}, metrics(0.2), None)
    assert "base_model" not in card
    assert "trained from `weights`" in card
    assert str(tmp_path) not in card
    assert "private" not in card


def test_a_hub_dataset_is_named_by_its_id(config):
    hub = dataclasses.replace(config, data=DatasetConfig(name="hub", path="owner/photos"), output_dir=Path("out"))
    assert 'datasets: ["owner/photos"]' in card_of(hub, {}, metrics(0.2), None)


def test_gentle_options_are_told_where_they_are_used(config):
    plain = card_of(config, {}, metrics(0.2), None)
    assert "layer decay" not in plain
    gently = dataclasses.replace(config, gentle=GentleConfig(layer_decay=0.75), lora=LoraConfig(rank=8))
    card = card_of(gently, {}, metrics(0.2), None)
    assert "- layer decay: 0.75\n- adapters, rank: 8" in card
    assert "- captions: random" in card


def test_metrics_of_plugins_are_in_the_card(config):
    card = card_of(config, metrics(0.1), metrics(0.2, t2i_worst=17.25), None)
    assert "| t2i_worst |  | 17.25 |" in card


def test_own_files_are_called_that_and_are_no_dataset_of_the_hub(config):
    data = DatasetConfig(name="jsonl", path="/somewhere/private/captions.jsonl")
    card = card_of(dataclasses.replace(config, data=data), {}, metrics(0.2), None, own_data=True)
    assert "# openai/clip-vit-base-patch16 trained on own data (jsonl)\n" in card
    assert "datasets:" not in card
    assert "private" not in card
    hub = dataclasses.replace(config, data=DatasetConfig(name="hub", path="someone/pictures"))
    card = card_of(hub, {}, metrics(0.2), None, own_data=True)
    assert 'datasets: ["someone/pictures"]' in card
    assert "trained on someone/pictures\n" in card


def test_numbers_of_plugins_are_rows(config):
    card = card_of(config, {}, metrics(0.2, i2t_map=0.25, t2i_ndcg=0.5), None)
    assert "| i2t_map | 0.25 |" in card
    assert "| t2i_ndcg | 0.5 |" in card


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (POLICY, "processor(text=texts, padding=True, max_length=77, truncation=True"),
        (
            {"padding": "max_length", "max_length": 64, "lowercase": True},
            'processor(text=[text.lower() for text in texts], padding="max_length", max_length=64, truncation=True',
        ),
    ],
)
def test_the_snippet_prepares_texts_as_training_did(config, policy, line):
    assert line in card_of(config, {}, metrics(0.2), None, text_policy=policy)
