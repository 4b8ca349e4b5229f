"""Tiny bundles, built once."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import pytest


@pytest.fixture(scope="session")
def tinies():
    from support.bundles import tiny_clip, tiny_siglip

    return {"clip": tiny_clip(), "siglip": tiny_siglip()}


@pytest.fixture(scope="session")
def bundles(tinies, tmp_path_factory):
    """Family -> bundle. Never written to: `fresh` gives a copy."""
    from support.bundles import write_bundle

    root = tmp_path_factory.mktemp("bundles")
    for family, tiny in tinies.items():
        write_bundle(tiny, root / family)
    return {family: root / family for family in tinies}


@pytest.fixture(params=["clip", "siglip"])
def family(request):
    return request.param


@pytest.fixture
def tiny(tinies, family):
    return tinies[family]


@pytest.fixture
def bundle(bundles, family):
    return bundles[family]


@pytest.fixture
def fresh(bundles, tmp_path):
    """A copy of the CLIP bundle, elsewhere, to be broken."""
    return shutil.copytree(bundles["clip"], tmp_path / "moved")


@pytest.fixture(scope="session")
def dynamic(bundles, tmp_path_factory):
    """The CLIP bundle with weights and activations in 8 bits too, as the exporter's recipe quantizes them."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from icclip.bundles import manifest as m

    root = shutil.copytree(bundles["clip"], tmp_path_factory.mktemp("dynamic") / "bundle")
    logging.getLogger().setLevel(logging.ERROR)
    for tower in ("vision", "text"):
        source, made = root / f"onnx/{tower}_model.onnx", root / f"onnx/{tower}_model_int8.onnx"
        quantize_dynamic(source, made, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        assert any(node.op_type == "DynamicQuantizeLinear" for node in onnx.load(made).graph.node)
    manifest = m.read_manifest(root)
    towers = m.TowerFiles(vision="onnx/vision_model_int8.onnx", text="onnx/text_model_int8.onnx")
    m.seal(root, dataclasses.replace(manifest, precisions={**manifest.precisions, "int8": towers}))
    return root
