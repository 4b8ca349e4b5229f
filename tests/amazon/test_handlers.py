"""The seed project's handlers over a bundle, with the checks of `icclip serve`; a checkpoint is tried with the training entry point."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.images import photo

from icclip.errors import CheckpointError
from icclip.runtime import Encoder
from icclip_plugins.sagemaker import handlers, trial
from icclip_plugins.sagemaker.handlers import RequestError, input_fn, model_fn, output_fn, predict_fn

TEXTS = ["a red square", "two dogs", "snow"]


@pytest.fixture
def model(bundle):
    return model_fn(str(bundle))


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(model, **request):
    return json.loads(output_fn(predict_fn(input_fn(json.dumps(request), "application/json; charset=utf-8"), model)))


def test_rank_gives_the_runtimes_own_scores(model, bundle):
    image = photo(50, 40)
    found = ask(model, image_b64=png(image), texts=TEXTS)
    scores = Encoder.open(bundle).rank(image, TEXTS)
    order = np.argsort(-scores, kind="stable")
    assert [row["text"] for row in found["top_k"]] == [TEXTS[row] for row in order]
    np.testing.assert_allclose([row["score"] for row in found["top_k"]], scores[order], rtol=1e-6)
    assert len(ask(model, task="rank", image_b64=png(image), texts=TEXTS, top_k=2)["top_k"]) == 2


def test_encode_gives_unit_vectors(model, bundle):
    image = photo(50, 40)
    found = ask(model, task="encode_image", image_b64=png(image))["image_embedding"]
    np.testing.assert_allclose(found, Encoder.open(bundle).encode_images([image])[0], rtol=1e-6)
    texts = ask(model, task="encode_text", texts=TEXTS)["text_embeddings"]
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-6)


def test_a_bundle_in_its_folder_is_found(bundle, tmp_path):
    (tmp_path / "bundle").symlink_to(bundle)
    assert model_fn(str(tmp_path)).scale.loss in ("softmax", "sigmoid")


def test_an_empty_model_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        model_fn(str(tmp_path))


TRUNCATED = base64.b64encode(base64.b64decode(png(photo(50, 40)))[:200]).decode()
HUGE = png(Image.new("1", (8_000, 8_000)))
GOOD = {"image_b64": png(Image.new("RGB", (4, 4))), "texts": ["a"]}


@pytest.mark.parametrize(
    ("request_", "expected", "status"),
    [
        ({**GOOD, "task": "translate"}, "task is 'translate': choose one of rank, encode_image, encode_text", 400),
        ({**GOOD, "task": ["rank"]}, "task is \\['rank'\\]", 400),
        ({"texts": ["a"]}, "image_b64 is missing", 422),
        ({**GOOD, "image_b64": 3}, "image_b64 is missing", 422),
        ({**GOOD, "image_b64": "%%%"}, "image_b64 is not base64", 422),
        ({**GOOD, "image_b64": "aGVsbG8="}, "image_b64 is not an image that can be read", 422),
        ({**GOOD, "image_b64": TRUNCATED}, "image_b64", 422),
        ({**GOOD, "image_b64": HUGE}, "image_b64 has 8000 x 8000 pixels, more than 40,000,000", 413),
        ({"image_b64": GOOD["image_b64"]}, "texts is missing", 422),
        ({**GOOD, "texts": "a dog"}, "texts is missing", 422),
        ({**GOOD, "texts": []}, "texts is missing", 422),
        ({**GOOD, "texts": ["a", None]}, "texts is missing", 422),
        ({**GOOD, "texts": ["a", "\ud800"]}, "texts.1 is not valid Unicode", 422),
        ({**GOOD, "texts": ["a"] * 1001}, "texts has 1,001 entries, more than 1,000", 413),
        ({**GOOD, "texts": ["a" * 10_001]}, "texts.0 has 10,001 characters, more than 10,000", 413),
        ({**GOOD, "top_k": 0}, "top_k is 0: send a whole number of at least 1", 400),
        ({**GOOD, "top_k": True}, "top_k is True", 400),
        ({**GOOD, "top_k": "five"}, "top_k is 'five'", 400),
        (["rank"], "the request is not a JSON object", 400),
    ],
)
def test_a_request_that_cannot_be_answered(request_, expected, status):
    with pytest.raises(RequestError, match=expected) as caught:
        input_fn(json.dumps(request_))
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_what_is_not_json_or_too_large(monkeypatch):
    with pytest.raises(RequestError, match="the request is not JSON"):
        input_fn(b"\xff{")
    with pytest.raises(ValueError, match="Unsupported content type: 'image/jpeg': send application/json"):
        input_fn(b"{}", "image/jpeg")
    with pytest.raises(RequestError, match="Unsupported accept type: 'text/csv'"):
        output_fn({}, "text/csv")
    monkeypatch.setattr(handlers, "MAX_BODY", 10)
    with pytest.raises(RequestError, match="the request has 12 bytes: send at most 10") as caught:
        input_fn(b'{"task": ""}')
    assert caught.value.status == 413


def test_a_trial_prints_the_ranked_texts(bundle, tmp_path, capsys):
    photo(50, 40).save(tmp_path / "photo.png")
    trial.main([str(bundle), str(tmp_path / "photo.png"), *TEXTS])
    found = json.loads(capsys.readouterr().out)["top_k"]
    assert sorted(row["text"] for row in found) == sorted(TEXTS)


def test_a_trial_without_an_image_is_one_line(bundle, tmp_path):
    with pytest.raises(SystemExit, match=r"error: cannot read .*absent.png: No such file or directory"):
        trial.main([str(bundle), str(tmp_path / "absent.png"), "a dog"])
