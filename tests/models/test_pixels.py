from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from support.images import photo
from transformers import AutoImageProcessor, CLIPImageProcessor, Siglip2ImageProcessor, SiglipImageProcessor

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.models.pixels import Pixels

PROCESSORS = {
    "clip": CLIPImageProcessor(),
    "clip, small crop": CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 24}),
    "clip, crop beyond the image": CLIPImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 32, "width": 32}
    ),
    "clip, not normalised": CLIPImageProcessor(do_normalize=False),
    "siglip": SiglipImageProcessor(size={"height": 64, "width": 48}),
}
SIZES = [(500, 375), (60, 200), (24, 24), (225, 224)]


@pytest.fixture(params=PROCESSORS)
def processor(request):
    return PROCESSORS[request.param]


def test_the_two_halves_are_the_whole_bit_by_bit(processor):
    pixels = Pixels.of(processor)
    for size in SIZES:
        image = photo(*size)
        resized = pixels.resized([image, image])
        whole = processor(images=[image, image], return_tensors="pt")["pixel_values"]
        assert resized.dtype == torch.uint8
        assert torch.equal(pixels.normalised(resized), whole)


def test_the_pretrained_processor_divides(clip_tokenizer):
    processor = AutoImageProcessor.from_pretrained(clip_tokenizer)
    image = photo(500, 375)
    pixels = Pixels.of(processor)
    whole = processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels.normalised(pixels.resized([image])), whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalised_on_the_gpu_as_on_the_cpu(processor):
    pixels = Pixels.of(processor)
    resized = pixels.resized([photo(50, 60)])
    assert torch.equal(pixels.normalised(resized.cuda()).cpu(), pixels.normalised(resized))


def test_the_indexing_of_other_devices_gives_the_same(processor):
    pixels = Pixels.of(processor)
    resized = pixels.resized([photo(50, 60)])
    assert torch.equal(pixels.indexed(resized), pixels.normalised(resized))


def test_rows_that_are_resized_already_are_stacked(processor):
    pixels = Pixels.of(processor)
    resized = pixels.resized([photo(50, 60), photo(60, 50)])
    assert torch.equal(pixels.resized(list(resized.numpy())), resized)


def test_a_processor_that_gives_patches_does_not_divide():
    assert Pixels.of(Siglip2ImageProcessor(patch_size=8, max_num_patches=16)) is None


def test_a_processor_that_rounds_after_normalising_does_not_divide():
    class Rounding(CLIPImageProcessor):
        def __call__(self, images, *, do_resize=None, **options):
            values = super().__call__(images, do_resize=do_resize, **options)
            # As if what a level becomes depended on more than the level.
            if do_resize is None and values["pixel_values"].is_floating_point():
                values["pixel_values"] = values["pixel_values"].round(decimals=1)
            return values

    assert Pixels.of(Rounding()) is None


def test_settings_tell_what_decides_the_grey_levels_and_nothing_else():
    settings = Pixels.of(CLIPImageProcessor()).settings
    other_mean = Pixels.of(CLIPImageProcessor(image_mean=[0.5, 0.5, 0.5])).settings
    other_size = Pixels.of(CLIPImageProcessor(size={"shortest_edge": 40})).settings
    assert settings == other_mean
    assert settings != other_size


def test_a_model_takes_uint8_wherever_it_is_called(trained, registry, images):
    plain = open_model(registry, ModelConfig(name=str(trained.directory)))
    ready = open_model(registry, ModelConfig(name=str(trained.directory))).ready_for([])
    inputs, bytes_ = plain.feeder.image_inputs(images), ready.feeder.image_inputs(images)
    assert bytes_["pixel_values"].dtype == torch.uint8
    text = plain.feeder.text_inputs(["a red circle"] * len(images))
    with torch.inference_mode():
        assert torch.equal(ready.image_features(bytes_), plain.image_features(inputs))
        assert torch.equal(ready.image_features(inputs), plain.image_features(inputs))
        assert torch.equal(ready.model(**bytes_, **text).image_embeds, plain.model(**inputs, **text).image_embeds)
        # A copy's weights lie elsewhere in memory, and some CPUs' kernels round by alignment.
        torch.testing.assert_close(
            copy.deepcopy(ready.model).vision_model(bytes_["pixel_values"])[1], plain.model.vision_model(**inputs)[1]
        )


def test_tokens_are_those_of_the_tokenizer(trained, registry, texts):
    plain = open_model(registry, ModelConfig(name=str(trained.directory)))
    ready = plain.feeder.with_tokens([*texts, *texts])
    for some in (texts, texts[2:], texts[:1], [*texts, "never seen before"]):
        found, expected = ready.text_inputs(some), plain.feeder.text_inputs(some)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_padding_and_mask_are_those_of_the_tokenizer(trained, registry, texts, side, padding):
    plain = open_model(registry, ModelConfig(name=str(trained.directory)))
    policy = dataclasses.replace(plain.feeder.text_policy, padding=padding, attention_mask=True, max_length=12)
    feeder = dataclasses.replace(plain.feeder, text_policy=policy)
    feeder.processor.tokenizer.padding_side = side
    found, expected = feeder.with_tokens(texts).text_inputs(texts), feeder.text_inputs(texts)
    assert found.keys() == expected.keys() == {"input_ids", "attention_mask"}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
