"""Options of TensorRT engines and where they are kept; engines themselves are in tests/export/test_tensorrt.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from icclip.bundles import manifest as m
from icclip.runtime.engines import engine_directory, engine_options, shape_profile

ENGINES = Path("somewhere") / "bundle-tensorrt"


@pytest.fixture
def clip(bundles):
    return m.read_manifest(bundles["clip"])


@pytest.fixture
def siglip(bundles):
    return m.read_manifest(bundles["siglip"])


def shapes(options):
    return [options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")]


def test_engines_lie_beside_the_bundle():
    assert engine_directory(Path("somewhere") / "bundle") == ENGINES


def test_profiles_of_images_cover_every_batch(clip):
    profile = shape_profile(clip, "vision")
    assert (profile.minimum, profile.optimum, profile.maximum) == ((1, 3, 32, 32), (32, 3, 32, 32), (128, 3, 32, 32))


def test_profiles_cover_every_batch_and_every_length(clip):
    assert shapes(engine_options(ENGINES, clip, "fp32", "text")) == [
        "input_ids:1x1", "input_ids:32x13", "input_ids:128x24",
    ]  # fmt: skip


def test_a_text_tower_of_one_length_has_profiles_of_one_length(siglip):
    assert shapes(engine_options(ENGINES, siglip, "fp32", "text")) == [
        "input_ids:1x16", "input_ids:32x16", "input_ids:128x16",
    ]  # fmt: skip


@pytest.mark.parametrize("fp16", [False, True])
def test_fp16_kernels_come_with_float32_layer_norms(clip, fp16):
    options = engine_options(ENGINES, clip, "fp32", "vision", fp16=fp16)
    assert options["trt_fp16_enable"] == options["trt_layer_norm_fp32_fallback"] == str(int(fp16))


def test_every_graph_has_its_own_directory(clip):
    options = {tower: engine_options(ENGINES, clip, "fp32", tower) for tower in ("vision", "text")}
    for own in options.values():
        assert Path(own["trt_engine_cache_path"]).parent == ENGINES
        assert own["trt_timing_cache_path"] == own["trt_engine_cache_path"]
        assert "trt_dump_ep_context_model" not in own
    assert options["vision"]["trt_engine_cache_path"] != options["text"]["trt_engine_cache_path"]


def test_a_bundle_in_the_place_of_another_does_not_meet_its_engines(clip):
    graph = clip.precisions["fp32"].text
    beside = {f"{graph}_data": m.FileRecord(sha256="ab", size=1)}
    other = {graph: dataclasses.replace(clip.files[graph], sha256="cd")}
    manifests = [clip, *(dataclasses.replace(clip, files={**clip.files, **new}) for new in (beside, other))]
    assert len({engine_options(ENGINES, one, "fp32", "text")["trt_engine_cache_path"] for one in manifests}) == 3


def test_the_model_that_embeds_an_engine_lies_with_it(clip):
    options = engine_options(ENGINES, clip, "fp32", "vision", context=True)
    assert options["trt_dump_ep_context_model"] == "1"
    assert Path(options["trt_ep_context_file_path"]) == Path(options["trt_engine_cache_path"]) / "vision_model_ctx.onnx"
