from __future__ import annotations

import json

import numpy as np
import pytest

from icclip.errors import DataError
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.judgements import names_of_images, read_judged, read_relevance
from icclip.retrieval.relevance import Relevance

CAPTIONS = CaptionMap.from_lists([["a dog", "one dog"], ["a cat"], ["a bird", "a tit"]])
NAMES = ["images/COCO_val2014_000000391895.jpg", "images/b.png", None]


def read(tmp_path, content, name="judged.txt", names=NAMES):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return read_relevance(path, CAPTIONS, names)


def right(relevance):
    return {(image, text) for image in range(3) for text in relevance.texts_of(image).tolist()}


def test_trecs_layout_with_grades(tmp_path):
    relevance = read(tmp_path, "b.png 0 COCO_val2014_000000391895.jpg#1 2\n\n2#0\t0\tb\t1\nb 0 b#0 0\n")
    assert right(relevance) == {(1, 1), (1, 3)}
    assert relevance.grades.tolist() == [2, 1]
    assert relevance.protocol == "judged.txt"


@pytest.mark.parametrize(
    "content",
    [
        {"391895": {"391895#0": 1, "a tit": 1}, "b": {"b#0": 1}},
        {"391895": ["391895#0", "A  TIT"], "b#0": ["b"]},
        {"a dog": [391895], "a tit": {"391895": 1}, "a cat": ["1"]},
    ],
    ids=["grades", "lists", "texts ask"],
)
def test_json_layouts_of_the_same_judgements(tmp_path, content):
    relevance = read(tmp_path, content, "judged.json")
    assert right(relevance) == {(0, 0), (0, 4), (1, 2)}
    assert relevance.grades is None


IDS = {"900": ("COCO_val2014_000000391895.jpg", 1), "1": ("b.png", 0), "391895": ("2", 1), "7": ("elsewhere.jpg", 0),
       "8": ("b.png", 5)}  # fmt: skip
"""Captions' ids: "1" and "391895" are names of images as well; two are of captions that the split does not hold."""


@pytest.mark.parametrize(
    "content",
    [
        {"391895": ["900", "1"], "1": ["391895"]},
        {"900": [391895], "1": [391895], "391895": [1]},
        "391895 0 900 1\n391895 0 1 1\n1 0 391895 1\n",
    ],
    ids=["images ask", "captions ask", "TREC"],
)
def test_captions_are_called_by_their_ids(tmp_path, content):
    path = tmp_path / ("judged.json" if isinstance(content, dict) else "judged.txt")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert right(read_relevance(path, CAPTIONS, NAMES, IDS)) == {(0, 1), (0, 2), (1, 4)}


def test_ids_of_captions_that_the_split_lacks_are_unknown(tmp_path):
    for name in ("7", "8"):
        (tmp_path / "judged.txt").write_text(f"391895 0 {name} 1")
        with pytest.raises(DataError, match=f"the split has no image or text called '{name}'"):
            read_relevance(tmp_path / "judged.txt", CAPTIONS, NAMES, IDS)


def test_a_file_of_windows(tmp_path):
    (tmp_path / "judged.txt").write_bytes(b"\xef\xbb\xbfb.png 0 b.png#0 1\r\n")
    assert right(read_relevance(tmp_path / "judged.txt", CAPTIONS, NAMES)) == {(1, 2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("b 0 b#0 1\nb b#0 1", r"judged.txt, line 2: expected QUERY 0 ANSWER GRADE, got 3 columns: 'b b#0 1'"),
        ("b 0 b#0 high", r"line 1: the grade is 'high': expected a number"),
        ("b 0 b#0 nan", r"line 1: the grade is 'nan': expected a number"),
        ("b 0 c#0 1", r"line 1: the split has no image or text called 'c#0'; its first image is called"),
        ("b 0 a_cat 1", r"line 1: the split has no image or text called 'a_cat'"),
        ("b 0 b#1 1", r"line 1: 'b#1' does not exist: that image has 1 captions, from #0"),
        ("b 0 2 1", r"line 1: 'b' and '2' are both images: a judgement is about an image and a text \(IMAGE#K\)"),
        ("b#0 0 2#0 1", r"line 1: 'b#0' and '2#0' are both texts"),
        ("b 0 b#0 0", r"judged.txt has no right answers: give at least one grade above 0"),
        ("", r"has no right answers"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n", r"judged.json, line 2: not valid JSON"),
        ("[1]", r'line 1: expected \{"QUERY"'),
        ('{\n "b": 3}', r"line 2: the answers to 'b' are '3': expected"),
        ('{\n "b":\n {"b#0": null}}', r"line 2: the grade is 'None': expected a number"),
        ('{"b": ["b#0"],\n "\u00e9": ["b"]}', r"line 2: the split has no image or text called '\u00e9'"),
    ],
)
def test_what_is_wrong_in_json_is_said_with_file_and_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, "judged.json")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the judgements .*none.txt: No such file"):
        read_relevance(tmp_path / "none.txt", CAPTIONS, NAMES)
    (tmp_path / "latin.txt").write_bytes(b"b\xe9 0 b#0 1")
    with pytest.raises(DataError, match=r"latin.txt is not UTF-8 \(byte 1\): save it as UTF-8"):
        read_relevance(tmp_path / "latin.txt", CAPTIONS, NAMES)


def test_a_name_of_several_images_needs_its_path(tmp_path):
    names = ["one/a.jpg", "two/a.jpg", "two/b.jpg"]
    assert right(read(tmp_path, "two/a.jpg 0 one/a.jpg#0 1", names=names)) == {(1, 0)}
    with pytest.raises(DataError, match=r"line 1: several images of the split are called 'a.jpg': give their paths"):
        read(tmp_path, "a.jpg 0 two/b.jpg#0 1", names=names)


def test_a_file_name_comes_before_a_row(tmp_path):
    assert right(read(tmp_path, "1 0 b#0 1", names=["1.jpg", "b.jpg", "c.jpg"])) == {(0, 2)}


# One file for several splits --------------------------------------------------------------------------


def test_what_names_another_split_is_passed_over(tmp_path):
    path = tmp_path / "judged.txt"
    path.write_text("b 0 b#0 1\nother 0 other#0 1\nb 0 other#1 1\nother 0 b#0 1\n")
    others = names_of_images(["folder/other.jpg", None])
    judged = read_judged(path, CAPTIONS, NAMES, elsewhere=lambda name: name.split("#")[0] in others)
    assert judged.pairs.tolist() == [[1, 2]]
    assert others == {"folder/other.jpg", "other.jpg", "other"}
    path.write_text("b 0 b#0 1\nnowhere 0 b#0 1\n")
    with pytest.raises(DataError, match=r"line 2: the split has no image or text called 'nowhere'"):
        read_judged(path, CAPTIONS, NAMES, elsewhere=lambda name: name.split("#")[0] in others)


def test_rows_are_no_names_where_several_splits_are_judged(tmp_path):
    path = tmp_path / "judged.txt"
    path.write_text("1 0 1#0 1")
    assert read_judged(path, CAPTIONS, NAMES).pairs.tolist() == [[1, 2]]
    with pytest.raises(DataError, match=r"line 1: the split has no image or text called '1'"):
        read_judged(path, CAPTIONS, NAMES, by_row=False)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([0, 1, 2], [[0, 1], [1, 3], [2, 4]]), ([1, 2], [[0, 1], [1, 2]]), ([2, 0], [[1, 3], [0, 1]]), ([1], [])],
)
def test_what_is_judged_of_some_images(tmp_path, rows, expected):
    (tmp_path / "judged.txt").write_text("391895 0 391895#1 1\nb 0 2#0 2\n2 0 2#1 1")
    judged = read_judged(tmp_path / "judged.txt", CAPTIONS, NAMES).of_images(CAPTIONS, np.array(rows))
    assert sorted(judged.pairs.tolist()) == sorted(expected)
    if not expected:
        with pytest.raises(DataError, match=r"judged.txt has no right answers"):
            judged.relevance(CaptionMap.from_lists([["a cat"]]))


def test_judgements_are_added_to_what_captions_have_in_common():
    captions = CaptionMap.from_lists([["a dog"], ["A dog", "a cat"], ["a bird"]])
    relevance = Relevance.of(captions, "text").also(np.array([[2, 0], [2, 0], [0, 2]]))
    assert right(relevance) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 3)}
    assert relevance.protocol == "text"
