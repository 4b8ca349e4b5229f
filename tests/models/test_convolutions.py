"""Towers of convolutions read their images in another layout on a CPU, and give the same features."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from icclip.config import ModelConfig
from icclip.models.convolutions import lay_out_channels_last
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from tests.support.towers import assembled, bert, efficientnet


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return transformers.EfficientNetModel(efficientnet()).eval()


def layouts(tower, pixels):
    """The features, and whether the output of each convolution has its channels side by side."""
    found = []

    def look(_module, _inputs, output):
        found.append(output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous())

    hooks = [module.register_forward_hook(look) for module in tower.modules() if isinstance(module, torch.nn.Conv2d)]
    features = tower(pixels).pooler_output
    for hook in hooks:
        hook.remove()
    return features, found


def test_every_convolution_keeps_the_layout_and_the_features_stay_the_same(tower):
    pixels = torch.randn(3, 3, 32, 32)
    plain, before = layouts(copy.deepcopy(tower), pixels)
    lay_out_channels_last(tower)
    features, after = layouts(tower, pixels)
    assert not any(before)
    # Where one pixel is left, both layouts are the same.
    assert sum(after) > len(after) // 2
    torch.testing.assert_close(features, plain, atol=1e-5, rtol=0)


def test_gradients_stay_the_same(tower):
    pixels = torch.randn(3, 3, 32, 32)
    other = copy.deepcopy(tower)
    lay_out_channels_last(tower)
    for one in (tower, other):
        one(pixels).pooler_output.square().sum().backward()
    for one, plain in zip(tower.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, plain.grad, atol=1e-3, rtol=1e-3)


def test_twice_is_once_and_copies_keep_it(tower):
    for _ in range(2):
        lay_out_channels_last(tower)
    hooks = [len(module._forward_pre_hooks) for module in copy.deepcopy(tower).modules()]
    assert sum(hooks) == 1


def test_a_transformer_is_left_alone():
    tower = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    lay_out_channels_last(tower)
    assert not any(module._forward_pre_hooks for module in tower.modules())


def test_exporters_see_a_plain_graph(tower):
    lay_out_channels_last(tower)
    program = torch.export.export(tower, (torch.randn(1, 3, 32, 32),))
    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("memory_format" in str(node.kwargs) for node in program.graph.nodes)
    assert "aten.clone.default" not in kinds


def test_a_model_that_is_opened_has_it(icclip, tmp_path):
    start = assembled(icclip, tmp_path, efficientnet(), bert())
    loaded = open_model(Registry(load_plugins=frozenset()), ModelConfig(name=str(start)))
    loaded.model.eval()
    pixels = torch.randn(2, 3, *[loaded.model.config.vision_config.image_size] * 2)
    assert any(layouts(loaded.model.vision_model, pixels)[1])
