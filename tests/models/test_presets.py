from __future__ import annotations

import pytest
import torch

from icclip.config import ModelConfig
from icclip.errors import CheckpointError, UsageError
from icclip.models.opening import open_model


def weights(loaded):
    return loaded.model.state_dict()


def same_weights(a, b):
    return weights(a).keys() == weights(b).keys() and all(
        torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True)
    )


def test_a_saved_preset_comes_back_bit_for_bit(trained, registry, texts, images):
    again = open_model(registry, ModelConfig(name=str(trained.directory)))
    assert same_weights(trained.loaded, again)
    assert again.feeder.text_policy == trained.loaded.feeder.text_policy
    assert torch.equal(
        again.feeder.text_inputs(texts)["input_ids"], trained.loaded.feeder.text_inputs(texts)["input_ids"]
    )
    assert torch.equal(
        again.feeder.image_inputs(images)["pixel_values"], trained.loaded.feeder.image_inputs(images)["pixel_values"]
    )


def test_the_seed_and_the_captions_decide_everything(trained, registry, texts):
    def built(seed=42, captions=texts):
        return open_model(registry, ModelConfig(name=trained.name, seed=seed), lambda: captions)

    assert same_weights(trained.loaded, built())
    assert not same_weights(trained.loaded, built(seed=43))
    assert built().feeder.processor.tokenizer.get_vocab() == trained.loaded.feeder.processor.tokenizer.get_vocab()
    other = built(captions=["green triangle green triangle"]).feeder.processor.tokenizer
    assert "triangle</w>" in other.get_vocab()
    assert "triangle</w>" not in trained.loaded.feeder.processor.tokenizer.get_vocab()


def test_building_leaves_the_callers_random_state_alone(trained, registry, texts):
    before = torch.get_rng_state()
    open_model(registry, ModelConfig(name=trained.name), lambda: texts)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_different_content_start_apart(trained, images):
    """A tower that maps everything to one point would be slow to leave it."""
    with torch.inference_mode():
        features = trained.loaded.image_features(trained.loaded.feeder.image_inputs(images))
    units = torch.nn.functional.normalize(features, dim=-1)
    assert (units @ units.T).min() < 0.999


def test_a_given_tokenizer_is_used_and_saved(registry, clip_tokenizer, trained, tmp_path):
    config = ModelConfig(name=trained.name, tokenizer=str(clip_tokenizer))
    loaded = open_model(registry, config)
    loaded.save(tmp_path)
    again = open_model(registry, ModelConfig(name=str(tmp_path)))
    expected = [49406, 320, 1125, 539, 320, 2368, 49407]
    for model in (loaded, again):
        assert model.feeder.text_inputs(["a photo of a Cat"])["input_ids"][0, :7].tolist() == expected


def test_image_resize_gives_a_preset_for_that_size(registry, trained, texts, images):
    loaded = open_model(registry, ModelConfig(name=trained.name, image_resize=32), lambda: texts)
    assert loaded.feeder.image_inputs(images)["pixel_values"].shape == (5, 3, 32, 32)
    assert loaded.model.config.vision_config.image_size == 32


def test_image_resize_must_fill_with_patches(registry, trained, texts):
    with pytest.raises(UsageError, match=r"image side of 50 pixels .* patch size (8|16): choose 48 or (56|64)"):
        open_model(registry, ModelConfig(name=trained.name, image_resize=50), lambda: texts)


def test_an_untrained_preset_cannot_be_opened_for_use(registry, trained):
    with pytest.raises(CheckpointError, match=f"{trained.name} is an untrained preset: train it first"):
        open_model(registry, ModelConfig(name=trained.name))


# transformers 5 has a new name for it, which transformers 4 does not know.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(registry, trained, texts, images):
    def gradients(checkpointing):
        loaded = open_model(registry, ModelConfig(name=trained.name), lambda: texts)
        loaded.model.train()
        if checkpointing:
            loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        features = (
            loaded.image_features(loaded.feeder.image_inputs(images[:2])),
            loaded.text_features(loaded.feeder.text_inputs(texts[:2])),
        )
        (features[0] * features[1]).sum().backward()
        return [p.grad for p in loaded.model.parameters() if p.grad is not None]

    for plain, saved in zip(gradients(checkpointing=False), gradients(checkpointing=True), strict=True):
        torch.testing.assert_close(plain, saved, rtol=1e-5, atol=1e-6)
