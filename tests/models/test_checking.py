"""Foreign model directories: each flaw is one line that names the file and the field, before anything large is made."""

from __future__ import annotations

import json
import os
import time

import pytest
import transformers

from icclip.config import ModelConfig
from icclip.errors import CheckpointError
from icclip.foreign_files import DEEPEST, depth, expansion
from icclip.models.opening import open_model


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_below(path, table, **values):
    content = json.loads(path.read_text())
    content[table] = {**(content[table] or {}), **values}
    path.write_text(json.dumps(content))


def refused(registry, directory):
    began = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        open_model(registry, ModelConfig(name=str(directory)))
    assert time.monotonic() - began < 30
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def clip(copy):
    """A copy of a saved `clip-tiny`."""
    return copy


read_from_these_files = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) >= 5,
    reason="transformers 5 saves and reads these settings elsewhere",
)
only_clip = pytest.mark.parametrize("trained", ["clip-tiny"], indirect=True)
only_siglip = pytest.mark.parametrize("trained", ["siglip-tiny"], indirect=True)


@only_clip
@pytest.mark.parametrize(
    ("table", "field", "value"),
    [
        ("vision_config", "layer_norm_eps", "1e-5"),
        ("vision_config", "hidden_size", 10**12),
        ("vision_config", "image_size", 0),
        ("vision_config", "image_size", 10**9),
        ("vision_config", "patch_size", [1, 2, 3]),
        ("text_config", "num_hidden_layers", 10**9),
        ("text_config", "vocab_size", -1),
        ("text_config", "max_position_embeddings", 7.5),
        ("text_config", "hidden_act", 7),
        ("text_config", "attention_dropout", float("nan")),
    ],
)
def test_a_number_that_no_model_has(registry, clip, table, field, value):
    edit_below(clip / "config.json", table, **{field: value})
    assert f"config.json: {table}.{field} is {value!r}: give a " in refused(registry, clip)


@only_clip
def test_a_section_that_is_no_table(registry, clip):
    edit(clip / "config.json", text_config="small")
    assert "config.json: text_config is 'small': expected a table" in refused(registry, clip)


@only_clip
def test_a_quantised_checkpoint(registry, clip):
    edit(clip / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "config.json: quantization_config: the weights are quantised" in refused(registry, clip)


@only_clip
def test_an_adapter(registry, clip):
    (clip / "config.json").unlink()
    (clip / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "it holds an adapter (adapter_config.json), not a model: merge it into its model" in refused(registry, clip)


@only_clip
def test_a_model_much_larger_than_its_weights(registry, clip):
    edit_below(clip / "config.json", "text_config", vocab_size=9_000_000)
    text = refused(registry, clip)
    assert "config.json describes a model of 1,1" in text
    assert "do not belong together" in text


@only_clip
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("resample", 99, "resample is 99: give one of PIL's filters, 0 to 5"),
        ("size", {"shortest_edge": 0}, "size is {'shortest_edge': 0}: give whole numbers of pixels from 1 to 10,000"),
        ("crop_size", 10**9, "crop_size is 1000000000: give whole numbers of pixels from 1 to 10,000"),
        ("size", {"shortest_edge": "64"}, "size is {'shortest_edge': '64'}: give whole numbers of pixels"),
        ("image_mean", [0.5], "image_mean is [0.5]: give 3 numbers"),
        ("image_std", [0.5, 0, 0.5], "image_std is [0.5, 0, 0.5]: give 3 numbers, none of them 0"),
        ("image_std", "none", "image_std is 'none': give 3 numbers"),
        ("rescale_factor", 0, "rescale_factor is 0: give a number that is not 0"),
        ("do_resize", "yes", "do_resize is 'yes': give true or false"),
    ],
)
def test_a_processor_that_cannot_be(registry, clip, field, value, said):
    edit(clip / "preprocessor_config.json", **{field: value})
    assert f"preprocessor_config.json: {said}" in refused(registry, clip)


@read_from_these_files
@only_clip
def test_a_processor_of_another_size(registry, clip):
    edit(clip / "preprocessor_config.json", crop_size={"height": 96, "width": 96}, size={"shortest_edge": 96})
    assert (
        "size and crop_size of preprocessor_config.json make images of 96 x 96 pixels, and vision_config.image_size of "
        "config.json is 64"
    ) in refused(registry, clip)


@read_from_these_files
@only_clip
@pytest.mark.parametrize(
    ("field", "value"), [("size", {"shortest_edge": None}), ("crop_size", {"height": None, "width": 64})]
)
def test_a_processor_without_a_size(registry, clip, field, value):
    edit(clip / "preprocessor_config.json", **{field: value})
    assert "the image tower cannot encode what preprocessor_config.json makes of an image" in refused(registry, clip)


@only_siglip
def test_a_siglip_without_its_pooling_head(registry, clip):
    from safetensors.torch import load_file, save_file

    edit_below(clip / "config.json", "vision_config", vision_use_head=False)
    weights = load_file(clip / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".head." not in name or not name.startswith("vision")}
    save_file(kept, clip / "model.safetensors", metadata={"format": "pt"})
    assert "it may lack its projection or pooling head" in refused(registry, clip).replace("the model may", "it may")


@only_clip
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_pipes_and_devices_are_not_opened(registry, clip, name):
    (clip / name).unlink()
    os.mkfifo(clip / name)
    assert f"{name} can" in refused(registry, clip)
    (clip / name).unlink()
    (clip / name).symlink_to("/dev/zero")
    assert "is not a regular file" in refused(registry, clip)


@only_clip
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "cannot be read as JSON: it is nested too deeply"),
        ('{"a": ' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "it is nested more than 64 levels deep"),
        ('{"a": "' + "x" * (17 << 20) + '"}', "bytes, more than 16,777,216"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_deep_and_enormous_json(registry, clip, name, content, said):
    (clip / name).write_text(content)
    assert f"{name} " in (text := refused(registry, clip))
    assert said in text


@only_clip
def test_shards_lie_beside_their_index(registry, clip):
    (clip / "model.safetensors").unlink()
    index = clip / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"logit_scale": "../../other.safetensors"}}))
    assert "weight_map names '../../other.safetensors', which is not a file beside it" in refused(registry, clip)
    index.write_text(json.dumps({"metadata": {}, "weight_map": [1]}))
    assert "weight_map does not say which file holds which weight" in refused(registry, clip)


@only_clip
def test_a_header_larger_than_its_file(registry, clip):
    (clip / "model.safetensors").write_bytes((10**15).to_bytes(8, "little") + b"{}")
    assert "damaged or incomplete: its header of 1,000,000,000,000,000 bytes does not fit into it" in refused(
        registry, clip
    )


@read_from_these_files
@only_clip
def test_a_tokenizer_that_makes_much_of_little(registry, clip):
    values = json.loads((clip / "tokenizer.json").read_text())
    grow = {"type": "Replace", "pattern": {"Regex": "."}, "content": "xxxxxxxxxx"}
    values["normalizer"] = {"type": "Sequence", "normalizers": [grow] * 5}
    (clip / "tokenizer.json").write_text(json.dumps(values))
    assert "normalizer: its replacements make up to 100,000 characters of one" in refused(registry, clip)


@only_clip
def test_an_attention_kernel_that_is_not_installed(registry, clip):
    edit(clip / "config.json", attn_implementation="flash_attention_2", _attn_implementation="flash_attention_2")
    assert "flash" in refused(registry, clip).lower()


def test_sound_directories_of_both_families_open(registry, copy):
    assert open_model(registry, ModelConfig(name=str(copy))).model is not None


@pytest.mark.parametrize(
    ("normalizer", "most"),
    [
        (None, 1),
        ({"type": "Lowercase"}, 1),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, 1),
        ({"type": "Replace", "pattern": {"String": "ab"}, "content": "abcdef"}, 3),
        ({"type": "Replace", "pattern": {"Regex": "."}, "content": "xx"}, 2),
        ({"type": "Sequence", "normalizers": [{"content": "xx"}, {"normalizers": [{"content": "xxx"}]}]}, 6),
    ],
)
def test_expansion(normalizer, most):
    assert expansion(normalizer) == most


def test_depth():
    assert [depth(value) for value in (7, [], [[1]], {"a": {"b": [1]}})] == [0, 1, 2, 3]
