from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from icclip.report.changes import moved_most
from icclip.report.comparison import verdict_line
from icclip.retrieval.comparison import compare
from icclip.retrieval.queries import QueryRanks, hits_of
from icclip.runs.ranks import SavedRanks, write_ranks

IMAGES, CAPTIONS = 40, 2


def direction(ranks):
    numbers = np.arange(len(ranks))
    nobody, ranks = np.full(len(ranks), -1), np.asarray(ranks)
    owner = numbers * IMAGES // len(ranks)
    return QueryRanks(numbers, owner, nobody, ranks, ranks, ranks / 100, np.empty((len(ranks), 0), np.int32))


def ranks_file(path, right, **about):
    """Of the captions and images, the first `right` images' are found first, and the rest at 20."""
    of_images = np.where(np.arange(IMAGES) < right, 1, 20)
    content = {"dataset": "photos", "split": "test", "relevance": "pair", "fingerprint": "f", "kinds": IMAGES,
               "images": IMAGES, "texts": IMAGES * CAPTIONS, **about}  # fmt: skip
    write_ranks(path, SavedRanks(content, direction(of_images), direction(np.repeat(of_images, CAPTIONS))))
    return path


@pytest.fixture
def files(tmp_path):
    return [ranks_file(tmp_path / f"{name}_ranks.parquet", right) for name, right in (("a", 10), ("b", 30), ("c", 11))]


def test_a_table_and_a_verdict_for_each_model(icclip, files):
    outcome = icclip("compare", *files)
    assert outcome.code == 0
    assert f"{files[1]} is better than {files[0]}: rsum +300.00, 95 % interval" in outcome.out
    assert f"There is no evidence that {files[2]} differs from {files[0]}: rsum +15.00" in outcome.out
    assert "points of rsum and more in four of five cases" in outcome.out
    row = next(line for line in outcome.out.splitlines() if "image to text R@1 " in line).split()
    assert row[4:7] == ["25.0", "75.0", "+50.00"]


def test_json_has_every_metric(icclip, files):
    found = json.loads(icclip("compare", *files, "--json").out)
    assert (found["split"], found["images"]) == ("test", IMAGES)
    first, second = found["comparisons"]
    assert first["with"] == str(files[0])
    assert first["metrics"]["t2i_R@1"]["difference"] == pytest.approx(0.5)
    assert first["metrics"]["rsum"]["significant"]
    assert not second["metrics"]["rsum"]["significant"]
    # One image of 40 moved: by Holm's method twice 1 is still 1.
    assert second["metrics"]["rsum"]["p"] == 1


def test_markdown_and_latex(icclip, tmp_path):
    one, other = ranks_file(tmp_path / "a_ranks.parquet", 10), ranks_file(tmp_path / "b|c_ranks.parquet", 30)
    markdown = icclip("compare", one, other, "--markdown").out.splitlines()
    assert markdown[0].count("|") == 5  # four of the table and an escaped one
    assert "b\\|c_ranks.parquet" in markdown[0]
    assert markdown[2] == "| image to text R@1 | 25.0 | 75.0 (+50.00 *) |"
    latex = icclip("compare", one, other, "--latex").out
    assert r"b|c\_ranks.parquet \\" in latex
    assert r"image to text R@1 & 25.0 & 75.0 (+50.00 *) \\" in latex
    assert latex.rstrip().splitlines()[-1].startswith("% ")


def test_a_loss_fails_where_it_is_not_allowed(icclip, files):
    worse = icclip("compare", files[1], files[0], "--fail-below", "-2")
    assert worse.code == 3
    assert "has an rsum 300.00 points lower than" in worse.err
    assert "--fail-below asks for -2 at least" in worse.err
    assert icclip("compare", files[0], files[1], "--fail-below", "0").code == 0
    barely = icclip("compare", files[0], files[2], "--fail-below", "20")
    assert barely.code == 3
    assert "15.00 points higher" in barely.err


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"split": "validation"}, "was measured on split validation, not test"),
        ({"relevance": "text"}, "was measured on relevance text, not pair"),
        ({"fingerprint": "g"}, "was measured on other images or captions"),
    ],
)
def test_different_data_is_refused(icclip, tmp_path, about, says):
    one, other = ranks_file(tmp_path / "a_ranks.parquet", 10), ranks_file(tmp_path / "b_ranks.parquet", 10, **about)
    outcome = icclip("compare", one, other)
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_cannot_be_compared(icclip, files, tmp_path):
    alone = icclip("compare", files[0])
    assert (alone.code, "give at least two to compare" in alone.err) == (2, True)
    picture = icclip("compare", *files, "--picture", tmp_path / "a.gif")
    assert "--picture is" in picture.err
    assert "give a name that ends in .png or .jpg" in picture.err
    without_images = icclip("compare", *files, "--picture", tmp_path / "a.png")
    assert without_images.code == 2
    assert "--picture shows images, and saved ranks hold none: give --dataset as well" in without_images.err


def test_queries_that_do_not_match_are_refused(icclip, tmp_path):
    one = ranks_file(tmp_path / "a_ranks.parquet", 10)
    content = {"split": "test", "relevance": "pair", "fingerprint": "f", "kinds": IMAGES}
    write_ranks(tmp_path / "b_ranks.parquet", SavedRanks(content, direction([1] * IMAGES), direction([1] * IMAGES)))
    outcome = icclip("compare", one, tmp_path / "b_ranks.parquet")
    assert outcome.code == 2
    assert "answer different queries" in outcome.err


def test_runs_are_measured_where_they_have_no_ranks_and_compared_without_encoding_where_they_have(
    icclip, run_directory, tmp_path
):
    one, other = tmp_path / "one", tmp_path / "other"
    for copy in (one, other):
        shutil.copytree(run_directory, copy, ignore=shutil.ignore_patterns("*_metric.json", "*.parquet"))
    outcome = icclip("compare", one, other, "--picture", tmp_path / "changes.png")
    assert outcome.code == 0
    assert f"{one} has no saved ranks of the test split: measuring it" in outcome.err
    assert f"{other} answers every query as {one} does." in outcome.out
    with Image.open(tmp_path / "changes.png") as picture:
        assert picture.width > 100
    (one / "model.safetensors").unlink()
    again = icclip("compare", one, other)
    assert (again.code, "measuring" in again.err) == (0, False)


def test_what_moved_most_is_told_by_the_ratio_of_ranks():
    before, now = direction([2, 20, 5, 1, 100]), direction([1, 12, 5, 3, 101])
    won, lost = moved_most(before, now)
    assert (won.tolist(), lost.tolist()) == ([0, 1], [3, 4])


def test_a_worse_model_is_called_worse():
    good, bad = (hits_of(direction([rank] * IMAGES), direction([rank] * IMAGES), IMAGES) for rank in (1, 20))
    assert verdict_line("a", "b", compare(good, bad)).startswith("b is worse than a: rsum -600.00")
