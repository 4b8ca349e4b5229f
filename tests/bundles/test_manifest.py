from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from icclip.bundles import manifest as m
from icclip.bundles.parity_record import ParityRecord, PrecisionParity, Thresholds, read_parity, write_parity
from icclip.errors import CheckpointError, ConfigError, UnknownNameError


def example(**changes):
    manifest = m.Manifest(
        model_type="clip",
        backend="clip",
        loss="softmax",
        embedding_dim=8,
        logit_scale=2.5,
        source=m.Source(name="run", fingerprint="ab", parameters=10),
        text=m.TextInputs(padding="longest", max_length=16, lowercase=False, pad_id=1),
        image=m.ImageInputs(
            processor="CLIPImageProcessor",
            shortest_edge=32,
            crop_height=32,
            crop_width=32,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        vision_io=m.TowerIO(input="pixel_values", output="image_embeds"),
        text_io=m.TowerIO(input="input_ids", output="text_embeds"),
        opset=18,
        versions={"icclip": "0"},
        precisions={"fp32": m.TowerFiles(vision="onnx/vision_model.onnx", text="onnx/text_model.onnx")},
    )
    return dataclasses.replace(manifest, **changes)


@pytest.fixture
def sealed(tmp_path):
    root = tmp_path / "bundle"
    (root / "onnx").mkdir(parents=True)
    (root / "onnx/vision_model.onnx").write_bytes(b"vision")
    (root / "onnx/vision_model.onnx_data").write_bytes(b"weights")
    (root / "onnx/text_model.onnx").write_bytes(b"text")
    m.seal(root, example())
    return root


def edit(root, **changes):
    values = json.loads((root / m.NAME).read_text())
    values.update(changes)
    (root / m.NAME).write_text(json.dumps(values))


def test_what_is_sealed_reads_back_and_checks_even_when_moved(sealed, tmp_path):
    moved = shutil.copytree(sealed, tmp_path / "elsewhere")
    manifest = m.read_manifest(moved)
    towers = {"fp32": dataclasses.replace(manifest.precisions["fp32"], dynamic=None)}
    assert dataclasses.replace(manifest, files={}, digest=None, precisions=towers) == example()
    assert set(manifest.files) == {
        "onnx/vision_model.onnx", "onnx/vision_model.onnx_data", "onnx/text_model.onnx",
    }  # fmt: skip
    assert manifest.files["onnx/text_model.onnx"].size == 4
    m.check_files(moved, manifest)


def test_external_data_belongs_to_its_graph(sealed):
    manifest = m.read_manifest(sealed)
    assert manifest.files_of("onnx/vision_model.onnx") == ["onnx/vision_model.onnx", "onnx/vision_model.onnx_data"]
    assert manifest.files_of("onnx/text_model.onnx") == ["onnx/text_model.onnx"]


def test_missing_truncated_and_swapped_files_are_named(sealed):
    manifest = m.read_manifest(sealed)
    path = sealed / "onnx/text_model.onnx"
    path.write_bytes(b"tex")
    with pytest.raises(CheckpointError, match=r"text_model.onnx has 3 bytes instead of 4"):
        m.check_files(sealed, manifest, hashes=False)
    path.write_bytes(b"texx")
    m.check_files(sealed, manifest, hashes=False)
    with pytest.raises(CheckpointError, match=r"text_model.onnx is not the file that icclip.json describes"):
        m.check_files(sealed, manifest)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"text_model.onnx is missing: copy the bundle again"):
        m.check_files(sealed, manifest)
    with pytest.raises(CheckpointError, match=r"other.onnx is not listed in icclip.json"):
        m.check_files(sealed, manifest, ["other.onnx"])


def test_a_file_larger_than_the_read_buffer_hashes_as_a_whole(tmp_path):
    import hashlib

    content = bytes(range(256)) * 10_000
    (tmp_path / "big").write_bytes(content)
    assert m.record(tmp_path / "big") == m.FileRecord(sha256=hashlib.sha256(content).hexdigest(), size=2_560_000)


def test_no_bundle_no_json_and_run_directories_say_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a bundle: cannot read icclip.json .*icclip export"):
        m.read_manifest(tmp_path)
    path = tmp_path / m.NAME
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        m.read_manifest(tmp_path)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="is not a table of values"):
        m.read_manifest(tmp_path)
    path.write_text('{"format": 1, "config": {}}')
    with pytest.raises(CheckpointError, match=r"is not a bundle but a run directory: make one with `icclip export"):
        m.read_manifest(tmp_path)


def test_what_was_changed_afterwards_is_noticed(sealed):
    values = json.loads((sealed / m.NAME).read_text())
    edit(sealed, image={**values["image"], "mean": [0.4, 0.5, 0.5]})
    with pytest.raises(CheckpointError, match=r"icclip.json was changed after it was written \(its digest differs\)"):
        m.read_manifest(sealed)
    edit(sealed, image=values["image"])
    m.read_manifest(sealed)
    # Layout and the order of the keys are no change.
    (sealed / m.NAME).write_text(json.dumps(dict(reversed(json.loads((sealed / m.NAME).read_text()).items()))))
    assert m.read_manifest(sealed).digest == values["digest"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pooling": "mean"}, "holds pooling, which this icclip"),
        ({"text": {"padding": "longest", "prompt": "a photo of"}}, "holds text.prompt, which"),
        ({"precisions": {"fp32": {"vision": "a", "text": "b", "kernel": 1}}}, "holds precisions.fp32.kernel, which"),
    ],
)
def test_unknown_keys_say_that_a_newer_icclip_wrote_them(sealed, changes, named):
    edit(sealed, versions={"icclip": "9.1"}, **changes)
    with pytest.raises(CheckpointError, match=r"does not know: a newer one \(version 9.1\) wrote it") as caught:
        m.read_manifest(sealed)
    assert named in str(caught.value)


def test_dynamic_quantization_is_found_in_the_graphs(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/vision_model.onnx").write_bytes(b"x" * ((1 << 20) - 5) + b"DynamicQuantizeLinear")
    (tmp_path / "onnx/text_model.onnx").write_bytes(b"QuantizeLinear")
    assert m.seal(tmp_path, example()).precisions["fp32"].dynamic is True
    (tmp_path / "onnx/vision_model.onnx").write_bytes(b"QuantizeLinear")
    assert m.seal(tmp_path, example()).precisions["fp32"].dynamic is False


def test_names_lose_their_directories(sealed):
    source = m.Source(name="/home/me/runs/best", fingerprint="ab", parameters=10)
    data = m.ParityData(dataset="flickr8k@/data/f8k", split="test")
    manifest = m.seal(sealed, example(source=source, data=data))
    assert (manifest.source.name, manifest.data.dataset) == ("best", "flickr8k@f8k")
    assert m.read_manifest(sealed) == manifest


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 50_000])
def test_deep_json_is_refused(sealed, content):
    (sealed / m.NAME).write_text(content)
    with pytest.raises(CheckpointError, match=r"icclip.json is (nested too deeply|not valid JSON)"):
        m.read_manifest(sealed)
    assert not m.is_bundle(sealed)


def test_pipes_and_enormous_manifests_are_refused(sealed):
    import os

    (sealed / m.NAME).write_bytes(b" " * (17 << 20))
    with pytest.raises(CheckpointError, match=r"it has 17,825,792 bytes, more than 16,777,216"):
        m.read_manifest(sealed)
    (sealed / m.NAME).unlink()
    os.mkfifo(sealed / m.NAME)
    with pytest.raises(CheckpointError, match="is not a regular file"):
        m.read_manifest(sealed)
    assert not m.is_bundle(sealed)


def test_another_format_and_damage_are_refused(sealed):
    edit(sealed, format=2)
    with pytest.raises(CheckpointError, match="has format 2, but this icclip reads 1"):
        m.read_manifest(sealed)
    edit(sealed, format=1, opset="many")
    with pytest.raises(CheckpointError, match="is damaged: opset is 'many'"):
        m.read_manifest(sealed)
    values = json.loads((sealed / m.NAME).read_text())
    del values["text"]
    (sealed / m.NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="missing 'text'"):
        m.read_manifest(sealed)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "onnx/../../x", "C:\\x", ""])
def test_paths_that_leave_the_bundle_are_refused(sealed, path):
    edit(sealed, precisions={"fp32": {"vision": path, "text": "onnx/text_model.onnx"}})
    with pytest.raises(CheckpointError, match="leaves the bundle"):
        m.read_manifest(sealed)


def test_a_graph_without_a_hash_is_refused(sealed):
    edit(sealed, precisions={"fp32": {"vision": "onnx/other.onnx", "text": "onnx/text_model.onnx"}})
    with pytest.raises(CheckpointError, match=r"'onnx/other.onnx' has no hash"):
        m.read_manifest(sealed)


def test_sealing_checks_too(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ConfigError, match="has no hash"):
        m.seal(tmp_path, example())


def test_unknown_precision_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown precision 'fp8'.*known: fp32"):
        example().towers("fp8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_scale": float("nan")}, "logit_scale is nan: expected a finite number"),
        ({"logit_bias": float("inf")}, "logit_bias is inf"),
        ({"precisions": {}}, "precisions is empty"),
    ],
)
def test_contradictions_are_named(changes, message):
    assert any(message in problem for problem in example(**changes).problems())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 8}, "either shortest_edge, or height and width"),
        ({"crop_width": None}, "both crop_height and crop_width"),
        ({"crop_height": None, "crop_width": None}, "images would keep different sizes"),
        ({"mean": (0.5,)}, "mean has 1 values: give 3"),
        ({"std": None}, "both mean and std"),
    ],
)
def test_impossible_preprocessing_is_named(changes, message):
    assert any(message in p for p in dataclasses.replace(example().image, **changes).problems())


def test_a_length_of_nothing_is_refused():
    assert dataclasses.replace(example().text, max_length=0).problems() == ["max_length is 0: give at least 1"]


def parity_record():
    thresholds = Thresholds(min_cosine=0.999, drop_r1=0.01, drop_r5=0.01, drop_r10=0.01)
    result = PrecisionParity(
        precision="fp32", provider="CPU", passed=True, thresholds=thresholds, metrics={"i2t_R@1": 0.5}
    )
    return ParityRecord(
        dataset="shapes", split="test", n_images=3, n_texts=6, smoke=True, reference={"i2t_R@1": 0.5}, results=(result,)
    )


def test_parity_records_read_back(tmp_path):
    write_parity(tmp_path, parity_record())
    assert read_parity(tmp_path) == parity_record()
    assert read_parity(tmp_path).result("fp32").thresholds.min_cosine == 0.999
    assert read_parity(tmp_path).result("int8") is None


def test_parity_records_that_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no parity.json .*exported without the parity gate"):
        read_parity(tmp_path)
    (tmp_path / "parity.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_parity(tmp_path)
    (tmp_path / "parity.json").write_text('{"format": 7}')
    with pytest.raises(CheckpointError, match="has format 7, but this icclip reads 1"):
        read_parity(tmp_path)


@pytest.mark.parametrize(
    ("table", "values", "said"),
    [
        ("image", {"crop_height": 0, "crop_width": 0}, "crop_height is 0: give 1 to 4,096 pixels"),
        ("image", {"shortest_edge": 10**9}, "shortest_edge is 1000000000: give 1 to 4,096 pixels"),
        ("image", {"resample": 99}, "resample is 99: give one of PIL's filters, 0 to 5"),
        ("image", {"rescale_factor": 0.0}, "rescale_factor is 0.0: give a finite number that is not 0"),
        ("image", {"std": [0.5, 0.0, 0.5]}, "mean and std: give finite numbers, and none that is 0 in std"),
        ("image", {"mean": {"a": 1}}, "image.mean is {'a': 1}: expected a list"),
        ("text", {"max_length": 10**6}, "max_length is 1000000: give at most 32,768"),
        ("text", {"pad_id": -1}, "pad_id is -1: give the number of a token"),
        ("", {"embedding_dim": 0}, "embedding_dim is 0: give 1 to 65,536"),
        ("", {"logit_scale": 1e9}, "logit_scale is 1000000000.0: give the logarithm of a temperature, at most 50"),
    ],
)
def test_numbers_out_of_range_are_named(sealed, table, values, said):
    content = json.loads((sealed / m.NAME).read_text())
    (content[table] if table else content).update(values)
    (sealed / m.NAME).write_text(json.dumps(content | {"digest": None}))
    with pytest.raises(CheckpointError, match=r"icclip.json is damaged: ") as error:
        m.read_manifest(sealed)
    assert said in str(error.value)


def test_a_name_that_is_too_long_for_the_system_is_a_problem(sealed):
    name = "x" * 5000
    edit(
        sealed,
        files={**json.loads((sealed / m.NAME).read_text())["files"], name: {"sha256": "0", "size": 1}},
        digest=None,
    )
    assert "cannot be looked at" in m.file_problem(sealed, m.read_manifest(sealed), name)
