from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from icclip.report.page.build import page
from icclip.report.page.charts import MOST_POINTS, Axis, Series, bar_chart, interval_chart, line_chart, thinned
from icclip.report.page.html import Html, table, tag
from icclip.report.page.subject import Retrieval, Subject, Tile, Verdict
from icclip.retrieval.queries import QueryRanks
from icclip.runs.ranks import SavedRanks

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x1b[31m"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


class Reader(HTMLParser):
    """Every element with its attributes; complains about what is not closed."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def of(self, wanted):
        return [attributes for tag, attributes in self.elements if tag == wanted]


def queries(ranks):
    ranks = np.asarray(ranks)
    rows = np.arange(len(ranks))
    return QueryRanks(rows, rows, rows - len(rows), ranks, ranks, 1 / ranks, np.empty((len(ranks), 0), np.int32))


def subject(name="run", **others):
    metrics = {f"{way}_R@{k}": 0.5 for way in ("i2t", "t2i") for k in (1, 5, 10)}
    metrics |= {f"{way}_{what}": 2.0 for way in ("i2t", "t2i") for what in ("MedR", "MeanR")}
    metrics |= {"rsum": 300.0, "avg_best_cosine": 0.3, "n_images": 10.0, "n_texts": 10.0, "t2i_own": 7.0}
    metrics |= {"confidence_95": {"i2t_R@1": [0.4, 0.6]}, "relevance": {"shared_captions": 3, "duplicate_images": 1}}
    metrics["about"] = {"dataset": name, "leakage": [{"in": "train", "images": 2, "captions": 4}]}
    counts = {"positives": [0] * 60 + [5] * 20, "negatives": [0] * 40 + [9] * 40}
    values = {
        "split": "test",
        "record": {"config": {"epochs": 2, "lr": 1e-5, "data": {"name": name}}, "versions": {"icclip": "1"},
                   "model": {"parameters": 2_000_000}},
        "history": [{"step": 0, "eval_rsum": 10.0, **{f"eval_{key}": 0.1 for key in metrics if "R@" in key}},
                    {"step": 5, "loss": 2.0}, {"step": 10, "eval_rsum": 30.0, "eval_rsum_gain_low": 5.0,
                     "eval_rsum_gain_high": 35.0, **{f"eval_{key}": 0.2 for key in metrics if "R@" in key}}],
        "metrics": metrics,
        "ranks": SavedRanks({"cosines": counts}, queries([1, 3, 200]), queries([1, 1, 7])),
        "parity": {"results": [{"precision": "int8", "provider": "cpu", "passed": False, "metrics": metrics,
                                "measured": {"towers": {"vision": {"min_cosine": 0.99}}}}]},
        "commands": [f"icclip eval {name}"],
        "configuration": f"name = {name}",
        "retrievals": [
            Retrieval("t2i", best=False, rank=9, query=name, right=Tile(PIXEL, name), answers=[Tile(PIXEL, name, "", right=False)]),
            Retrieval("i2t", best=True, rank=1, query=Tile(PIXEL, name), right=name, answers=[(name, True), (name, False)]),
        ],
    }  # fmt: skip
    return Subject(name=name, **{**values, **others})


def test_every_section_is_there_and_says_what_was_measured():
    text = page("title", [subject(), subject("other")], [Verdict("other is better.")])
    found = Reader(text)
    anchors = [attributes["id"] for attributes in found.of("h2")]
    assert anchors == ["summary", "comparison", "recall", "progress", "training", "ranks", "cosines", "answers", "data",
                       "parity", "environment", "again"]  # fmt: skip
    assert [attributes["href"] for attributes in found.of("a")] == [f"#{anchor}" for anchor in anchors]
    words = " ".join(found.text)
    for said in ("other is better.", "+20.0 [+5.0, +35.0]", "2 images and 4 captions in train", "int8 on cpu", "failed",
                 "0.990000", "right answer at rank 9", "icclip eval run", "2.0 million", "t2i_own"):  # fmt: skip
        assert said in words, said


def test_what_came_from_data_stays_text():
    found = Reader(page(HOSTILE, [subject(HOSTILE, note=HOSTILE), subject()], [Verdict(HOSTILE)]))
    assert found.of("script") == []
    assert {attributes["src"] for attributes in found.of("img")} == {PIXEL}
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert HOSTILE.replace("\x1b", "\\x1b") in found.text


def test_the_page_asks_nobody_for_anything():
    text = page("title", [subject()])
    found = Reader(text)
    for _, attributes in found.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://", text)
    assert any("default-src 'none'" in attributes.get("content", "") for attributes in found.of("meta"))


def test_every_picture_has_words_and_every_table_a_name():
    found = Reader(page("title", [subject(), subject("other")], [Verdict("the same.")]))
    assert all(attributes["alt"] for attributes in found.of("img"))
    for attributes in found.of("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    assert len(found.of("caption")) == len(found.of("table")) > 10


def test_sections_without_content_are_left_out():
    bare = Subject(name="bare", split="test", note="nothing was measured")
    assert [attributes["id"] for attributes in Reader(page("title", [bare])).of("h2")] == ["summary"]


def test_a_line_chart_shows_every_value_on_its_place():
    chart = Reader(line_chart("loss", [Series("run", [(0, 4.0), (10, 2.0)]), Series("other", [(0, 3.0)])]))
    words = "|".join(chart.text)
    assert "run, step 10: 2" in words
    dashes = [attributes.get("stroke-dasharray") for attributes in chart.of("path") if "class" not in attributes]
    assert len(set(dashes)) == 2  # not by colour alone
    assert line_chart("loss", [Series("run", [])]) == ""


def test_an_axis_has_round_ticks_within_its_range():
    axis = Axis(0, 97, 0, 970)
    assert axis.ticks() == [0, 20, 40, 60, 80]
    assert axis(48.5) == 485
    assert Axis(0.00012, 0.0009, 0, 1).ticks() == [0.0002, 0.0004, 0.0006, 0.0008]


def test_long_curves_are_thinned_to_their_ends():
    points = [(float(n), 0.0) for n in range(10_000)]
    found = thinned(points)
    assert (len(found), found[0], found[-1]) == (MOST_POINTS, points[0], points[-1])
    assert thinned(points[:5]) == points[:5]


def test_bars_are_as_high_as_their_values():
    found = Reader(bar_chart("ranks", ["1", "2"], [("run", [20.0, 40.0])]))
    low, high = (float(attributes["height"]) for attributes in found.of("rect"))
    assert high == pytest.approx(2 * low, abs=0.2)
    assert "run, 2: 40 %" in found.text
    assert bar_chart("ranks", ["1"], []) == ""


def test_intervals_are_drawn_where_they_are_known():
    rows = [("R@1", [("run", 50.0, 40.0, 60.0), ("other", 10.0, None, None)])]
    words = interval_chart("recall", rows)
    assert "run, R@1: 50.0 %, 95 % interval 40.0 to 60.0 %" in words
    assert "other, R@1: 10.0 %<" in words
    assert interval_chart("recall", [("R@1", [])]) == ""


def test_elements_escape_what_is_not_html():
    assert tag("p", "<", Html("<b>"), ["&"], class_='"') == '<p class="&quot;">&lt;<b>&amp;</p>'
    assert "<td>&lt;b&gt;</td>" in table("t", ["a", "b"], [("x", "<b>")])


# What is measured when it is asked for

RECALLS = {f"{way}_R@{k}": 0.5 for way in ("i2t", "t2i", "i2i", "t2t") for k in (1, 5, 10)}
CHANGE = {"before": 0.6, "now": 0.5, "difference": -0.1, "low": -0.15, "high": -0.05, "p": 0.01, "detectable": 0.04}
CLASSES = {
    "a <dog>": {"n_images": 8, "top1": 0.25, "taken_for": "a cat", "share": 0.75},
    "a cat": {"n_images": 9, "top1": 1.0, "taken_for": None, "share": 0.0},
}
ZERO_SHOT = {
    "top1": 0.6, "top5": 0.9, "mean_per_class": 0.625, "n_images": 17, "n_classes": 2, "classes": CLASSES,
    "confidence_95": {"top1": [0.55, 0.65]}, "about": {"dataset": "animals", "split": "val", "templates": ["{}", "a {}"]},
}  # fmt: skip
AGAINST = {
    "model": "base", "base": True, "verdict": "run has forgotten some of what base could do.", "gain": "On its own data, more.",
    "metrics": {key: {**CHANGE, "significant": True} for key in ("top1", "top5", "mean_per_class")},
}  # fmt: skip


def measured(name="run", **more):
    return subject(name, metrics={**subject(name).metrics, **more})


def sections_of(*subjects):
    """The words of each section, by its anchor."""
    text = page("title", subjects, [Verdict("one")] * (len(subjects) - 1))
    found = {}
    for part in text.split("<section>")[1:]:
        anchor = re.search(r'<h2 id="([^"]+)"', part)
        found[anchor[1]] = " ".join(Reader(part.partition("</section>")[0]).text)
    return found


def test_folds_are_shown_with_their_number_and_size():
    mean = {
        **RECALLS,
        "n_images": 1000.0,
        "n_texts": 5000.0,
        "rsum": 512.34,
        "confidence_95": {"t2i_R@1": [0.45, 0.55]},
    }
    folds = {"count": 5, "mean": mean}
    said = sections_of(measured(folds=folds), measured("other", folds={**folds, "count": 4}), subject("none"))["folds"]
    for words in (
        "run, 5 folds",
        "other, 4 folds",
        "1,000",
        "5,000",
        "512.3",
        "45.0 .. 55.0",
        "Recall, text to image, mean",
    ):
        assert words in said, words
    assert "none" not in said


def test_retrieval_within_a_modality_is_shown_where_it_has_queries():
    captions = {**RECALLS, "t2t_queries": 5000, "t2t_MedR": 2.0, "t2t_MeanR": 7.25}
    images = {**captions, "i2i_queries": 30, "i2i_MedR": 4.0, "i2i_MeanR": 9.0}
    alone = sections_of(measured(within=captions), subject("none"))["within"]
    assert "Recall, text to text" in alone
    assert "image to image" not in alone
    assert "5,000" in alone
    assert "none" not in alone
    both = sections_of(measured(within=captions), measured("other", within=images))["within"]
    assert "Ranks, image to image" in both


def test_zero_shot_classes_are_shown_with_the_worst_and_what_was_forgotten():
    said = sections_of(subject(zero_shot={**ZERO_SHOT, "against": AGAINST}), subject("other", zero_shot=ZERO_SHOT))[
        "zero-shot"
    ]
    for words in ("animals, val", "55.0 .. 65.0", "a <dog>", "a cat", "75.0 %", "the 1 worst of 2 classes", "-10.00 *",
                  "run against base", AGAINST["verdict"], AGAINST["gain"]):  # fmt: skip
        assert words in said, words
    perfect = {**ZERO_SHOT, "classes": {"a cat": CLASSES["a cat"]}}
    assert "worst" not in sections_of(subject(zero_shot=perfect))["zero-shot"]


def test_a_model_that_was_only_classified_with_has_no_empty_sections():
    found = sections_of(Subject(name="run", split="test", zero_shot=ZERO_SHOT))
    assert list(found) == ["zero-shot"]
    assert not {"folds", "within", "zero-shot"} & set(sections_of(subject()))


def test_long_labels_leave_room_for_values():
    short, long = (interval_chart("t", [(label, [("run", 0.0, None, None)])]) for label in ("R@1", "mean per class"))
    left = [float(re.search(r'<line x1="([\d.]+)"', one)[1]) for one in (short, long)]
    assert left[1] > left[0] > 0
