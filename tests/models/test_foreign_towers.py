"""Two foreign towers are a plugin of one file: everything else finds its way by the spec."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from support import foreign
from torch import nn

from icclip.config import GentleConfig, LoraConfig, ModelConfig
from icclip.errors import CheckpointError, UsageError
from icclip.models.encoder import TorchEncoder
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.plugins.specs import numbered_blocks
from icclip.testing import check_backend
from icclip.training.gentle.freezing import freeze
from icclip.training.gentle.layers import block_modules, tower_positions
from icclip.training.gentle.lora import add_adapters

pytest.importorskip("onnx", reason="the extra export is not installed")

from icclip_export.onnx.export import TOLERANCE, check_numbers, export_towers
from icclip_export.onnx.towers import check_exportable, tower_exports

TEXTS = ["a red circle", "the small blue square above the wet grass", "dog"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return foreign.write_checkpoint(tmp_path_factory.mktemp("foreign") / "model")


@pytest.fixture
def loaded(directory):
    registry = Registry(default_plugins=("support.foreign",), load_plugins=frozenset())
    return open_model(registry, ModelConfig(name=str(directory)))


def test_it_conforms(directory):
    assert {check.status for check in check_backend(foreign.BACKEND, str(directory))} == {"ok"}


def test_texts_come_with_their_mask_and_types_in_training_too(loaded):
    plain, ready = loaded.feeder.text_inputs(TEXTS), loaded.feeder.with_tokens(TEXTS).text_inputs(TEXTS)
    assert set(plain) == set(ready) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, tensor in plain.items():
        assert torch.equal(tensor, ready[name])
    assert plain["attention_mask"].sum(1).tolist() == [5, 10, 3]


def test_a_text_does_not_depend_on_the_padding_of_its_batch(loaded):
    encoder = TorchEncoder(loaded, device="cpu", workers=0)
    together, alone = encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS, batch_size=1)
    torch.testing.assert_close(torch.from_numpy(together), torch.from_numpy(alone), rtol=1e-5, atol=1e-6)


def test_pixels_are_normalised_in_the_tower_that_the_spec_names(loaded, images):
    with torch.inference_mode():
        expected = loaded.image_features(loaded.feeder.image_inputs(images))
        ready = loaded.ready_for(TEXTS)
        inputs = ready.feeder.image_inputs(images)
        found = ready.image_features(inputs)
    assert inputs["pixel_values"].dtype == torch.uint8
    assert torch.equal(found, expected)


def test_every_parameter_has_its_place(loaded):
    where = tower_positions(loaded.model, loaded.backend)
    assert where["logit_scale"].tower is None
    # Transformers 5 has renamed the blocks of ViT.
    second = next(
        name for name in where if re.fullmatch(r"vision_model\..*\.1\.(output\.dense|mlp\.fc2)\.weight", name)
    )
    expected = {
        "vision_model.embeddings.cls_token": ("vision", 0),
        second: ("vision", 2),
        "vision_model.layernorm.weight": ("vision", 3),
        "visual_projection.weight": ("vision", 3),
        "text_model.embeddings.word_embeddings.weight": ("text", 0),
        "text_model.encoder.layer.0.output.dense.weight": ("text", 1),
        "text_model.pooler.dense.weight": ("text", 3),
    }
    assert {name: (where[name].tower, where[name].layer) for name in expected} == expected
    assert len(block_modules(loaded.model, loaded.backend)) == 4


def test_blocks_freeze_and_are_adapted(loaded):
    where = tower_positions(loaded.model, loaded.backend)
    freeze(loaded.model, where, GentleConfig(freeze_blocks=1), loaded.backend)
    frozen = {name for name, parameter in loaded.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, place in where.items() if place.tower and place.layer <= 1}
    add_adapters(loaded.model, where, LoraConfig(rank=2), seed=1)
    adapted = {name for name, _ in loaded.model.named_modules() if name.endswith("lora_A")}
    assert adapted
    assert all(re.search(r"(encoder\.layer|layers)\.1\.", name) for name in adapted)


def test_it_has_no_size_to_change(directory, loaded):
    with pytest.raises(UsageError, match="models of the backend 'foreign' cannot be resized: leave out --image-resize"):
        foreign.load(ModelConfig(name=str(directory), image_resize=64))


def test_its_exported_text_encoder_derives_the_mask(loaded, tmp_path):
    paths = export_towers(loaded, tmp_path)
    towers = tower_exports(loaded)
    for tower, path in paths.items():
        assert check_numbers(tower, towers[tower], path, loaded) < TOLERANCE
    inputs = loaded.feeder.text_inputs(TEXTS)
    with torch.inference_mode():
        expected = loaded.text_features(inputs)
        everything = torch.ones_like(inputs["attention_mask"])
        unmasked = loaded.text_features({**inputs, "attention_mask": everything})
    found = torch.from_numpy(_run(paths["text"], inputs["input_ids"]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # What a graph without the mask would give.
    assert not torch.allclose(found, unmasked, rtol=1e-2, atol=1e-3)


def _run(path, ids):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids"]
    return session.run(None, {"input_ids": ids.numpy()})[0]


def test_a_padding_token_that_captions_contain_is_refused(loaded):
    tokenizer = loaded.feeder.processor.tokenizer
    tokenizer.pad_token = tokenizer.sep_token
    with pytest.raises(CheckpointError, match=r"its tokenizer pads with '\[SEP\]', which captions also contain"):
        check_exportable(dataclasses.replace(loaded, source="here"))


def test_numbered_blocks_are_whole_names_in_order():
    model = nn.ModuleDict({"layer": nn.ModuleList(nn.ModuleDict({"inner": nn.Linear(1, 1)}) for _ in range(11))})
    assert numbered_blocks(r"layer\.\d+")(model) == tuple(f"layer.{i}" for i in range(11))
