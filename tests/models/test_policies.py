from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support import towers
from transformers import CLIPConfig, CLIPModel

from icclip.config import ModelConfig
from icclip.models.features import pooled
from icclip.models.opening import open_model

LENGTHS = {"clip-tiny": 48, "siglip-tiny": 32}


def test_the_encoders_never_get_a_mask(trained, texts):
    assert set(trained.loaded.feeder.text_inputs(texts)) == {"input_ids"}


def test_padding_stops_at_the_longest_or_never_early(trained, texts):
    policy, ids = trained.loaded.feeder.text_policy, trained.loaded.feeder.text_inputs(texts[2:3])["input_ids"]
    assert policy.max_length == LENGTHS[trained.name]
    assert (ids.shape[1] == policy.max_length) == (policy.padding == "max_length")


def test_long_texts_are_cut_to_the_models_length(trained):
    assert trained.loaded.feeder.text_inputs(["word " * 500])["input_ids"].shape == (1, LENGTHS[trained.name])


def test_long_texts_are_counted(trained):
    feeder, limit = trained.loaded.feeder, LENGTHS[trained.name]
    long = "one " * 200
    found = feeder.cut_captions(["one", long, "ONE " * 3])
    assert (found.total, found.count, found.limit) == (3, 1, limit)
    # The same text in two halves has the ends twice.
    half = feeder.cut_captions([long[: len(long) // 2]])
    assert 0 <= 2 * half.longest - found.longest <= 3


def test_features_of_a_text_do_not_depend_on_its_batch(trained, texts):
    with torch.inference_mode():
        together = trained.loaded.text_features(trained.loaded.feeder.text_inputs(texts))
        alone = torch.cat([trained.loaded.text_features(trained.loaded.feeder.text_inputs([t])) for t in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_part_of_a_batch_has_the_padding_of_its_own_texts(trained, texts):
    feeder = trained.loaded.feeder
    part = {name: value[2:3] for name, value in feeder.text_inputs(texts).items()}
    shorter = feeder.without_padding(part)
    if feeder.text_policy.padding == "max_length":
        assert shorter is part
    else:
        # The token that pads ends a text too.
        alone = feeder.text_inputs(texts[2:3])["input_ids"]
        assert shorter["input_ids"].shape[1] - alone.shape[1] in {0, 1}
    with torch.inference_mode():
        before, after = map(trained.loaded.text_features, (part, shorter))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tower", [towers.bert, towers.roberta])
def test_part_of_a_batch_with_a_mask_has_the_padding_of_its_own_texts(icclip, registry, tmp_path, texts, tower):
    start = towers.assembled(icclip, tmp_path, towers.vit(), tower(), "--projection-dim", 16)
    loaded = open_model(registry, ModelConfig(name=str(start)))
    part = {name: value[2:4] for name, value in loaded.feeder.text_inputs(texts).items()}
    shorter = loaded.feeder.without_padding(part)
    assert shorter["attention_mask"].shape == shorter["input_ids"].shape
    assert shorter["input_ids"].shape[1] < part["input_ids"].shape[1]
    with torch.inference_mode():
        before, after = map(loaded.text_features, (part, shorter))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_features_of_a_frozen_tower_have_no_padding(trained):
    features = {"input_ids": torch.rand(2, 8)}
    assert trained.loaded.feeder.without_padding(features) is features


@pytest.mark.parametrize("legacy", [False, True], ids=["eos id", "largest id"])
def test_clip_text_features_ignore_padding_with_either_pooling(legacy):
    end, length = 49, 12
    text = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": length, "bos_token_id": 48, "pad_token_id": end}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text | {"eos_token_id": 2 if legacy else end}, vision_config=vision)
    model = CLIPModel(config).eval()
    ids = torch.tensor([[48, 5, 6, 7, end]])
    padded = torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=end)
    other_end = torch.tensor([[48, 5, 6, 8, end]])
    with torch.inference_mode():
        plain, with_padding, other = (pooled(model.get_text_features(input_ids=i)) for i in (ids, padded, other_end))
    torch.testing.assert_close(plain, with_padding, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, other, atol=1e-4)


class Cased:
    def tokenize(self, text):
        return list(text)


class Uncased:
    def tokenize(self, text):
        return list(text.lower())


@pytest.mark.parametrize(("tokenizer", "expected"), [(Cased(), True), (Uncased(), False)])
def test_siglip_lower_cases_what_its_tokenizer_does_not(registry, tokenizer, expected):
    config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=64))
    policy = registry.backend("siglip").text_policy(config, tokenizer)
    assert policy.lowercase is expected
    assert (policy.padding, policy.max_length, policy.attention_mask) == ("max_length", 64, False)


def test_features_are_unwrapped_from_either_version():
    tensor = torch.ones(2, 3)
    assert pooled(tensor) is tensor
    assert pooled(SimpleNamespace(pooler_output=tensor)) is tensor
