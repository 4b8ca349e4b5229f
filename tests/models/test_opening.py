from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from icclip.config import ModelConfig
from icclip.errors import CheckpointError, UnknownNameError
from icclip.models.opening import open_model


def opened(registry, directory, **options):
    return open_model(registry, ModelConfig(name=str(directory), **options))


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def refused(registry, directory, match):
    with pytest.raises(CheckpointError, match=match) as error:
        opened(registry, directory)
    return message(error)


def edit_json(path, **changes):
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if isinstance(value, dict):
            values[key] |= value
        else:
            values[key] = value
    path.write_text(json.dumps(values))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_misspelled_preset_is_suggested(registry):
    with pytest.raises(UnknownNameError, match="unknown model 'clip-tny'; did you mean 'clip-tiny'") as error:
        opened(registry, "clip-tny")
    assert "hub id OWNER/NAME, or a directory that exists" in message(error)


def test_a_path_that_does_not_exist(registry, tmp_path):
    with pytest.raises(UnknownNameError, match="a directory that exists"):
        opened(registry, tmp_path / "absent")


def test_a_file(registry, copy):
    refused(registry, copy / "model.safetensors", "is a file: give the directory")


def test_a_directory_without_config(registry, tmp_path):
    refused(registry, tmp_path, r"has no config.json: it is not a model directory")


def test_an_interrupted_run_points_at_its_last_checkpoint(registry, tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    assert refused(registry, tmp_path, "its last checkpoint is").endswith("checkpoint-10")


@pytest.mark.parametrize(
    ("content", "match"),
    [("{", "cannot be read as JSON"), ("[]", "does not hold a JSON object"), ("{}", "has no model_type")],
)
def test_a_broken_config(registry, copy, content, match):
    (copy / "config.json").write_text(content)
    refused(registry, copy, match)


def test_an_unsupported_model_type(registry, copy):
    edit_json(copy / "config.json", model_type="bert")
    with pytest.raises(
        UnknownNameError, match=r"unknown model type 'bert'.*known: clip, siglip, siglip2.*in "
    ) as error:
        opened(registry, copy)
    message(error)


def test_a_config_that_makes_no_model(registry, copy):
    edit_json(copy / "config.json", vision_config={"num_attention_heads": 7})
    refused(registry, copy, "config.json describes no model that can be made: ")


def test_no_weights(registry, copy):
    (copy / "model.safetensors").unlink()
    refused(registry, copy, "has no weights: expected model.safetensors or model.safetensors.index.json")


def test_weights_only_as_a_pickle_are_not_opened(registry, copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    refused(registry, copy, "only as a pickle.*convert them to safetensors")


def test_weights_in_several_files(registry, copy):
    whole = opened(registry, copy).model
    (copy / "model.safetensors").unlink()
    whole.save_pretrained(copy, max_shard_size="1MB")
    parts = sorted(copy.glob("model-*.safetensors"))
    assert len(parts) > 1
    found, expected = opened(registry, copy).model.state_dict(), whole.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    parts[1].unlink()
    refused(registry, copy, f"{parts[1].name} are damaged or incomplete: No such file")


@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_truncated_weights(registry, copy, kept):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(registry, copy, "the weights in .* are damaged or incomplete")


def test_missing_weights_are_named(registry, copy):
    edit_weights(copy, lambda weights: weights.pop("logit_scale"))
    refused(registry, copy, r"do not fit its config.json: 1 missing \(logit_scale\)")


def test_unexpected_weights_are_named(registry, copy):
    edit_weights(copy, lambda weights: weights.update({f"extra.{i}": torch.zeros(1) for i in range(5)}))
    refused(registry, copy, r"5 unexpected \(extra.0, extra.1, extra.2, ...\)")


def test_weights_of_another_shape_are_named(registry, copy):
    edit_weights(copy, lambda weights: weights.update({"text_model.final_layer_norm.bias": torch.zeros(7)}))
    refused(registry, copy, r"1 of the wrong shape \(text_model.final_layer_norm.bias\)")


def test_the_constant_buffers_of_old_checkpoints_are_no_mistake(registry, copy):
    key = "text_model.embeddings.position_ids"
    edit_weights(copy, lambda weights: weights.update({key: torch.arange(8)[None]}))
    opened(registry, copy)


def test_half_precision_weights_become_float32(registry, copy):
    edit_weights(copy, lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    assert {p.dtype for p in opened(registry, copy).model.parameters()} == {torch.float32}


def test_no_image_preprocessing(registry, copy):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (copy / name).unlink(missing_ok=True)
    refused(registry, copy, "has no preprocessor_config.json: copy it")


def test_no_tokenizer(registry, copy):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (copy / name).unlink(missing_ok=True)
    refused(registry, copy, "has no tokenizer: expected one of tokenizer.json, ")


def test_a_broken_tokenizer(registry, copy):
    (copy / "tokenizer.json").write_text("{}")
    for name in ("vocab.json", "merges.txt"):
        (copy / name).unlink(missing_ok=True)
    refused(registry, copy, "the processor in .* cannot be read: ")


def test_a_tokenizer_with_more_ids_than_embeddings(registry, copy, clip_tokenizer):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (copy / name).write_bytes((clip_tokenizer / name).read_bytes())
    refused(registry, copy, r"ids up to 49407, but the model has only \d+ embeddings: they do not belong together")


@pytest.mark.parametrize("trained", ["clip-tiny"], indirect=True)
def test_a_tokenizer_that_ends_texts_elsewhere_than_the_model_pools(registry, copy):
    edit_json(copy / "config.json", text_config={"eos_token_id": 5})
    refused(registry, copy, r"pools texts at the token 5 and the tokenizer ends them with \d+")


@pytest.mark.parametrize("trained", ["clip-tiny"], indirect=True)
def test_the_wrong_end_token_of_old_configs_is_understood(registry, copy, trained, texts):
    edit_json(copy / "config.json", text_config={"eos_token_id": 2})
    old, new = opened(registry, copy), trained.loaded
    with torch.inference_mode():
        a, b = (m.text_features(m.feeder.text_inputs(texts)) for m in (old, new))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_offline_and_not_in_the_cache(registry):
    with pytest.raises(CheckpointError, match="the hub cannot be reached: give a local directory, or unset") as error:
        opened(registry, "nobody/icclip-test-absent")
    assert "HF_HUB_OFFLINE" in message(error)


def test_a_hub_id_that_cannot_be_one(registry):
    with pytest.raises(CheckpointError, match="nor a valid hub id"):
        opened(registry, "owner/bad..name")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_the_one_asked_for(registry, trained, attention):
    config = opened(registry, trained.directory, attention=attention).model.config
    assert [c._attn_implementation for c in (config, config.vision_config, config.text_config)] == [attention] * 3


def test_opening_says_nothing(registry, trained, capfd):
    capfd.readouterr()
    opened(registry, trained.directory)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_records_call_it_as_the_user_did(registry, trained):
    assert opened(registry, trained.directory).describe()["source"] == str(trained.directory)
