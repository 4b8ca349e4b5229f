"""`icclip eval` on bundles: the numbers of the checkpoint that they were made from."""

from __future__ import annotations

import dataclasses
import json

import pytest
from support.bundles import write_bundle
from support.subjects import FAMILIES, subject

from icclip.bundles.manifest import ParityData, read_manifest, seal
from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.loading import load_splits
from icclip.data.split import SplitImages, caption_map
from icclip.errors import UsageError
from icclip.evaluating.request import evaluation_data
from icclip.evaluating.run import evaluate_split
from icclip.models.encoder import TorchEncoder
from icclip.plugins.registry import Registry
from icclip.retrieval.relevance import Relevance


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    return subject(request.param, tmp_path_factory.mktemp(request.param) / "bundle")


@pytest.fixture
def bundle(trained, tmp_path):
    write_bundle(trained.tiny, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_same_numbers_as_the_checkpoint(icclip, trained, bundle, tmp_path):
    manifest = read_manifest(bundle)
    # What the exporter writes: eval then needs nothing but the bundle.
    data = ParityData(dataset="shapes", split="validation", options={"seed": 7})
    seal(bundle, dataclasses.replace(manifest, data=data))
    outcome = icclip("eval", bundle, "--bootstrap", 0, "--output-dir", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    split = load_splits(Registry(), DatasetConfig(name="shapes", seed=7), Reporter(silent=True))["validation"]
    expected = evaluate_split(
        TorchEncoder(trained.loaded),
        SplitImages(split, "x"),
        Relevance.of(caption_map(split), "text"),
        bootstrap=0,
        metrics=Registry().default_metrics(),
    )
    found = json.loads((tmp_path / "out" / "validation_metric.json").read_text())
    about = found.pop("about")
    assert {key: value for key, value in found.items() if "R" in key} == {
        key: value for key, value in expected.items() if "R" in key
    }
    assert found["avg_best_cosine"] == pytest.approx(expected["avg_best_cosine"], abs=1e-6)
    assert "onnx fp32, cpu" in about["encoder"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "does not say what it was trained on: give --dataset"),
        (["--dataset", "shapes", "--bf16"], "unknown precision 'bf16'"),
        (["--dataset", "shapes", "--device", "cpu"], "is a bundle: give --provider, and leave out --device"),
        (["--dataset", "shapes", "--precision", "int8"], "unknown precision 'int8'"),
    ],
)
def test_what_a_bundle_cannot_do_is_one_line(icclip, bundle, arguments, message):
    outcome = icclip("eval", bundle, "--output-dir", bundle.parent / "out", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_options_of_bundles_are_refused_for_checkpoints(icclip, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    outcome = icclip("eval", tmp_path, "--dataset", "shapes", "--provider", "cpu")
    assert outcome.code == 2
    assert "is not a bundle: leave out --provider and --threads" in outcome.err


def test_each_precision_has_its_own_directory(icclip, bundle, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    outcome = icclip("eval", bundle, "--dataset", "shapes", "--precision", "fp32", "--bootstrap", 0)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "eval" / "bundle-fp32-shapes" / "test_metric.json").is_file()


def test_the_source_that_a_bundle_was_proven_on_is_split_as_then_and_another_one_is_measured_whole(bundle, photos):
    proven = ParityData(dataset=f"hub@{photos}", split="validation", options={"seed": 3, "val_fraction": 0.2})
    seal(bundle, dataclasses.replace(read_manifest(bundle), data=proven))
    registry = Registry(load_plugins=frozenset())
    for said in ({}, {"name": str(photos)}):
        data = evaluation_data(registry, str(bundle), said)
        assert (data.seed, data.val_fraction, data.whole) == (3, 0.2, False)
    other = evaluation_data(registry, str(bundle), {"name": "hub@owner/name"})
    assert (other.path, other.seed, other.whole) == ("owner/name", 42, True)
    assert not evaluation_data(registry, str(bundle), {"name": "hub@owner/name", "val_fraction": 0.3}).whole


def test_a_bundle_proven_on_data_that_is_not_to_be_had_measures_other_data(bundle, photos):
    gone = ParityData(dataset="of-a-plugin", split="test")
    seal(bundle, dataclasses.replace(read_manifest(bundle), data=gone))
    registry = Registry(load_plugins=frozenset())
    assert evaluation_data(registry, str(bundle), {"name": str(photos)}).whole
    with pytest.raises(UsageError, match="unknown dataset 'of-a-plugin'"):
        evaluation_data(registry, str(bundle), {})
