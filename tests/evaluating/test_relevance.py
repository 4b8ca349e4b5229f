"""`icclip eval` on data whose captions repeat, with encoders that are known to be right, random or collapsed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from evaluating.fakes import HashEncoder
from PIL import Image

from icclip.retrieval.metrics import SEED_KEYS

COLOURS = [(25 * kind, 250 - 20 * kind, 7) for kind in range(10)]


class RandomEncoder(HashEncoder):
    """Knows nothing: every image and every text has a direction of its own."""

    def encode_images(self, images, *, batch_size=128):
        return self._random(range(len(images)), "image")

    def encode_texts(self, texts, *, batch_size=256):
        return self._random(texts, "text")

    def _random(self, keys, kind):
        return self._unit([f"{kind} {key}" for key in keys], 16)


def picture(number, colour):
    """Of its colour in the corner, and of its own elsewhere."""
    image = Image.new("RGB", (4, 4), (number % 256, 3, 9))
    image.putpixel((0, 0), colour)
    return image


def written(directory, rows):
    """A manifest without splits."""
    lines = []
    for number, (image, captions) in enumerate(rows):
        image.save(directory / f"{number:03}.png")
        lines.append(json.dumps({"image": f"{number:03}.png", "captions": captions}))
    (directory / "test.jsonl").write_text("\n".join(lines))
    return directory / "test.jsonl"


@pytest.fixture
def class_names(tmp_path):
    """200 images of ten classes whose caption is the class, as HashEncoder names colours."""
    return written(tmp_path, [(picture(i, COLOURS[i % 10]), [repr(COLOURS[i % 10])]) for i in range(200)])


@pytest.fixture
def measure(icclip, monkeypatch, tmp_path):
    def run(data, *options, encoder=None, json_=True):
        monkeypatch.setattr("icclip.evaluating.run.open_encoder", lambda *_: encoder or HashEncoder())
        output = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        arguments = ("eval", "some/model", "--dataset", data, "--output-dir", output, *options)
        outcome = icclip(*arguments, *(["--json"] if json_ else []))
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out) if json_ else outcome

    return run


def test_a_perfect_model_scores_100_percent_where_captions_are_class_names(measure, class_names):
    metrics = measure(class_names)
    assert metrics["rsum"] == 600
    assert [metrics[f"{way}_{name}"] for way in ("i2t", "t2i") for name in ("R@1", "mAP", "mAP@R", "R-Precision")] == (
        pytest.approx([1] * 8)
    )
    assert metrics["confidence_95"]["rsum"] == [600, 600]
    # By pairs, the 19 other copies of an image's caption are wrong, and tied with it.
    assert metrics["relevance"]["protocol"] == "text"
    assert metrics["relevance"]["shared_captions"] == 200
    assert metrics["relevance"]["pair"]["i2t_R@1"] == metrics["relevance"]["pair"]["t2i_R@1"] == 0
    assert metrics["relevance"]["pair"]["i2t_MeanR"] == 20


def test_a_random_model_is_at_chance_and_a_collapsed_one_below_where_captions_are_class_names(measure, class_names):
    metrics = measure(class_names, encoder=RandomEncoder())
    assert metrics["i2t_R@1"] == pytest.approx(0.1, abs=0.06)
    # The expected average precision of 20 right answers in a random order of 200 (Bestgen 2015).
    harmonic = sum(1 / place for place in range(1, 201))
    assert metrics["t2i_mAP"] == pytest.approx((19 / 199 * (200 - harmonic) + harmonic) / 200, abs=0.03)
    assert measure(class_names, encoder=HashEncoder(value=1.0))["rsum"] == 0


def test_the_other_protocol_can_be_asked_for_and_both_are_in_the_file(measure, class_names):
    text, pair = measure(class_names), measure(class_names, "--relevance", "pair")
    assert {key: pair[key] for key in SEED_KEYS} == {key: text["relevance"]["pair"][key] for key in SEED_KEYS}
    assert {key: text[key] for key in SEED_KEYS} == {key: pair["relevance"]["text"][key] for key in SEED_KEYS}
    assert (text["about"]["relevance"], pair["about"]["relevance"]) == ("text", "pair")


def test_a_line_under_the_table_says_what_is_shared_and_what_the_other_protocol_gives(measure, class_names):
    outcome = measure(class_names, json_=False)
    said = " ".join(outcome.out.split())
    assert "200 of 200 captions belong to several images. Counted as right only for their own image" in said
    assert "(--relevance pair): i2t R@1 0.0 %, t2i R@1 0.0 %, rsum 0.0" in said
    assert "the same caption is right for every image that has it (--relevance text)" in outcome.err


def test_without_shared_captions_nothing_is_said(measure, tmp_path):
    data = written(tmp_path, [(picture(i, (i, 1, 1)), [repr((i, 1, 1))]) for i in range(20)])
    metrics = measure(data)
    assert metrics["relevance"] == {"protocol": "text", "shared_captions": 0, "duplicate_images": 0}
    assert "belong to several" not in measure(data, json_=False).out


def test_copies_of_an_image_are_one_answer(measure, tmp_path):
    colours = [COLOURS[i % 8] for i in range(16)]
    rows = [(Image.new("RGB", (4, 4), colour), [f"caption {i}", repr(colour)]) for i, colour in enumerate(colours)]
    metrics = measure(written(tmp_path, rows))
    assert metrics["relevance"]["duplicate_images"] == 8
    assert metrics["i2t_R@1"] == 1
    assert metrics["relevance"]["pair"]["i2t_R@1"] == 0
    said = " ".join(measure(tmp_path / "test.jsonl", json_=False).out.split())
    assert "16 of 32 captions belong to several images" not in said
    assert "8 of 16 images are copies of others." in said


def test_published_sets_keep_their_published_protocol(icclip, monkeypatch, tmp_path):
    from support.flickr import write_flickr8k

    monkeypatch.setattr("icclip.evaluating.run.open_encoder", lambda *_: HashEncoder())
    write_flickr8k(tmp_path / "copy")
    arguments = ("eval", "some/model", "--dataset", f"flickr8k@{tmp_path / 'copy'}", "--json", "--output-dir")
    assert json.loads(icclip(*arguments, tmp_path / "one").out)["relevance"]["protocol"] == "pair"
    found = json.loads(icclip(*arguments, tmp_path / "two", "--relevance", "text").out)
    assert found["relevance"]["protocol"] == "text"


def test_judgements_say_what_is_right(measure, class_names, tmp_path):
    """Of ten classes two look alike to the judges: either name is right for images of both, one a little less."""
    lines = [f"{i:03}.png 0 {j:03}.png#0 {2 if i % 10 == j % 10 else 1}" for i in range(0, 200, 10) for j in (0, 1)]
    (tmp_path / "judged.txt").write_text("\n".join(lines))
    metrics = measure(class_names, "--qrels", tmp_path / "judged.txt")
    assert metrics["relevance"]["protocol"] == metrics["about"]["relevance"] == "judged.txt"
    assert (metrics["n_images"], metrics["n_image_queries"], metrics["n_text_queries"]) == (200, 20, 2)
    # Nine of ten copies of its name are not judged, and tied with the one that is.
    assert metrics["i2t_MeanR"] == 20
    assert "pair" in metrics["relevance"]


def test_judgements_of_something_else_are_refused_before_the_model_is_loaded(icclip, class_names, tmp_path):
    (tmp_path / "judged.txt").write_text("000.png 0 000.png#0 1\nother.png 0 000.png#0 1")
    outcome = icclip(
        "eval", "some/model", "--dataset", class_names, "--qrels", tmp_path / "judged.txt", "--output-dir", tmp_path
    )
    assert outcome.code == 2
    assert "judged.txt, line 2: the split has no image or text called 'other.png'" in outcome.err
    assert "some/model" not in outcome.err


def test_numbers_counted_otherwise_are_kept(icclip, monkeypatch, class_names, tmp_path):
    monkeypatch.setattr("icclip.evaluating.run.open_encoder", lambda *_: HashEncoder())
    monkeypatch.chdir(tmp_path)
    arguments = ("eval", "some/model", "--dataset", class_names)
    assert icclip(*arguments).code == icclip(*arguments, "--relevance", "pair").code == 0
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["model-test", "model-test-pair"]
    outcome = icclip(*arguments, "--relevance", "pair", "--output-dir", tmp_path / "eval/model-test")
    assert outcome.code == 2
    assert "holds the metrics of relevance text" in outcome.err


# What is given to be measured ---------------------------------------------------------------------


def test_a_source_without_splits_is_measured_whole(measure, class_names):
    outcome = measure(class_names, json_=False)
    assert f"jsonl@{class_names}, all of it (it has no splits): 200 images, 200 captions" in outcome.err
    assert "has no validation or test split" not in outcome.err
    assert measure(class_names, "--split", "validation")["n_images"] == 200


def test_a_made_split_can_be_asked_for(measure, class_names):
    assert measure(class_names, "--val-fraction", 0.2)["n_images"] == 40


def test_splits_that_are_there_are_used_and_none_is_made(icclip, photos, tmp_path):
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(photos / "*.parquet"), split="train")
    for name, own in (("train", range(40)), ("test", range(40, 60))):
        rows.select(own).to_parquet(tmp_path / "split" / f"{name}-00000-of-00001.parquet")
    outcome = icclip("eval", "x/y", "--dataset", tmp_path / "split", "--split", "validation", "--output-dir", tmp_path)
    assert outcome.code == 2
    assert "unknown split 'validation'" in outcome.err
    assert "known: test, train" in outcome.err


def test_the_source_of_the_run_is_split_as_in_training(icclip, run_directory, photos, tmp_path):
    own = json.loads(icclip("eval", run_directory, "--dataset", photos, "--json", "--output-dir", tmp_path / "a").out)
    assert own["n_images"] == 12
    other = tmp_path / "copy"
    shutil.copytree(photos, other)
    found = json.loads(icclip("eval", run_directory, "--dataset", other, "--json", "--output-dir", tmp_path / "b").out)
    assert found["n_images"] == 60
    assert np.isfinite(found["rsum"])


def test_captions_that_do_not_fit_are_said_and_recorded(icclip, run_directory, tmp_path):
    rows = [(picture(i, (i, 1, 1)), [f"number {i}" if i else "painted " * 60]) for i in range(12)]
    data = written(tmp_path, rows)
    outcome = icclip("eval", run_directory, "--dataset", data, "--output-dir", tmp_path / "out", "--json")
    about = json.loads(outcome.out)["about"]["cut_captions"]
    assert about["count"] == 1
    assert about["longest"] > about["limit"]
    said = f"warning: 1 of 12 captions are longer than the {about['limit']} tokens that the text tower reads"
    assert f"{said}; the longest has {about['longest']}" in outcome.err


def test_captions_that_fit_are_not_mentioned(icclip, run_directory):
    outcome = icclip("eval", run_directory, "--json")
    assert "cut_captions" not in json.loads(outcome.out)["about"]
    assert "text tower reads" not in outcome.err
