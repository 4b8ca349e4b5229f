"""Bundles wherever they lie: in the hub's cache, in read-only places, under names with spaces and other scripts."""

from __future__ import annotations

import dataclasses
import os
import shutil

import numpy as np
import onnx
import pytest

from icclip.bundles import manifest as m
from icclip.runtime import Encoder


@pytest.fixture(scope="module")
def external(bundles, tmp_path_factory):
    """The CLIP bundle with the weights of its graphs beside them, as large graphs have it."""
    root = shutil.copytree(bundles["clip"], tmp_path_factory.mktemp("external") / "bundle")
    for tower in ("vision", "text"):
        path = root / f"onnx/{tower}_model.onnx"
        graph = onnx.load(path)
        onnx.save_model(
            graph, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}_data",
            size_threshold=0,
        )  # fmt: skip
    m.seal(root, m.read_manifest(root))
    return root


def as_the_hub_caches(bundle, cache):
    """Content in `blobs/`, and links to it in `snapshots/REVISION/`."""
    blobs, snapshot = cache / "models--me--photos" / "blobs", cache / "models--me--photos" / "snapshots" / "0a1b2c"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in bundle.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / f"{number:040x}")
        link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    return snapshot


def encoded(bundle, images):
    with Encoder.open(bundle, provider="cpu") as encoder:
        return encoder.encode_images(images), encoder.encode_texts(["a red square", "Two BLUE circles!"])


@pytest.fixture(scope="module")
def pictures():
    return [np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)]


def same(one, other):
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_weights_are_really_outside(external):
    data = [name for name in m.read_manifest(external).files if name.endswith("_data")]
    assert data == ["onnx/text_model.onnx_data", "onnx/vision_model.onnx_data"]
    assert (external / data[0]).stat().st_size > (external / "onnx/text_model.onnx").stat().st_size / 4


def test_in_the_hubs_cache(bundles, external, pictures, tmp_path):
    snapshot = as_the_hub_caches(external, tmp_path / "hub")
    assert (snapshot / "onnx/vision_model.onnx_data").is_symlink()
    same(encoded(snapshot, pictures), encoded(bundles["clip"], pictures))


def test_weights_behind_a_link_that_leads_elsewhere(external, pictures, tmp_path):
    """The graph is a file, and its weights lie on another disk: onnxruntime itself refuses that."""
    root = shutil.copytree(external, tmp_path / "bundle")
    for name in ("vision", "text"):
        data = root / f"onnx/{name}_model.onnx_data"
        (tmp_path / "other").mkdir(exist_ok=True)
        data.rename(tmp_path / "other" / data.name)
        data.symlink_to(tmp_path / "other" / data.name)
    same(encoded(root, pictures), encoded(external, pictures))


def test_links_are_checked_as_files_are(external, tmp_path):
    snapshot = as_the_hub_caches(external, tmp_path / "hub")
    target = (snapshot / "onnx/text_model.onnx_data").resolve()
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    with pytest.raises(m.CheckpointError, match=r"text_model.onnx_data is not the file that icclip.json describes"):
        Encoder.open(snapshot, provider="cpu", warm=True)


@pytest.mark.parametrize("name", ["with spaces and (brackets)", "Ünïcödé 写真", "a#b%20c&d=e"])
@pytest.mark.parametrize("linked", [False, True])
def test_under_any_name(external, pictures, tmp_path, name, linked):
    place = tmp_path / name
    root = as_the_hub_caches(external, place) if linked else shutil.copytree(external, place)
    same(encoded(root, pictures), encoded(external, pictures))


def test_in_a_read_only_place(external, pictures, tmp_path):
    root = shutil.copytree(external, tmp_path / "read-only")
    places = [root, *root.rglob("*")]
    try:
        for path in places:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = sorted(str(path) for path in root.rglob("*"))
        same(encoded(root, pictures), encoded(external, pictures))
        assert sorted(str(path) for path in root.rglob("*")) == before
    finally:
        for path in places:
            path.chmod(0o755)


# What a graph declares against what the manifest says


def changed(bundle, target, **values):
    root = shutil.copytree(bundle, target)
    m.seal(root, dataclasses.replace(m.read_manifest(root), **values))
    return root


def test_a_graph_of_another_image_size_is_named_before_an_image_is_made_ready(bundles, pictures, tmp_path):
    image = dataclasses.replace(
        m.read_manifest(bundles["clip"]).image, shortest_edge=4000, crop_height=4000, crop_width=4000
    )
    root = changed(bundles["clip"], tmp_path / "large", image=image)
    with pytest.raises(m.CheckpointError, match=r"which is not what icclip.json says \(32 instead of 4000"):
        encoded(root, pictures)


def test_a_graph_of_another_width_is_named(bundles, pictures, tmp_path):
    root = changed(bundles["clip"], tmp_path / "wide", embedding_dim=60_000)
    with pytest.raises(m.CheckpointError, match=r"which is not what icclip.json says \(16 instead of 60000"):
        encoded(root, pictures)
