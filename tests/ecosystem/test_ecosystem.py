"""A bundle in other people's software: transformers.js, transformers' Auto classes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.subjects import FAMILIES, subject

from icclip.runtime import Encoder

PACKAGES = os.environ.get("ICCLIP_NODE_PACKAGES", "")
"""A directory in which `npm install @huggingface/transformers` was run."""
CLASSES = {
    "clip": {"vision": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
    "siglip": {"vision": "SiglipVisionModel", "text": "SiglipTextModel"},
}
TEXTS = ["Red circle, left", "a photograph of a blue Square near the top of a noisy picture", "x"]


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    made = subject(request.param, tmp_path_factory.mktemp(request.param) / "bundle")
    made.tiny.model.config.save_pretrained(made.bundle)
    return made


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.skipif(
    not (Path(PACKAGES) / "node_modules/@huggingface/transformers").is_dir() or not PACKAGES,
    reason="set ICCLIP_NODE_PACKAGES to a directory where `npm install @huggingface/transformers` was run",
)
def test_transformers_js_opens_the_bundle_and_agrees(trained, tmp_path):
    encoder = Encoder.open(trained.bundle, provider="cpu")
    # Of the model's own size: libraries resize each in their own way.
    images = [image.resize((32, 32)) for image in (trained.reference.data.images[i] for i in range(3))]
    lowered = [text.lower() for text in TEXTS] if encoder.manifest.text.lowercase else TEXTS
    request = {
        "bundle": str(trained.bundle),
        "dtype": "fp32",
        **CLASSES[trained.family],
        "images": [np.asarray(image).ravel().tolist() for image in images],
        "side": 32,
        "texts": lowered,
        "padding": "max_length" if encoder.manifest.text.padding == "max_length" else True,
        "max_length": encoder.manifest.text.max_length,
        "image_output": encoder.manifest.vision_io.output,
        "text_output": encoder.manifest.text_io.output,
    }
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    script = Path(__file__).with_name("embed.cjs")
    ran = subprocess.run(["node", script, PACKAGES, path], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout)
    np.testing.assert_allclose(_unit(theirs["images"]), encoder.encode_images(images), atol=1e-4)
    np.testing.assert_allclose(_unit(theirs["texts"]), encoder.encode_texts(TEXTS), atol=1e-4)


def _unit(rows):
    array = np.array(rows)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_auto_classes_load_the_directory(trained):
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained.bundle)
    text = Encoder.open(trained.bundle, provider="cpu").tokenization
    lowered = [one.lower() for one in TEXTS] if text.inputs.lowercase else TEXTS
    theirs = tokenizer(lowered, padding=text.inputs.padding, max_length=text.inputs.max_length, truncation=True)
    np.testing.assert_array_equal(theirs["input_ids"], text(TEXTS))
    assert AutoConfig.from_pretrained(trained.bundle).model_type == trained.family
    processor = AutoImageProcessor.from_pretrained(trained.bundle, use_fast=False)
    assert processor(trained.reference.data.images[0])["pixel_values"][0].shape == (3, 32, 32)
