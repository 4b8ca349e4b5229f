from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from support.bundles import TEXTS
from support.images import photo

from icclip.bundles import manifest as m
from icclip.bundles.golden import read_golden, write_golden
from icclip.bundles.parity_record import (
    ParityRecord,
    PrecisionParity,
    Thresholds,
    captions_fingerprint,
    read_parity,
    sampled_rows,
    write_parity,
)
from icclip.console import Reporter
from icclip.data.gallery import Gallery, load_gallery
from icclip.errors import CheckpointError, UsageError
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import rank
from icclip.runtime import Encoder
from icclip.verifying.run import verify_bundle

QUIET = Reporter(silent=True)
REGISTRY = Registry(load_plugins=frozenset())
STRICT = Thresholds(min_cosine=1 - 1e-6, embedding_abs=1e-5, drop_r1=0.001, drop_r5=0.001, drop_r10=0.001)


def gate(bundle, data, *, passed=True, thresholds=STRICT, allowed=1 / 128):
    """What the exporter's gate leaves behind, measured for real."""
    images, captions = data.images, data.captions
    encoder = Encoder.open(bundle, provider="cpu")
    ranks = rank(encoder.encode_images(images), encoder.encode_texts(captions.texts), data.relevance())
    metrics = retrieval_metrics(ranks)
    result = PrecisionParity(
        precision="fp32", provider="cpu", passed=passed, thresholds=thresholds, metrics=metrics,
        recall_limits={f"{way}_R@{k}": allowed for way in ("i2t", "t2i") for k in (1, 5, 10)},
        failures=() if passed else ("vision: lowest cosine 0.5",),
    )  # fmt: skip
    record = ParityRecord(
        dataset="shapes", split="test", n_images=captions.n_images, n_texts=captions.n_texts, smoke=True,
        fingerprint=captions_fingerprint(captions), relevance="text", reference=metrics, results=(result,),
    )  # fmt: skip
    write_parity(bundle, record)
    m.seal(bundle, m.read_manifest(bundle))
    return record


@pytest.fixture(scope="module")
def data():
    return load_gallery(Registry(load_plugins=frozenset()), "shapes", "test", QUIET)


@pytest.fixture(params=["clip", "siglip"])
def gated(request, bundles, tmp_path, data):
    root = shutil.copytree(bundles[request.param], tmp_path / "gated")
    gate(root, data)
    return root


def failed(outcome):
    return [check.name for check in outcome.checks if not check.passed]


def test_a_good_bundle_verifies_wherever_it_is(gated, tmp_path, icclip):
    moved = shutil.copytree(gated, tmp_path / "somewhere" / "else")
    shutil.rmtree(gated)
    outcome = icclip("verify", moved, "--dataset", "shapes", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["passed"]
    names = [check["name"] for check in result["checks"]]
    golden = [f"fp32 on cpu: golden {what}" for what in ("images", "texts", "scores")]
    assert names[:5] == ["files", "fp32: gate", *golden]
    assert len(names) == 5 + 6
    assert names[5].startswith("fp32 on cpu: i2t_R@1 on shapes")


def test_people_get_a_table(gated, icclip):
    outcome = icclip("verify", gated)
    assert outcome.code == 0
    assert "golden images" in outcome.out
    assert "failed" not in outcome.out


def test_a_broken_file_is_a_failed_check_and_nothing_runs(gated, icclip):
    (gated / "onnx/text_model.onnx").write_bytes(b"")
    outcome = icclip("verify", gated)
    assert outcome.code == 3
    assert "does not verify: files: " in outcome.err
    assert "has 0 bytes instead of" in outcome.err
    assert "golden" not in outcome.out


def test_wrong_normalisation_fails_the_golden_images_alone(gated):
    manifest = m.read_manifest(gated)
    image = dataclasses.replace(manifest.image, mean=(0.1, 0.5, 0.9))
    m.seal(gated, dataclasses.replace(manifest, image=image))
    outcome = verify_bundle(gated, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["fp32 on cpu: golden images"]
    assert "lowest cosine with the checkpoint" in outcome.checks[2].detail


def test_a_manifest_without_its_digest_does_not_verify(gated):
    values = json.loads((gated / m.NAME).read_text())
    del values["digest"]
    (gated / m.NAME).write_text(json.dumps(values))
    outcome = verify_bundle(gated, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["files"]
    assert "icclip.json has no digest" in outcome.checks[0].detail


def test_a_manifest_that_was_changed_is_not_verified_at_all(gated):
    values = json.loads((gated / m.NAME).read_text())
    values["image"]["mean"] = [0.4, 0.5, 0.5]
    (gated / m.NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"icclip.json was changed after it was written"):
        verify_bundle(gated, registry=REGISTRY, reporter=QUIET)


def test_a_lost_end_token_fails_the_golden_texts_alone(gated):
    path = gated / "tokenizer.json"
    values = json.loads(path.read_text())
    values["post_processor"] = None
    path.write_text(json.dumps(values))
    m.seal(gated, m.read_manifest(gated))
    # CLIP's tower cannot run on an empty text that has lost its last token.
    check = {"clip": "runs", "siglip": "golden texts"}[m.read_manifest(gated).model_type]
    assert failed(verify_bundle(gated, registry=REGISTRY, reporter=QUIET)) == [f"fp32 on cpu: {check}"]


def test_a_small_difference_fails_where_the_cosine_does_not_see_it(gated):
    golden = read_golden(gated)
    nudged = golden.image_embeddings + np.float32(2e-5)
    np.save(gated / "golden/image_embeds.npy", nudged)
    m.seal(gated, m.read_manifest(gated))
    assert failed(verify_bundle(gated, registry=REGISTRY, reporter=QUIET)) == ["fp32 on cpu: golden images"]


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("clip", {"logit_scale": 4.6}),
        ("clip", {"loss": "sigmoid"}),
        ("siglip", {"logit_scale": 3.0}),
        ("siglip", {"logit_bias": -10.5}),
        ("siglip", {"loss": "softmax"}),
    ],
)
def test_scores_that_are_made_otherwise_fail(bundles, tmp_path, data, family, changed):
    root = shutil.copytree(bundles[family], tmp_path / "gated")
    gate(root, data)
    assert failed(verify_bundle(root, registry=REGISTRY, reporter=QUIET)) == []
    m.seal(root, dataclasses.replace(m.read_manifest(root), **changed))
    outcome = verify_bundle(root, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["fp32 on cpu: golden scores"]
    assert "differ from the checkpoint's by a factor of up to" in outcome.checks[-1].detail


def test_a_bundle_without_golden_scores_is_to_be_exported_again(gated):
    (gated / "golden/scores.json").unlink()
    m.seal(gated, m.read_manifest(gated))
    outcome = verify_bundle(gated, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["fp32 on cpu: golden scores"]
    assert outcome.checks[-1].detail.endswith("export again")


def test_golden_scores_for_other_texts_are_refused(gated):
    path = gated / "golden/scores.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "log_scores": values["log_scores"][1:]}))
    with pytest.raises(CheckpointError, match="does not hold a score for each of 5 texts"):
        read_golden(gated)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="golden cannot be read"):
        read_golden(gated)


def test_golden_images_keep_their_orientation_and_nothing_else_of_their_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "the camera's maker"
    image = photo(6, 4)
    image.info["exif"] = exif.tobytes()
    one = np.ones((1, 2), np.float32)
    write_golden(tmp_path, [image], ["a"], one, one, names=["one to three, the model's"])
    (path,) = read_golden(tmp_path).images
    assert path.name == "000-one-to-three-the-models.png"
    with Image.open(path) as kept:
        assert dict(kept.getexif()) == {0x0112: 6}


def test_embeddings_that_cannot_be_used_are_a_failed_check(gated):
    manifest = m.read_manifest(gated)
    m.seal(gated, dataclasses.replace(manifest, embedding_dim=5))
    outcome = verify_bundle(gated, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["fp32 on cpu: runs"]
    assert re.search(r"is not what icclip\.json says \(\d+ instead of 5", outcome.checks[-1].detail)


def test_golden_embeddings_of_another_shape(gated):
    golden = read_golden(gated)
    np.save(gated / "golden/text_embeds.npy", golden.text_embeddings[:, :3])
    m.seal(gated, m.read_manifest(gated))
    outcome = verify_bundle(gated, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["fp32 on cpu: golden texts"]
    assert f"the checkpoint gave ({len(TEXTS)}, 3)" in outcome.checks[-1].detail


def test_other_recall_than_the_gate_measured_fails(gated, icclip):
    record = read_parity(gated)
    result = record.results[0]
    wrong = {**result.metrics, "i2t_R@1": result.metrics["i2t_R@1"] + 0.5}
    write_parity(gated, dataclasses.replace(record, results=(dataclasses.replace(result, metrics=wrong),)))
    m.seal(gated, m.read_manifest(gated))
    outcome = icclip("verify", gated, "--dataset", "shapes")
    assert outcome.code == 3
    assert "i2t_R@1 on shapes" in outcome.err
    assert "may differ by 0.78" in outcome.err  # one of 128 images


def test_recall_may_move_as_far_as_the_gate_let_it(gated, data):
    record = gate(gated, data, allowed=0.05)
    for moved, passes in ((0.049, True), (0.051, False)):
        metrics = {**record.results[0].metrics, "t2i_R@5": record.results[0].metrics["t2i_R@5"] + moved}
        write_parity(
            gated, dataclasses.replace(record, results=(dataclasses.replace(record.results[0], metrics=metrics),))
        )
        m.seal(gated, m.read_manifest(gated))
        assert verify_bundle(gated, registry=REGISTRY, data=data, reporter=QUIET).passed is passes


def test_a_bundle_that_failed_its_gate_does_not_verify(gated, data):
    gate(gated, data, passed=False)
    outcome = verify_bundle(gated, registry=REGISTRY, reporter=QUIET)
    assert failed(outcome) == ["fp32: gate"]
    assert outcome.checks[1].detail == "vision: lowest cosine 0.5"


def test_a_precision_without_a_result_does_not_verify(gated):
    manifest = m.read_manifest(gated)
    precisions = {**manifest.precisions, "fp16": manifest.precisions["fp32"]}
    m.seal(gated, dataclasses.replace(manifest, precisions=precisions))
    assert failed(verify_bundle(gated, registry=REGISTRY, reporter=QUIET)) == ["fp16: gate"]
    assert verify_bundle(gated, registry=REGISTRY, precisions=["fp32"], reporter=QUIET).passed


def test_several_failures_are_counted(gated, icclip):
    for name in ("onnx/text_model.onnx", "onnx/vision_model.onnx"):
        (gated / name).unlink()
    assert "(2 of 2 checks failed)" in icclip("verify", gated).err


def test_other_data_than_the_gates_is_refused(gated):
    captions = CaptionMap.from_lists([["one"], ["two"]])
    data = Gallery([photo(9, 9), photo(8, 8)], captions, "mine, split test")
    with pytest.raises(UsageError, match=r"mine, split test \(2 images, 2 captions\) is not what parity.json was"):
        verify_bundle(gated, registry=REGISTRY, data=data, reporter=QUIET)


def test_what_cannot_be_verified_at_all_is_a_mistake_of_usage(bundles, tmp_path, icclip):
    assert icclip("verify", tmp_path).code == 2
    outcome = icclip("verify", bundles["clip"])
    assert outcome.code == 2
    assert "exported without the parity gate" in outcome.err
    assert "unknown precision 'int8'" in icclip("verify", bundles["clip"], "--precision", "int8").err


def test_right_answers_are_judged_as_in_the_gate(gated, icclip, tmp_path):
    (tmp_path / "judged.txt").write_text("0 0 0#0 1")
    outcome = icclip("verify", gated, "--dataset", "shapes", "--qrels", tmp_path / "judged.txt")
    assert outcome.code == 2
    assert "counted right answers by the protocol text, without judgements: leave out --qrels" in outcome.err
    path = gated / "parity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "relevance": "eccv.json"}))
    for options in ((), ("--qrels", tmp_path / "judged.txt")):
        outcome = icclip("verify", gated, "--dataset", "shapes", *options)
        assert outcome.code == 2
        assert "counted right answers as judged in eccv.json: give it with --qrels" in outcome.err


def test_a_dataset_needs_datasets(gated, icclip, monkeypatch):
    import sys

    for name in ("icclip.data.loading", "icclip.data.split"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    outcome = icclip("verify", gated, "--dataset", "shapes")
    assert outcome.code == 2
    assert "--dataset needs datasets, not installed here: pip install datasets" in outcome.err


def test_samples_are_repeatable_ascending_and_whole_where_small():
    assert sampled_rows(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    rows = sampled_rows(100, 10, 1)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 10
    assert rows.tolist() == sampled_rows(100, 10, 1).tolist() != sampled_rows(100, 10, 2).tolist()


def test_fingerprints_see_texts_and_whose_they_are():
    made = [captions_fingerprint(CaptionMap.from_lists(c)) for c in ([["a", "b"]], [["a"], ["b"]], [["a"], ["c"]])]
    assert len(set(made)) == 3
    assert made[0] == captions_fingerprint(CaptionMap.from_lists([["a", "b"]]))


def test_golden_files_that_are_broken_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"golden cannot be read"):
        read_golden(tmp_path)
    one = np.ones((1, 2), np.float32)
    write_golden(tmp_path, [photo(4, 4)], ["a", "b"], one, one)
    with pytest.raises(CheckpointError, match=r"golden holds \(1, 2\) images and texts for \(1, 1\) embeddings"):
        read_golden(tmp_path)
    np.save(tmp_path / "golden/image_embeds.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"golden cannot be read .*Python objects"):
        read_golden(tmp_path)
