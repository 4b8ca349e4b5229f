"""Two pretrained towers become one checkpoint, or one line says why they cannot."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image
from support import towers

from icclip.config import ModelConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import Registry
from icclip.testing import check_backend

PICTURES = [Image.new("RGB", (40, 60), colour) for colour in ("red", "blue")]
TEXTS = ["a red circle", "the small blue square above the wet grass"]


def opened(directory):
    return open_model(Registry(load_plugins=frozenset()), ModelConfig(name=str(directory)))


@pytest.mark.parametrize("vision", [towers.vit, towers.convnext, towers.efficientnet], ids=lambda make: make.__name__)
@pytest.mark.parametrize("text", [towers.bert, towers.roberta], ids=lambda make: make.__name__)
def test_towers_of_any_family_keep_their_weights(icclip, tmp_path, vision, text):
    start = towers.assembled(icclip, tmp_path, vision(), text(), "--projection-dim", 16)
    loaded = opened(start)
    assert loaded.backend.name == "dual"
    for tower, name in (("vision", "vision_model"), ("text", "text_model")):
        expected = transformers.AutoModel.from_pretrained(tmp_path / tower).state_dict()
        found = loaded.model.get_submodule(name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], weight) for key, weight in expected.items())
    with torch.inference_mode():
        images = loaded.image_features(loaded.feeder.image_inputs(PICTURES))
        texts = loaded.text_features(loaded.feeder.text_inputs(TEXTS))
    assert images.shape == texts.shape == (2, 16)
    checks = check_backend(loaded.backend, str(start))
    assert {check.status for check in checks} == {"ok"}, checks


def test_it_is_a_plain_transformers_checkpoint_with_its_processor(icclip, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.vit(), towers.bert())
    model = transformers.VisionTextDualEncoderModel.from_pretrained(start)
    processor = transformers.AutoProcessor.from_pretrained(start)
    inputs = processor(images=PICTURES, text=TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs, loaded = model.eval()(**inputs), opened(start)
        ours = loaded.text_features(loaded.feeder.text_inputs(TEXTS))
    torch.testing.assert_close(torch.nn.functional.normalize(ours, dim=-1), theirs.text_embeds, rtol=1e-4, atol=1e-5)
    assert str(tmp_path) not in (start / "config.json").read_text()


def test_the_seed_decides_the_projections_and_the_same_seed_gives_the_same(icclip, tmp_path):
    first = towers.assembled(icclip, tmp_path, towers.vit(), towers.bert())
    weights = {}
    for name, options in {"same": (), "other": ("--seed", 7)}.items():
        made = icclip(
            "assemble", "--vision", tmp_path / "vision", "--text", tmp_path / "text", "-o", tmp_path / name, *options
        )
        assert made.code == 0, made.err
        weights[name] = opened(tmp_path / name).model.visual_projection.weight
    weights["first"] = opened(first).model.visual_projection.weight
    assert torch.equal(weights["first"], weights["same"])
    assert not torch.equal(weights["first"], weights["other"])
    assert weights["first"].std().item() == pytest.approx(32**-0.5, rel=0.05)


def test_json_says_what_was_made(icclip, tmp_path):
    towers.write_tower(tmp_path / "v", towers.convnext())
    towers.write_tower(tmp_path / "t", towers.bert())
    done = icclip("assemble", "--vision", tmp_path / "v", "--text", tmp_path / "t", "-o", tmp_path / "s", "--json")
    found = json.loads(done.out)
    assert found.pop("parameters") > 0
    assert found == {
        "output_dir": str(tmp_path / "s"),
        "vision": {"model_type": "convnext", "width": 16},
        "text": {"model_type": "bert", "width": 32},
        "embedding_dim": 512,
    }


def test_a_text_is_cut_at_what_the_tower_takes(icclip, tmp_path):
    # RoBERTa's positions begin after its padding id, here 0.
    loaded = opened(towers.assembled(icclip, tmp_path, towers.vit(), towers.roberta()))
    assert loaded.feeder.text_policy.max_length == towers.POSITIONS - 1
    assert loaded.feeder.text_inputs(["red " * 100])["input_ids"].shape == (1, towers.POSITIONS - 1)


def test_a_tokenizer_that_leaves_texts_too_long_is_refused(icclip, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.vit(), towers.roberta())
    settings = json.loads((start / "tokenizer_config.json").read_text())
    (start / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 1000}))
    done = icclip("eval", start, "--dataset", "shapes")
    assert done.code == 2
    assert "the tokenizer cuts texts at 24 tokens, and the text tower takes fewer: set a smaller model" in done.err


def test_a_pooler_that_is_missing_is_new_and_said(icclip, tmp_path):
    text = towers.write_tower(tmp_path / "masked", towers.bert())
    model = transformers.BertForMaskedLM(towers.bert())
    model.save_pretrained(text)
    towers.write_tower(tmp_path / "v", towers.vit())
    done = icclip("assemble", "--vision", tmp_path / "v", "--text", text, "-o", tmp_path / "s")
    assert done.code == 0, done.err
    assert "has no weights for pooler.dense" in done.err
    assert "they start out random and have to be trained" in done.err


WITHOUT_A_POOLER = "distilbert has no pooled output (pooler_output), which stands for the whole input: give a model"
REFUSED = {
    "no pooler": (towers.vit, towers.distilbert, WITHOUT_A_POOLER),
    "decoder": (towers.vit, towers.t5, "t5 is an encoder-decoder model: give an encoder"),
    "not a vector": (towers.resnet, towers.bert, "its pooled output is 1 x 16 x 1 x 1: expected one vector per input"),
    "texts as images": (towers.bert, towers.bert, "bert takes input_ids: a vision tower takes pixel_values"),
    "images as texts": (towers.vit, towers.vit, "vit takes pixel_values: a text tower takes input_ids"),
}


@pytest.mark.parametrize(("vision", "text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_serve_is_refused_in_one_line(icclip, tmp_path, vision, text, message):
    towers.write_tower(tmp_path / "v", vision())
    towers.write_tower(tmp_path / "t", text())
    refused(icclip, tmp_path, message)


def refused(icclip, folder, message):
    done = icclip("assemble", "--vision", folder / "v", "--text", folder / "t", "-o", folder / "s")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (folder / "s").exists()


@pytest.fixture
def pair(tmp_path):
    towers.write_tower(tmp_path / "v", towers.vit())
    towers.write_tower(tmp_path / "t", towers.bert())
    return tmp_path


def test_an_image_size_that_differs_is_refused(icclip, pair):
    values = {**towers.VIT_PROCESSOR, "size": {"height": 64, "width": 64}}
    (pair / "v" / "preprocessor_config.json").write_text(json.dumps(values))
    refused(icclip, pair, "vit does not run on the 64 x 64 pixels that its image processor gives (its configuration")


def test_a_vision_tower_without_preprocessing_is_refused(icclip, pair):
    (pair / "v" / "preprocessor_config.json").unlink()
    refused(icclip, pair, "has no preprocessor_config.json, which says how images are prepared for it")


def test_a_width_that_contradicts_the_configuration_is_refused(icclip, pair):
    shutil.rmtree(pair / "v")
    config = towers.efficientnet()
    config.hidden_size = 99
    towers.write_tower(pair / "v", config)
    refused(icclip, pair, "its pooled output has 320 values and its configuration says hidden_size 99")


def test_missing_weights_are_refused(icclip, pair):
    config = json.loads((pair / "t" / "config.json").read_text())
    (pair / "t" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(icclip, pair, "its weights do not fit its config.json: encoder.layer.2.")


def test_a_tokenizer_of_another_model_is_refused(icclip, pair):
    words = (pair / "t" / "vocab.txt").read_text() + "\nmore\nwords"
    (pair / "t" / "vocab.txt").write_text(words)
    transformers.BertTokenizerFast(str(pair / "t" / "vocab.txt")).save_pretrained(pair / "t")
    refused(icclip, pair, "the tokenizer has ids up to")


def test_a_model_of_two_towers_is_trained_as_it_is(icclip, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.vit(), towers.bert())
    done = icclip("assemble", "--vision", start, "--text", start, "-o", tmp_path / "again")
    assert done.code == 2
    assert "already has both towers: fine-tune it directly with `icclip train`" in done.err


def test_a_directory_in_use_is_left_alone(icclip, pair):
    (pair / "s").mkdir()
    (pair / "s" / "mine").write_text("")
    done = icclip("assemble", "--vision", pair / "v", "--text", pair / "t", "-o", pair / "s")
    assert done.code == 2
    assert "already exists: choose another --output-dir" in done.err
    assert [path.name for path in (pair / "s").iterdir()] == ["mine"]


def test_a_tower_that_is_nowhere(icclip, pair):
    done = icclip("assemble", "--vision", pair / "nothing", "--text", pair / "t", "-o", pair / "s")
    assert done.code == 2
    assert "or give a hub id OWNER/NAME, or a directory that exists" in done.err
