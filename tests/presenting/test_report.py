from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icclip.presenting.answers import chosen
from icclip.retrieval.queries import QueryRanks

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = shutil.which("node")
AXE = Path(os.environ.get("ICCLIP_TEST_AXE", Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"))
"""axe-core, where somebody has installed it: npm install axe-core."""


@pytest.fixture
def run(icclip, run_directory, tmp_path):
    """A run that was measured, in a place of its own."""
    directory = shutil.copytree(
        run_directory, tmp_path / "run", ignore=shutil.ignore_patterns("*_metric.json", "*.parquet")
    )
    assert icclip("eval", directory, "--bootstrap", "50").code == 0
    return directory


def test_a_run_becomes_a_page(icclip, run, tmp_path):
    outcome = icclip("report", run, "-o", tmp_path / "report.html", "--json")
    assert outcome.code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads(outcome.out)["bytes"] == len(text.encode()) < 5_000_000
    assert "Best and worst answers" in text
    assert text.count("data:image/jpeg;base64,") > 10
    assert "the colour (" in text
    assert str(tmp_path) not in text


def test_several_are_compared(icclip, run, tmp_path):
    shutil.copytree(run, tmp_path / "other" / "run")
    outcome = icclip("report", run, tmp_path / "other" / "run", "-o", tmp_path / "r.html", "--queries", "0")
    assert outcome.code == 0
    assert "run (2) answers every query as run (1) does." in outcome.out
    assert "data:image" not in (tmp_path / "r.html").read_text()


def test_metrics_alone_and_other_data(icclip, run, tmp_path):
    moved = tmp_path / "kept"
    moved.mkdir()
    for name in ("test_metric.json", "test_ranks.parquet"):
        shutil.copy(run / name, moved / name)
    assert icclip("report", moved / "test_metric.json", "-o", tmp_path / "r.html").code == 0
    assert "no images are shown, because its data cannot be read here" in (tmp_path / "r.html").read_text()
    (moved / "test_ranks.parquet").unlink()
    outcome = icclip("report", run, moved / "test_metric.json", "-o", tmp_path / "r.html", "--queries", "0")
    assert "cannot be compared with run: kept has no saved ranks" in outcome.out or "has no saved ranks" in outcome.out


def test_data_that_was_not_measured_is_not_shown(icclip, run, tmp_path):
    assert icclip("report", run, "-o", tmp_path / "r.html", "--dataset", "shapes").code == 0
    assert "is not what it was measured on" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "-o", "r.html"], "nowhere: there is no such run, bundle or file of metrics"),
        ([".", "-o", "r.html"], "holds no results: give a run, a bundle, or a file that icclip eval wrote"),
        ([".", "-o", "r.pdf"], "is r.pdf: give a name that ends in .html"),
    ],
)
def test_what_cannot_be_shown(icclip, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    outcome = icclip("report", *arguments)
    assert (outcome.code, says in outcome.err) == (2, True), outcome.err


def test_zero_shot_classes_are_shown_beside_retrieval_and_alone(icclip, run, tmp_path):
    Image.new("RGB", (40, 40), "red").save(place(tmp_path / "classes" / "test" / "red thing" / "a.png"))
    Image.new("RGB", (40, 40), "blue").save(place(tmp_path / "classes" / "test" / "blue thing" / "a.png"))
    data = f"classes@{tmp_path / 'classes'}"
    for where in (run, tmp_path / "elsewhere"):
        assert icclip("eval", run, "--zero-shot", "-d", data, "--bootstrap", "20", "-o", where).code == 0
    for where in (run, tmp_path / "elsewhere", tmp_path / "elsewhere" / "test_zero_shot_metric.json"):
        outcome = icclip("report", where, "-o", tmp_path / "r.html", "--queries", "0")
        assert outcome.code == 0, outcome.err
        text = (tmp_path / "r.html").read_text()
        assert "Zero-shot classification" in text
        assert ("Recall" in text) is (where == run)
        assert "there are no ranks" not in text


def test_folds_and_captions_among_themselves_are_shown(icclip, run, tmp_path):
    assert icclip("eval", run, "--bootstrap", "20", "--folds", "2", "--within").code == 0
    assert icclip("report", run, "-o", tmp_path / "r.html", "--queries", "0").code == 0
    text = (tmp_path / "r.html").read_text()
    assert "mean of folds" in text
    assert "Recall, text to text" in text


def place(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_metrics_that_cannot_be_read(icclip, tmp_path):
    (tmp_path / "test_metric.json").write_text("{")
    outcome = icclip("report", tmp_path, "-o", tmp_path / "r.html")
    assert outcome.code == 2
    assert "cannot read" in outcome.err


def test_data_that_was_read_for_one_model_serves_all_that_were_measured_on_it(icclip, run, tmp_path):
    """The second one does not say where its data lies."""
    moved = tmp_path / "kept"
    moved.mkdir()
    for name in ("test_metric.json", "test_ranks.parquet"):
        shutil.copy(run / name, moved / name)
    icclip("report", run, moved / "test_metric.json", "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "no images are shown" not in text
    assert "<title>Image-text retrieval: run and " in text
    assert text.count(": worst, image to text") == 2


def test_each_image_is_chosen_once():
    rows = np.arange(6)
    ranks = np.array([1, 1, 9, 9, 30, 1])
    cosines = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.5], np.float32)
    queries = QueryRanks(rows, rows // 2, rows * 0 - 1, ranks, ranks, cosines, np.empty((6, 0), np.int32))
    assert list(chosen(queries, 2, best=True)) == [0, 5]
    assert list(chosen(queries, 2, best=False)) == [4, 2]
    assert list(chosen(queries, 9, best=True)) == [0, 5, 3]


def browsed(page, *options):
    """What the browser makes of a page, and what it says about it."""
    words = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        *options,
        page.as_uri(),
    ]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return found.stdout, [line for line in found.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_renders_it_without_a_complaint(icclip, run, tmp_path):
    page = tmp_path / "report.html"
    icclip("report", run, "-o", page)
    document, console = browsed(page, "--dump-dom")
    assert console == []
    assert document.count("<section>") == page.read_text().count("<section>") > 0
    assert len(re.findall(r"<svg", document)) >= 5


def looked_at(page, tmp_path, *arguments):
    """What a browser sees on a desktop, on a phone and on paper."""
    script = Path(__file__).with_name("look.mjs")
    words = [NODE, "--experimental-websocket", script, BROWSER, tmp_path / "profile", page.as_uri(), *arguments]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=200, check=False)
    if "bad option" in done.stderr:
        pytest.skip("needs Node 20 or newer")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None or NODE is None, reason="needs Chromium and Node")
def test_it_fits_a_desktop_a_phone_and_paper(icclip, run, tmp_path):
    shutil.copytree(run, tmp_path / "other" / "run")
    page = tmp_path / "report.html"
    icclip("report", run, tmp_path / "other" / "run", "-o", page)
    found = looked_at(page, tmp_path)
    assert found["overflow"] == [False] * 5
    assert found["images"] > 10
    assert found["broken"] == 0
    assert (found["elsewhere"], found["console"]) == ([], [])
    # Paper is white and has no links to jump to, also where the screen is dark.
    assert (found["paper"], found["navigation"]) == ("rgb(255, 255, 255)", "none")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None or NODE is None or not AXE.is_file(), reason="needs Chromium, Node and axe-core")
def test_axe_finds_nothing(icclip, run, tmp_path):
    """On a desktop and on a phone, light and dark, and on paper."""
    page = tmp_path / "report.html"
    icclip("report", run, "-o", page)
    found = looked_at(page, tmp_path, AXE)["axe"]
    assert len(found) == 5
    assert not any(found.values()), found
