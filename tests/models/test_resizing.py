from __future__ import annotations

import pytest
import torch

from icclip.config import ModelConfig
from icclip.errors import UsageError
from icclip.models.features import pooled
from icclip.models.opening import open_model


def test_resized_features_are_those_of_interpolated_positions(trained, registry, images):
    resized = open_model(registry, ModelConfig(name=str(trained.directory), image_resize=96))
    inputs = resized.feeder.image_inputs(images)
    assert inputs["pixel_values"].shape == (5, 3, 96, 96)
    original = trained.loaded.model
    with torch.inference_mode():
        expected = pooled(original.get_image_features(**inputs, interpolate_pos_encoding=True))
        found = resized.image_features(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_new_size_is_saved(trained, registry, images, tmp_path):
    resized = open_model(registry, ModelConfig(name=str(trained.directory), image_resize=96))
    resized.save(tmp_path)
    again = open_model(registry, ModelConfig(name=str(tmp_path)))
    inputs = again.feeder.image_inputs(images)
    assert torch.equal(inputs["pixel_values"], resized.feeder.image_inputs(images)["pixel_values"])
    assert again.model.config.vision_config.image_size == 96
    with torch.inference_mode():
        torch.testing.assert_close(again.image_features(inputs), resized.image_features(inputs), rtol=1e-5, atol=1e-6)


def test_the_same_size_changes_nothing(trained, registry):
    same = open_model(registry, ModelConfig(name=str(trained.directory), image_resize=64))
    for a, b in zip(same.model.state_dict().values(), trained.loaded.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_side_that_patches_do_not_fill_is_refused(trained, registry):
    with pytest.raises(UsageError, match="not a multiple of the model's patch size"):
        open_model(registry, ModelConfig(name=str(trained.directory), image_resize=100))
