"""True configurations of published families, with random weights."""

from __future__ import annotations

import json

import pytest
import torch
from support.checkpoints import write_clip_vit_base_patch16
from transformers import Siglip2Config, Siglip2Model

from icclip.config import ModelConfig
from icclip.errors import UsageError
from icclip.models.encoder import TorchEncoder
from icclip.models.opening import open_model
from icclip.models.quiet import quiet_transformers

NAFLEX_PREPROCESSING = {
    "image_processor_type": "Siglip2ImageProcessor",
    "processor_class": "Siglip2Processor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "max_num_patches": 16,
    "patch_size": 16,
}


@pytest.mark.slow
def test_openai_clip_vit_base_patch16(registry, clip_tokenizer, images, tmp_path):
    model = write_clip_vit_base_patch16(tmp_path / "made", clip_tokenizer)
    assert sum(p.numel() for p in model.parameters()) == 149_620_737

    first = open_model(registry, ModelConfig(name=str(tmp_path / "made")))
    first.save(tmp_path / "saved")
    again = open_model(registry, ModelConfig(name=str(tmp_path / "saved")))
    for a, b in zip(model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    ids = again.feeder.text_inputs(["a photo of a Cat"])["input_ids"].tolist()
    assert ids == [[49406, 320, 1125, 539, 320, 2368, 49407]]
    assert again.feeder.image_inputs(images)["pixel_values"].shape == (5, 3, 224, 224)
    encoder = TorchEncoder(again, device="cpu", workers=0)
    assert encoder.encode_images(images[:2]).shape == encoder.encode_texts(["a", "b"]).shape == (2, 512)


@pytest.fixture
def naflex(registry, texts, tmp_path):
    """A tiny SigLIP 2 that takes images in their own shape."""
    tokenizer = open_model(registry, ModelConfig(name="siglip-tiny"), lambda: texts).feeder.processor.tokenizer
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    with quiet_transformers():
        config = Siglip2Config(
            # One to spare: transformers 5 gives SigLIP 2's tokenizer a mask token.
            text_config=small | {"vocab_size": len(tokenizer) + 1, "max_position_embeddings": 16},
            vision_config=small | {"num_patches": 16, "patch_size": 16},
        )
        Siglip2Model(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(NAFLEX_PREPROCESSING))
    return tmp_path


def test_naflex_siglip2_encodes_and_trains(registry, naflex, images, texts):
    loaded = open_model(registry, ModelConfig(name=str(naflex)))
    inputs = loaded.feeder.image_inputs(images)
    assert set(inputs) == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
    encoder = TorchEncoder(loaded, device="cpu", workers=0)
    assert encoder.encode_images(images, batch_size=2).shape == (5, 32)
    loaded.image_features(inputs).sum().backward()
    loaded.text_features(loaded.feeder.text_inputs(texts)).sum().backward()
    without = {n for n, p in loaded.model.named_parameters() if p.grad is None}
    assert without == {"logit_scale", "logit_bias"}


def test_naflex_siglip2_has_no_size_to_change(registry, naflex):
    with pytest.raises(UsageError, match="a model of type siglip2 takes images in their own shape: leave out"):
        open_model(registry, ModelConfig(name=str(naflex), image_resize=64))
