"""A bundle in other people's software: transformers.js, onnxruntime-web, transformers' Auto classes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.subjects import FAMILIES, subject

from icclip.bundles.manifest import TowerFiles, read_manifest, seal
from icclip.runtime import Encoder
from icclip_export.precisions import graph_name, int8
from icclip_export.rewriting.pipeline import rewrite

PACKAGES = os.environ.get("ICCLIP_NODE_PACKAGES", "")
"""A directory in which `npm install @huggingface/transformers` was run."""
CLASSES = {
    "clip": {"vision": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
    "siglip": {"vision": "SiglipVisionModel", "text": "SiglipTextModel"},
}
TEXTS = ["Red circle, left", "a photograph of a blue Square near the top of a noisy picture", "x"]


PRECISIONS = ("fp32", "int8")
AGREES = {"fp32": 1e-4, "int8": 5e-3}
"""In int8, a value halfway between two steps may be rounded to the other one; a wrong product is away by more than 0.1."""
needs_node = pytest.mark.skipif(
    shutil.which("node") is None
    or not PACKAGES
    or not (Path(PACKAGES) / "node_modules/@huggingface/transformers").is_dir(),
    reason="needs node, and ICCLIP_NODE_PACKAGES: a directory where `npm install @huggingface/transformers` was run",
)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    """A trained checkpoint with a bundle as an export makes it: rewritten, in both precisions."""
    made = subject(request.param, tmp_path_factory.mktemp(request.param) / "bundle")
    made.tiny.model.config.save_pretrained(made.bundle)
    for tower in ("vision", "text"):
        graphs = {precision: made.bundle / graph_name(tower, precision) for precision in PRECISIONS}
        assert rewrite(graphs["fp32"], graphs["fp32"])
        int8.build(graphs["fp32"], graphs["int8"], ())
    files = {
        precision: TowerFiles(**{tower: graph_name(tower, precision) for tower in ("vision", "text")})
        for precision in PRECISIONS
    }
    seal(made.bundle, dataclasses.replace(read_manifest(made.bundle), precisions=files))
    return made


def images_of(trained):
    """Of the model's own size: libraries resize each in their own way."""
    return [image.resize((32, 32)) for image in (trained.reference.data.images[i] for i in range(3))]


def in_node(script, request, tmp_path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    command = ["node", Path(__file__).with_name(script), PACKAGES, path]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@needs_node
@pytest.mark.parametrize("precision", PRECISIONS)
def test_transformers_js_opens_the_bundle_and_agrees(trained, tmp_path, precision):
    encoder = Encoder.open(trained.bundle, precision, "cpu")
    images = images_of(trained)
    lowered = [text.lower() for text in TEXTS] if encoder.manifest.text.lowercase else TEXTS
    request = {
        "bundle": str(trained.bundle),
        "dtype": precision,
        **CLASSES[trained.family],
        "images": [np.asarray(image).ravel().tolist() for image in images],
        "side": 32,
        "texts": lowered,
        "padding": "max_length" if encoder.manifest.text.padding == "max_length" else True,
        "max_length": encoder.manifest.text.max_length,
        "image_output": encoder.manifest.vision_io.output,
        "text_output": encoder.manifest.text_io.output,
    }
    theirs = in_node("embed.cjs", request, tmp_path)
    # All at once, as they are read there: the scales of int8 are those of a batch.
    ours = encoder.encode_images(images, batch_size=3), encoder.encode_texts(TEXTS, batch_size=3)
    np.testing.assert_allclose(_unit(theirs["images"]), ours[0], atol=AGREES[precision])
    np.testing.assert_allclose(_unit(theirs["texts"]), ours[1], atol=AGREES[precision])


@needs_node
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_browsers_onnxruntime_runs_the_graphs_and_agrees(trained, tmp_path, precision):
    encoder = Encoder.open(trained.bundle, precision, "cpu")
    manifest = encoder.manifest
    images = images_of(trained)
    inputs = {"vision": encoder.preprocessor(images), "text": encoder.tokenization(TEXTS)}
    request = [
        {
            "graph": str(trained.bundle / graph_name(tower, precision)),
            "input": getattr(manifest, f"{tower}_io").input,
            "output": getattr(manifest, f"{tower}_io").output,
            "type": "float32" if tower == "vision" else "int64",
            "dims": list(array.shape),
            "values": array.ravel().tolist(),
        }
        for tower, array in inputs.items()
    ]
    vision, text = (np.reshape(one["values"], one["dims"]) for one in in_node("run_web.cjs", request, tmp_path))
    np.testing.assert_allclose(_unit(vision), encoder.encode_images(images, batch_size=3), atol=AGREES[precision])
    np.testing.assert_allclose(_unit(text), encoder.encode_texts(TEXTS, batch_size=3), atol=AGREES[precision])


def test_operators_beyond_onnx_are_in_int8_alone(trained):
    """And there they are one of those that onnxruntime has on CPUs, on CUDA and in browsers."""
    beyond = {
        precision: {
            node.op_type
            for tower in ("vision", "text")
            for node in onnx.load(trained.bundle / graph_name(tower, precision)).graph.node
            if node.domain not in ("", "ai.onnx")
        }
        for precision in PRECISIONS
    }
    assert beyond == {"fp32": set(), "int8": {"MultiHeadAttention"}}


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
