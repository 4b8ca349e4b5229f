"""`icclip export` from end to end, on untrained checkpoints and drawn images."""

from __future__ import annotations

import json
import re
import resource
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from icclip.bundles.golden import read_golden
from icclip.bundles.manifest import check_files, read_manifest
from icclip.bundles.parity_record import read_parity
from icclip.config import DatasetConfig, EncoderConfig, ExportConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.evaluating.run import evaluate_split
from icclip.plugins import OpenRequest
from icclip.plugins.registry import Registry
from icclip.runtime import Encoder
from icclip.runtime.cpu import integer_kind
from icclip.verifying.run import _check_retrieval
from icclip_export.bundle import _checkpoint, fingerprint
from icclip_export.onnx.exporters import choose_exporter
from icclip_export.precisions.search import fewest_kept

# Recall and centred cosines of an untrained model turn on differences that mean nothing.
LOOSE = [
    *(f"--threshold={name}=1" for name in ("drop_r1", "drop_r5", "drop_r10")),
    *(f"--threshold={name}=0" for name in ("top10_overlap", "centred_min_cosine", "centred_mean_cosine")),
]
FEW = ("--dataset", "shapes", "--sample", "24", "--provider", "cpu")


@pytest.fixture(scope="module")
def outcomes(checkpoints, tmp_path_factory):
    """Family -> (bundle, JSON) of one export with every precision."""
    from icclip.exporting.request import export_config
    from icclip.exporting.run import export

    found = {}
    for family, checkpoint in checkpoints.items():
        registry = Registry(load_plugins=frozenset())
        options = {
            "output_dir": tmp_path_factory.mktemp("bundles") / family,
            "precisions": ("fp32", "fp16", "int8"),
            "sample": 24,
        }
        loose = dict(one.removeprefix("--threshold=").split("=") for one in LOOSE)
        thresholds = {name: float(number) for name, number in loose.items()}
        encoder = {"checkpoint": str(checkpoint), "provider": "cpu"}
        said = {"encoder": encoder, "data": {"name": "shapes"}, "thresholds": thresholds}
        config = export_config(registry, {**said, **options})
        found[family] = export(config, registry, Reporter(silent=True))
    return found


@pytest.fixture
def outcome(outcomes, family):
    return outcomes[family]


def test_the_bundle_has_the_files_that_others_look_for(outcome):
    names = {path.relative_to(outcome.bundle).as_posix() for path in outcome.bundle.rglob("*") if path.is_file()}
    graphs = {f"onnx/{t}_model{p}.onnx" for t in ("vision", "text") for p in ("", "_fp16", "_int8")}
    own = {"icclip.json", "parity.json", "config.json", "preprocessor_config.json", "tokenizer.json"}
    assert graphs | own | {"tokenizer_config.json", "golden/texts.json", "golden/000.png"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".tmp"))]


def test_every_file_is_hashed_and_the_parity_is_recorded(outcome):
    manifest = read_manifest(outcome.bundle)
    check_files(outcome.bundle, manifest)
    assert "parity.json" in manifest.files
    parity = read_parity(outcome.bundle)
    assert [(result.precision, result.passed) for result in parity.results] == [
        ("fp32", True), ("fp16", True), ("int8", True),
    ]  # fmt: skip
    assert (parity.dataset, parity.split, parity.n_images, parity.smoke) == ("shapes", "test", 24, True)
    assert json.dumps(outcome.parity.to_mapping()) == json.dumps(parity.to_mapping())
    int8 = parity.results[2]
    assert int8.attempts >= 1
    assert all(search.tried >= int8.attempts for search in int8.search.values())
    assert (parity.results[0].attempts, parity.results[0].search) == (1, {})
    assert outcome.sizes["int8"] < outcome.sizes["fp16"] < outcome.sizes["fp32"]


def test_the_record_says_how_far_neighbours_move_a_row(outcome):
    for result in read_parity(outcome.bundle).results:
        for moved in result.measured["neighbours"].values():
            assert moved["as_served"] <= result.thresholds.neighbours
        limits = {check["name"]: check["limit"] for check in result.measured["checks"]}
        assert limits["vision.neighbours"] == limits["text.neighbours"] == result.thresholds.neighbours
    # One scale for a whole batch would make it depend on the rows beside it.
    int8 = read_parity(outcome.bundle).result("int8").measured["neighbours"]
    assert {moved["as_served"] for moved in int8.values()} == {0.0}
    assert all(moved["in_a_batch"] > 0 for moved in int8.values())


def test_the_record_says_what_multiplied_integers(outcome):
    for result in read_parity(outcome.bundle).results:
        assert result.measured["cpu"] == integer_kind()


def test_verify_and_eval_measure_the_same(outcome):
    """Whatever batches either of them uses: a bundle has one embedding for an input."""
    gallery = load_gallery(
        Registry(load_plugins=frozenset()), DatasetConfig(name="shapes"), "validation", Reporter(silent=True)
    )
    encoder, gated = Encoder.open(outcome.bundle, "int8", "cpu"), read_parity(outcome.bundle).result("int8")
    evaluated = evaluate_split(encoder, gallery.images, gallery.relevance(), bootstrap=0)
    assert evaluated == evaluate_split(
        encoder, gallery.images, gallery.relevance(), image_batch=7, text_batch=5, bootstrap=0
    )
    found = {f.name.split()[1]: f.detail for f in _check_retrieval(encoder, gated, gallery, "int8:")}
    assert found.keys() == gated.recall_limits.keys()
    for key, detail in found.items():
        assert detail.startswith(f"{100 * evaluated[key]:.2f} %")


def test_the_manifest_says_what_the_checkpoint_is(outcome, loaded):
    manifest = read_manifest(outcome.bundle)
    assert manifest.model_type == loaded.model.config.model_type
    assert manifest.embedding_dim == 128
    assert manifest.logit_scale == loaded.model.logit_scale.item()
    assert (manifest.logit_bias is None) == (manifest.loss == "softmax")
    assert manifest.source.fingerprint == fingerprint(loaded.model.state_dict())
    assert manifest.data is not None
    assert (manifest.data.dataset, manifest.data.options["seed"]) == ("shapes", 42)
    assert {"torch", "onnxscript", "onnxruntime"} <= manifest.versions.keys()
    assert manifest.exporter == choose_exporter().name


@pytest.mark.parametrize(("precision", "cosine"), [("fp32", 1 - 1e-6), ("fp16", 0.9999), ("int8", 0.995)])
def test_the_runtime_gives_the_checkpoints_golden_embeddings(outcome, precision, cosine):
    golden = read_golden(outcome.bundle)
    encoder = Encoder.open(outcome.bundle, precision, "cpu")
    assert (encoder.encode_images(golden.images) * golden.image_embeddings).sum(1).min() > cosine
    assert (encoder.encode_texts(golden.texts) * golden.text_embeddings).sum(1).min() > cosine


def test_golden_inputs_carry_the_probes_and_the_record_says_what_was_exercised(outcome):
    golden = read_golden(outcome.bundle)
    names = [path.name for path in golden.images]
    assert names[0] == "000.png"
    assert {"004-exactly-the-models-size.png", "007-one-to-three.png"} <= set(names)
    assert "two dogs run across a field of snow" in golden.texts
    assert golden.scores is not None
    for result in read_parity(outcome.bundle).results:
        probes = result.measured["probes"]
        assert len(probes["images"]) == len(names) - 4
        assert min(probes["exercised"].values()) > 0
        assert {"probes.tokens", "probes.pixels"} <= {check["name"] for check in result.measured["checks"]}


def test_transformers_opens_the_bundles_processor(outcome, loaded):
    from transformers import AutoConfig, AutoProcessor

    processor = AutoProcessor.from_pretrained(outcome.bundle)
    assert AutoConfig.from_pretrained(outcome.bundle).model_type == loaded.model.config.model_type
    assert (
        processor.tokenizer(["A red square"])["input_ids"]
        == loaded.feeder.processor.tokenizer(["A red square"])["input_ids"]
    )
    assert processor.image_processor.size == loaded.feeder.processor.image_processor.size
    policy, golden, encoder = loaded.feeder.text_policy, read_golden(outcome.bundle), Encoder.open(outcome.bundle)
    texts = [text for text in golden.texts if text]
    ours = encoder.tokenization(texts)
    # Stock transformers with the bundle's own files, as the model card says it.
    theirs = processor(
        text=texts, padding=policy.padding, max_length=policy.max_length, truncation=True, return_tensors="np"
    )
    assert set(theirs) == set(policy.inputs)
    np.testing.assert_array_equal(theirs["input_ids"], ours)


def test_the_target_opens_what_it_wrote(outcome, registry):
    encoder = registry.export_target("onnx").open(OpenRequest(path=outcome.bundle, reporter=Reporter(silent=True)))
    assert encoder.encode_texts(["a"]).shape == (1, 128)


def test_the_checkpoint_is_measured_in_full_float32_and_comes_back(loaded, tmp_path):
    config = ExportConfig(
        encoder=EncoderConfig(checkpoint="any", device="cpu"),
        data=DatasetConfig(name="shapes"),
        output_dir=tmp_path,
        precisions=("fp32",),
    )
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with _checkpoint(loaded, config):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        assert loaded.model.device.type == "cpu"
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_fingerprints_tell_checkpoints_apart():
    state = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert fingerprint(state) == fingerprint(dict(reversed(state.items())))
    assert fingerprint(state) != fingerprint({"a": torch.ones(2), "b": torch.zeros(2)})
    assert fingerprint(state) != fingerprint({"a": torch.zeros(2), "c": torch.ones(2)})


def test_verify_measures_what_the_gate_measured_to_the_last_query(outcome, icclip):
    found = icclip("verify", outcome.bundle, "--dataset", "shapes", "--provider", "cpu", "--json")
    assert found.code == 0, found.err
    details = [check["detail"] for check in json.loads(found.out)["checks"] if "R@" in check["name"]]
    assert len(details) == 3 * 6
    for detail in details:
        now, before = re.match(r"(\S+) %, the gate measured (\S+) %", detail).groups()
        assert now == before


# The command


def test_the_command_prints_the_result_as_json(icclip, checkpoints, tmp_path):
    bundle = tmp_path / "bundle"
    outcome = icclip(
        "export", checkpoints["siglip"], "-o", bundle, "--precision", "fp16", *FEW, *LOOSE, "--json"
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["bundle"] == str(bundle)
    assert result["parity"]["results"][0]["passed"] is True
    # fp32 was only the way there.
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == [
        "text_model_fp16.onnx",
        "vision_model_fp16.onnx",
    ]


def test_a_failed_gate_keeps_the_bundle_under_another_name(icclip, checkpoints, tmp_path):
    bundle = tmp_path / "bundle"
    outcome = icclip("export", checkpoints["siglip"], "-o", bundle, *FEW, *LOOSE, "--threshold", "embedding_abs=0")
    assert outcome.code == 3
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: fp32 on cpu: vision.difference is ")
    assert last.endswith(f"the bundle is kept as {bundle}.failed")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.failed"]
    assert "fp32 on cpu: failed" in outcome.out
    assert re.search(r"largest difference +\S+ ✗ +\S+ ✗ +≤ 0.0e\+00", outcome.out)
    assert not read_parity(tmp_path / "bundle.failed").results[0].passed
    check_files(tmp_path / "bundle.failed", read_manifest(tmp_path / "bundle.failed"))


@pytest.mark.slow
def test_a_reduced_precision_that_fails_is_searched_again(icclip, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr("icclip_export.reduction.ATTEMPTS", 2)
    monkeypatch.setattr("icclip_export.precisions.conversion.fewest_kept", partial(fewest_kept, giving_back=2))
    outcome = icclip(
        "export", checkpoints["clip"], "-o", tmp_path / "b", "--precision", "int8", *FEW, *LOOSE,
        "--threshold", "similarity_abs=0",
    )  # fmt: skip
    assert outcome.code == 3
    searches = re.findall(r"int8 did not pass: searching the (\w+) tower again with stricter limits", outcome.err)
    # What failed is about both towers, so the one that is further from torch was made again, and then the other one.
    assert sorted(searches) == ["text", "vision"]
    assert [path.name for path in tmp_path.iterdir()] == ["b.failed"]
    result = read_parity(tmp_path / "b.failed").results[0]
    assert result.attempts == 3
    assert result.search[searches[0]].tried > 1


def test_engines_of_the_gate_lie_beside_the_bundle_not_the_staging_directory(
    icclip, checkpoints, tmp_path, monkeypatch
):
    seen, opened = [], Encoder.open

    def record(*arguments, engines=None, **options):
        seen.append(engines)
        return opened(*arguments, engines=engines, **options)

    monkeypatch.setattr(Encoder, "open", record)
    outcome = icclip("export", checkpoints["clip"], "-o", tmp_path / "b", *FEW, *LOOSE)
    assert outcome.code == 0, outcome.err
    assert seen == [tmp_path / "b-tensorrt"]


def test_what_is_there_under_the_failed_name_is_not_lost(icclip, checkpoints, tmp_path):
    (tmp_path / "b.failed").mkdir()
    (tmp_path / "b.failed" / "mine").touch()
    line = refused(icclip, tmp_path, checkpoints["clip"], "-o", tmp_path / "b", *FEW)
    assert "b.failed already exists and is not a bundle" in line


# Bad input: one line, and nothing half-written


def refused(icclip, tmp_path, *arguments):
    before = sorted(path.name for path in tmp_path.iterdir())
    outcome = icclip("export", *arguments)
    assert (outcome.code, outcome.out) == (2, ""), outcome
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return lines[0]


@pytest.fixture
def copied(checkpoints, tmp_path) -> Path:
    return shutil.copytree(checkpoints["clip"], tmp_path / "model")


def test_no_checkpoint(icclip, tmp_path):
    (tmp_path / "empty").mkdir()
    line = refused(icclip, tmp_path, tmp_path / "empty", "-o", tmp_path / "b", *FEW)
    assert "has no config.json: it is not a model directory" in line


def test_an_unsupported_model_type_names_the_supported_ones(icclip, copied, tmp_path):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "align"}))
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b", *FEW)
    assert "unknown model type 'align'" in line
    assert "known: clip, siglip, siglip2" in line


def test_a_missing_processor(icclip, copied, tmp_path):
    (copied / "preprocessor_config.json").unlink()
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b", *FEW)
    assert "has no preprocessor_config.json: copy it from the model it was trained from" in line


def test_weights_that_are_not_finite(icclip, copied, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(copied / "model.safetensors")
    state["text_projection.weight"][0, 0] = np.nan
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b", *FEW)
    assert "the weight text_projection.weight is not finite" in line


def test_a_directory_in_use(icclip, copied, tmp_path):
    line = refused(icclip, tmp_path, copied, "-o", copied, "--overwrite", *FEW)
    assert f"{copied} already exists and is not a bundle" in line


def test_no_disk(icclip, copied, tmp_path, monkeypatch):
    monkeypatch.setattr("icclip_export.bundle.needed_bytes", lambda parameters, precisions: 10**18)
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b", *FEW)
    assert "make room, or choose another --output-dir" in line


@pytest.fixture
def small_files():
    """No file can grow beyond 100 kB, as on a disk that fills up while the encoders are written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_fills_up_while_writing(icclip, checkpoints, tmp_path):
    line = refused(icclip, tmp_path, checkpoints["clip"], "-o", tmp_path / "b", *FEW)
    assert line == f"error: cannot write b to {tmp_path / 'b'}: File too large"


def test_an_onnxruntime_that_is_too_old(icclip, copied, tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.16.3")
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b", *FEW)
    assert "onnxruntime 1.16.3 is too old: pip install --upgrade 'onnxruntime>=1.20'" in line


def test_a_precision_that_does_not_exist(icclip, copied, tmp_path):
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b", "--precision", "fp8", *FEW)
    assert "unknown precision 'fp8'" in line
    assert "of the target 'onnx'" in line


def test_a_precision_given_twice(icclip, copied, tmp_path):
    twice = ("--precision", "fp16", "--precision", "fp16")
    assert "--precision names 'fp16' twice: leave one out" in refused(
        icclip, tmp_path, copied, "-o", tmp_path / "b", *twice, *FEW
    )


def test_a_checkpoint_that_does_not_say_its_data(icclip, copied, tmp_path):
    line = refused(icclip, tmp_path, copied, "-o", tmp_path / "b")
    assert "does not say what it was trained on: give --dataset" in line


def test_a_threshold_that_does_not_exist_is_said_before_anything_is_read(icclip, tmp_path):
    line = refused(
        icclip, tmp_path, tmp_path / "no-model", "-o", tmp_path / "b", "--threshold", "min_cos=1", "--dataset", "shapes"
    )  # fmt: skip
    assert "unknown threshold 'min_cos'; did you mean 'min_cosine'?" in line


@pytest.mark.parametrize(
    ("given", "answer"),
    [("drop_r1=low", "'low' is not a number"), ("drop_r1", "write it as --threshold NAME=NUMBER")],
)
def test_thresholds_are_numbers_by_name(icclip, tmp_path, given, answer):
    line = refused(icclip, tmp_path, tmp_path / "no-model", "-o", tmp_path / "b", "--threshold", given)
    assert f"--threshold {given}: {answer}" in line
