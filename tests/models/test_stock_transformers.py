"""What icclip saves, opened by transformers alone, gives icclip's embeddings: the model card's snippet, to the letter."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from icclip.config import DatasetConfig, ModelConfig, TrainConfig
from icclip.models.encoder import TorchEncoder
from icclip.models.opening import open_model
from icclip.report.model_card import model_card

TEXTS = ["two dogs run across a field of snow", "a red car"]


def snippet(loaded, directory):
    numbers = dict.fromkeys([f"{way}_{k}" for way in ("i2t", "t2i") for k in ("R@1", "R@5", "R@10", "MedR")], 0.5)
    config = TrainConfig(
        model=ModelConfig(name="clip-tiny"), data=DatasetConfig(name="shapes"), output_dir=directory
    )  # fmt: skip
    card = model_card(
        model=loaded.describe(), config=config, splits={}, step0={}, test=None,
        validation={**numbers, "rsum": 1.0, "n_images": 1, "n_texts": 1},
        text_policy=dataclasses.asdict(loaded.feeder.text_policy),
    )  # fmt: skip
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return code


def run_snippet(loaded, directory, monkeypatch, image):
    image.save(directory / "photo.jpg")
    monkeypatch.chdir(directory)
    names = {}
    exec(compile(snippet(loaded, directory), "model card", "exec"), names)
    return names["image_embeddings"].numpy(), names["text_embeddings"].numpy()


def check_embeddings(loaded, directory, monkeypatch, image):
    ours = TorchEncoder(loaded, device="cpu", workers=0)
    vision, text = run_snippet(loaded, directory, monkeypatch, image)
    with Image.open(directory / "photo.jpg") as photo:
        np.testing.assert_allclose(vision, ours.encode_images([photo.convert("RGB")]), atol=1e-6)
    np.testing.assert_allclose(text, ours.encode_texts(TEXTS), atol=1e-6)


def test_a_preset(trained, copy, images, monkeypatch, capsys):
    check_embeddings(trained.loaded, copy, monkeypatch, images[0])
    assert "tensor(" in capsys.readouterr().out


def test_a_checkpoint_whose_tokenizer_gave_a_mask_before(copy, registry, tmp_path, images, monkeypatch):
    config = copy / "tokenizer_config.json"
    named = re.sub(
        r'"model_input_names": \[[^]]*\]', '"model_input_names": ["input_ids", "attention_mask"]', config.read_text()
    )
    config.write_text(named)
    opened = open_model(registry, ModelConfig(name=str(copy)))
    opened.save(tmp_path / "again")
    check_embeddings(opened, tmp_path / "again", monkeypatch, images[0])


def test_the_saved_processor_gives_the_inputs_of_the_text_tower_and_no_others(trained):
    processor = AutoProcessor.from_pretrained(trained.directory)
    policy = trained.loaded.feeder.text_policy
    tokens = processor(
        text=TEXTS, padding="max_length", max_length=policy.max_length, truncation=True, return_tensors="pt"
    )
    assert set(tokens) == set(policy.inputs)


@pytest.mark.parametrize("height", [1, 3])
def test_images_that_are_a_line_or_three_pixels_high(trained, height):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, 40, 3), dtype=np.uint8))
    alone = trained.loaded.feeder.image_inputs([image])["pixel_values"]
    (side,) = set(alone.shape[2:])
    if trained.name == "siglip-tiny":
        plain = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
        np.testing.assert_allclose(alone[0].numpy(), plain.transpose(2, 0, 1), atol=1e-5)
    first = trained.loaded.feeder.image_inputs([image, Image.new("RGB", (50, 40))])["pixel_values"]
    np.testing.assert_array_equal(first[:1].numpy(), alone.numpy())
