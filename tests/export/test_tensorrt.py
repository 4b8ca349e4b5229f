"""The TensorRT target short of an engine; engines need a GPU and TensorRT's libraries."""

from __future__ import annotations

import pytest

from icclip.errors import UsageError
from icclip.runtime.manifest import read_manifest
from icclip.runtime.providers import choose_provider
from icclip_export.tensorrt import build_engine, engine_directory, engine_options


def tensorrt_works():
    try:
        choose_provider("tensorrt")
    except UsageError:
        return False
    return True


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    from support.bundles import tiny_clip, tiny_siglip, write_bundle

    root = tmp_path_factory.mktemp("bundles")
    for family, tiny in (("clip", tiny_clip()), ("siglip", tiny_siglip())):
        write_bundle(tiny, root / family)
    return root


def test_engines_lie_beside_the_bundle(bundles):
    bundle = bundles / "clip"
    options = engine_options(bundle, read_manifest(bundle), "fp32", "vision")
    assert engine_directory(bundle) == bundles / "clip-tensorrt"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(bundles / "clip-tensorrt")
    assert options["trt_ep_context_file_path"] == str(bundles / "clip-tensorrt" / "vision_model_ctx.onnx")
    assert options["trt_dump_ep_context_model"] == "1"


def test_profiles_cover_every_batch_and_every_length(bundles):
    bundle = bundles / "clip"
    options = engine_options(bundle, read_manifest(bundle), "fp32", "text")
    shapes = [options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")]
    assert shapes == ["input_ids:1x1", "input_ids:32x13", "input_ids:128x24"]


def test_a_text_tower_of_one_length_has_profiles_of_one_length(bundles):
    bundle = bundles / "siglip"
    options = engine_options(bundle, read_manifest(bundle), "fp32", "text")
    shapes = [options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")]
    assert shapes == ["input_ids:1x16", "input_ids:32x16", "input_ids:128x16"]


@pytest.mark.parametrize("fp16", [False, True])
def test_fp16_kernels_come_with_float32_layer_norms(bundles, fp16):
    bundle = bundles / "clip"
    options = engine_options(bundle, read_manifest(bundle), "fp32", "vision", fp16=fp16)
    assert options["trt_fp16_enable"] == options["trt_layer_norm_fp32_fallback"] == str(int(fp16))


@pytest.mark.skipif(tensorrt_works(), reason="TensorRT works here")
def test_without_tensorrt_one_line_says_what_to_install(icclip, checkpoints, tmp_path):
    outcome = icclip(
        "export", checkpoints["clip"], "-o", tmp_path / "b", "--target", "tensorrt", "--dataset", "shapes"
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    assert "provider tensorrt cannot be had" in outcome.err
    assert "pip install 'icclip[tensorrt]'" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(tensorrt_works(), reason="TensorRT works here")
def test_opening_for_tensorrt_never_falls_back(bundles, registry):
    with pytest.raises(UsageError, match="provider tensorrt cannot be had"):
        registry.export_target("tensorrt").open(bundles / "clip")


def test_int8_is_no_precision_of_this_target(icclip, checkpoints, tmp_path):
    outcome = icclip(
        "export", checkpoints["clip"], "-o", tmp_path / "b", "--target", "tensorrt", "--precision", "int8",
        "--dataset", "shapes",
    )  # fmt: skip
    assert outcome.code == 2
    assert "unknown precision 'int8'" in outcome.err


@pytest.mark.gpu
@pytest.mark.skipif(not tensorrt_works(), reason="needs a GPU and the extra tensorrt")
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_an_engine_is_built_and_kept(bundles, tower):
    bundle = bundles / "clip"
    context = build_engine(bundle, read_manifest(bundle), "fp32", tower)
    assert context.exists()
    assert list(engine_directory(bundle).glob("*.engine"))
