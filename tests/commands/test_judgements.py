"""Right answers that people have judged, through every command that measures."""

from __future__ import annotations

import json

import pytest
from support.formats import karpathy

OF_VALIDATION = ["06.jpg 0 07.jpg#0 1", "07.jpg 0 08.jpg#1 1"]
OF_TEST = ["09.jpg 0 10.jpg#0 1", "09.jpg 0 11.jpg#1 1", "11.jpg 0 09.jpg#0 1"]
OF_TRAINING = ["00.jpg 0 04.jpg#1 1", "02.jpg 0 00.jpg#0 0"]
TRAINING = [
    "--device",
    "cpu",
    "--workers",
    0,
    "--report-to",
    "none",
    "--train-bs",
    3,
    "--max-steps",
    1,
    "--guard",
    "off",
]
LOOSE = [
    *(f"--threshold={name}=1" for name in ("drop_r1", "drop_r5", "drop_r10")),
    *(f"--threshold={name}=0" for name in ("top10_overlap", "centred_min_cosine", "centred_mean_cosine")),
]


@pytest.fixture
def data(tmp_path):
    return karpathy(tmp_path / "it")


@pytest.fixture
def judged(tmp_path):
    path = tmp_path / "judged.txt"
    path.write_text("\n".join([*OF_VALIDATION, *OF_TEST, *OF_TRAINING]))
    return path


def queries(metrics):
    return [metrics[name] for name in ("n_image_queries", "n_text_queries")]


@pytest.mark.slow
def test_training_evaluation_export_and_verification_follow_the_same_judgements(data, judged, tmp_path, icclip):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    made = icclip("train", "-m", "clip-tiny", "-d", data, "-o", run, "--qrels", judged, *TRAINING)
    assert made.code == 0, made.err
    for told in ("train: 1 right answer from ", "validation: 2 right answers from ", "test: 3 right answers from "):
        assert told in made.err
    assert str(judged) not in (run / "icclip.json").read_text()
    validation, test = (json.loads((run / f"{name}_metric.json").read_text()) for name in ("validation", "test"))
    assert validation["about"]["relevance"] == test["about"]["relevance"] == "judged.txt"
    assert queries(validation) == [2, 2]
    assert queries(test) == [2, 3]

    measured = icclip("eval", run, "--json", "--device", "cpu")
    assert measured.code == 0, measured.err
    found = json.loads(measured.out)
    assert {name: found[name] for name in test if name not in ("about", "confidence_95")} == {
        name: value for name, value in test.items() if name not in ("about", "confidence_95")
    }
    assert found["about"]["relevance"] == "judged.txt"

    by_text = icclip("eval", run, "--json", "--device", "cpu", "--relevance", "text", "-o", tmp_path / "by-text")
    assert by_text.code == 0, by_text.err
    assert json.loads(by_text.out)["about"]["relevance"] == "text"

    exported = icclip("export", run, "-o", bundle, "--provider", "cpu", "--sample", 2, *LOOSE, "--json")
    assert exported.code == 0, exported.err
    parity = json.loads(exported.out)["parity"]
    assert parity["relevance"] == "judged.txt"
    assert str(judged.parent) not in (bundle / "icclip.json").read_text() + (bundle / "parity.json").read_text()

    verify = ("verify", bundle, "-d", data, "--provider", "cpu", "--json")
    without = icclip(*verify)
    assert without.code == 2
    assert "the parity gate counted right answers as judged in judged.txt: give it with --qrels" in without.err
    verified = icclip(*verify, "--qrels", judged)
    assert verified.code == 0, verified.err + verified.out


def test_a_split_that_the_file_does_not_judge_is_said(data, judged, tmp_path, icclip):
    judged.write_text("\n".join(OF_TEST))
    made = icclip("train", "-m", "clip-tiny", "-d", data, "-o", tmp_path / "run", "--qrels", judged, *TRAINING)
    assert made.code == 0, made.err
    said = " ".join(made.err.split())
    assert "judged.txt judges nothing of the split validation, whose right answers follow --relevance text" in said
    assert "train: " not in said
    about = {
        name: json.loads((tmp_path / "run" / f"{name}_metric.json").read_text())["about"]["relevance"]
        for name in ("validation", "test")
    }
    assert about == {"validation": "text", "test": "judged.txt"}


def test_a_name_that_no_split_has_ends_training_before_it_begins(data, judged, tmp_path, icclip):
    judged.write_text("06.jpg 0 07.jpg#0 1\nnowhere.jpg 0 07.jpg#0 1")
    made = icclip("train", "-m", "clip-tiny", "-d", data, "-o", tmp_path / "run", "--qrels", judged, *TRAINING)
    assert made.code == 2
    assert "judged.txt, line 2: the split has no image or text called 'nowhere.jpg'" in made.err
    assert not (tmp_path / "run").exists()
