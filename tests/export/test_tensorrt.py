"""The TensorRT target short of an engine; engines need a GPU and TensorRT's libraries."""

from __future__ import annotations

import pytest

from icclip.bundles.manifest import read_manifest
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.plugins import OpenRequest
from icclip.runtime.engines import engine_directory
from icclip.runtime.providers import choose_provider
from icclip_export.tensorrt.target import build_engine


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


@pytest.mark.skipif(tensorrt_works(), reason="TensorRT works here")
def test_without_tensorrt_one_line_says_what_to_install(icclip, checkpoints, tmp_path):
    outcome = icclip(
        "export", checkpoints["clip"], "-o", tmp_path / "b", "--target", "tensorrt", "--dataset", "shapes"
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    assert "provider tensorrt is not available" in outcome.err
    assert "pip install 'icclip[tensorrt]'" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(tensorrt_works(), reason="TensorRT works here")
def test_a_provider_that_cannot_be_had_is_said_before_anything_is_read(icclip, tmp_path):
    outcome = icclip("export", tmp_path / "no-model", "-o", tmp_path / "b", "--provider", "tensorrt", "-d", "shapes")
    assert outcome.code == 2
    assert outcome.err.startswith("error: provider tensorrt is not available")


@pytest.mark.skipif(tensorrt_works(), reason="TensorRT works here")
def test_opening_for_tensorrt_never_falls_back(bundles, registry):
    with pytest.raises(UsageError, match="provider tensorrt is not available"):
        registry.export_target("tensorrt").open(OpenRequest(path=bundles / "clip", reporter=Reporter(silent=True)))


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
    assert list(engine_directory(bundle).glob("*/*.engine"))
