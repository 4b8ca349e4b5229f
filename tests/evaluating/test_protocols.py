"""Protocols that readers ask for: folds, one caption per image, and intervals for every metric."""

from __future__ import annotations

import json

import numpy as np
import pytest

from icclip.errors import PluginError
from icclip.plugins.specs import MetricSpec
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.metrics import values_by_query
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance
from icclip.testing import ConformanceError, check_metric


def test_folds_are_reported_beside_the_whole_split(icclip, run_directory, tmp_path):
    asked = ("eval", run_directory, "-o", tmp_path, "--device", "cpu", "--workers", 0, "--folds", 3, "--bootstrap", 20)
    outcome = icclip(*asked)
    assert outcome.code == 0, outcome.err
    assert "hub, test: 12 images, 24 captions" in outcome.out
    assert "hub, test, mean of 3 folds: 4 images, 8 captions" in outcome.out
    found = json.loads((tmp_path / "test_metric.json").read_text())
    assert (found["n_images"], found["folds"]["count"], found["folds"]["mean"]["n_images"]) == (12, 3, 4)
    # With a third of the wrong answers, every rank is at least as good.
    assert found["folds"]["mean"]["t2i_MeanR"] < found["t2i_MeanR"]
    assert "rsum" in found["folds"]["mean"]["confidence_95"]


def test_folds_divide_the_images(icclip, run_directory, tmp_path):
    outcome = icclip("eval", run_directory, "-o", tmp_path, "--folds", 5)
    assert outcome.code == 2
    assert "has 12 images, which do not make 5 folds of the same size: choose a number that divides it" in outcome.err
    assert "--folds is 1: it must be at least 2" in icclip("eval", run_directory, "--folds", 1).err


def test_one_caption_is_named_so_everywhere(icclip, run_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = icclip("eval", run_directory, "--device", "cpu", "--workers", 0, "--one-caption")
    assert outcome.code == 0, outcome.err
    assert "hub, test, the first caption of each image: 12 images, 12 captions" in outcome.out
    assert "the first caption of each image: 12 images, 12 captions" in outcome.err
    # The run's own results, of all captions, stay as they are.
    (path,) = (tmp_path / "eval").rglob("test_metric.json")
    assert path.parent.name.endswith("-text-one-caption")
    found = json.loads(path.read_text())
    assert (found["n_texts"], found["about"]["relevance"]) == (12, "text-one-caption")
    several = icclip("eval", run_directory, "--device", "cpu", "--workers", 0, "-o", path.parent)
    assert several.code == 2
    assert "holds the metrics of relevance text-one-caption: give another --output-dir" in several.err


@pytest.mark.parametrize("option", [("--folds", "3"), ("--one-caption",)])
def test_what_judgements_do_not_go_with(icclip, run_directory, option):
    outcome = icclip("eval", run_directory, "--qrels", "a.json", *option)
    assert outcome.code == 2
    assert (
        f"{option[0]} is about all captions and images of the split: leave it out, or leave out the judgements"
        in outcome.err
    )


def test_plugin_metrics_and_further_recalls_have_intervals(icclip, run_directory, tmp_path):
    outcome = icclip(
        "eval", run_directory, "-o", tmp_path, "--device", "cpu", "--workers", 0, "--at", "3", "--bootstrap", 50
    )
    assert outcome.code == 0, outcome.err
    intervals = json.loads((tmp_path / "test_metric.json").read_text())["confidence_95"]
    assert {"i2t_mAP", "t2i_nDCG@10", "t2i_MRR", "i2t_P@10", "t2i_R@3"} <= intervals.keys()
    (row,) = [line for line in outcome.out.splitlines() if "t2i_MRR" in line]
    assert " .. " in row


def ranked():
    relevance = Relevance.of(CaptionMap.from_lists([["a", "b"], ["c"]]), "pair")
    return rank(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[[0, 0, 1]], relevance)


@pytest.mark.parametrize("values", [{"t2i_x": np.ones(2)}, {"x": np.ones(3)}])
def test_values_by_query_that_fit_no_direction(values):
    spec = MetricSpec(name="mine", summary="", compute=lambda ranks: {}, by_query=lambda ranks: values)
    with pytest.raises(PluginError, match=r"metric 'mine' returned \(\d,\) values by query for .*: name it i2t_"):
        values_by_query(ranked(), [spec])


def test_the_conformance_kit_compares_values_by_query_with_the_metric():
    def first(ranks):
        return {"t2i_first": (ranks.t2i == 1).astype(float)}

    def mean(ranks):
        return {"t2i_first": float((ranks.t2i == 1).mean())}

    check_metric(MetricSpec(name="mine", summary="a share", compute=mean, by_query=first))
    wrong = MetricSpec(name="mine", summary="a share", compute=lambda ranks: {"t2i_first": 0.3}, by_query=first)
    with pytest.raises(ConformanceError, match=r"the mean of by_query is 1.0: expected what compute returns"):
        check_metric(wrong)


def test_retrieval_within_captions(icclip, run_directory, tmp_path):
    outcome = icclip(
        "eval", run_directory, "-o", tmp_path, "--device", "cpu", "--workers", 0, "--within", "--bootstrap", 20
    )
    assert outcome.code == 0, outcome.err
    within = json.loads((tmp_path / "test_metric.json").read_text())["within"]
    # Each of the 24 captions has one other of its image; no two images share one.
    assert (within["t2t_queries"], "i2i_queries" in within) == (24, False)
    assert "hub, test, within images and within captions" in outcome.out
    assert "text to text" in outcome.out
    assert "image to image " not in outcome.out


def test_images_of_a_class_answer_each_other(icclip, run_directory, tmp_path):
    from PIL import Image

    for name, number in ((name, number) for name in ("red", "blue") for number in range(3)):
        (tmp_path / "d" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (name == "red") * 255 + 20 * number).save(tmp_path / "d" / name / f"{number}.png")
    outcome = icclip(
        "eval", run_directory, "-d", tmp_path / "d", "-o", tmp_path, "--device", "cpu", "--workers", 0, "--within"
    )
    assert outcome.code == 0, outcome.err
    within = json.loads((tmp_path / "test_metric.json").read_text())["within"]
    assert (within["i2i_queries"], "t2t_queries" in within) == (6, False)
    assert " image to image " in outcome.out


def test_nothing_within_to_measure(icclip, run_directory, tmp_path):
    outcome = icclip("eval", run_directory, "-o", tmp_path, "--within", "--one-caption")
    assert outcome.code == 2
    assert "no two images share a caption and no image has two: nothing answers its own kind" in outcome.err
