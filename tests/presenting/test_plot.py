from __future__ import annotations

import builtins
import json
from xml.etree import ElementTree as ET

import pytest

SVG = "{http://www.w3.org/2000/svg}"


def run(directory, losses, recalls):
    directory.mkdir(parents=True)
    lines = [{"step": step, "loss": loss} for step, loss in losses]
    lines += [{"step": step, "eval_mR@1": recall, "eval_rsum": 1.0} for step, recall in recalls]
    (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return directory


@pytest.fixture
def runs(tmp_path):
    return [run(tmp_path / f"{n}<&>" / "run", [(1, 3.0), (10, 1.0 + n)], [(0, 0.0), (10, 0.5)]) for n in range(2)]


def test_loss_and_recall_of_several_runs(icclip, runs, tmp_path):
    outcome = icclip("plot", *runs, "-o", tmp_path / "curves.svg", "--json")
    assert outcome.code == 0
    drawn = json.loads(outcome.out)["curves"]
    assert list(drawn) == ["training loss", "mean R@1 on the validation split, %"]
    assert drawn["training loss"] == ["run", "run (2)"]
    picture = ET.parse(tmp_path / "curves.svg").getroot()  # it is XML
    words = [one.text for one in picture.iter(f"{SVG}title")]
    assert "run (2), step 10: 2" in words
    assert "run, step 10: 50" in words
    dashes = {one.get("stroke-dasharray") for one in picture.iter(f"{SVG}path") if one.get("class") is None}
    assert len(dashes) == 2


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")])
def test_png_and_pdf(icclip, runs, tmp_path, name, begins):
    pytest.importorskip("matplotlib")
    assert icclip("plot", *runs, "-o", tmp_path / name).code == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_without_matplotlib(icclip, runs, tmp_path, monkeypatch):
    plain = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    outcome = icclip("plot", *runs, "-o", tmp_path / "a.png")
    assert outcome.code == 2
    assert "a picture in .png needs matplotlib, not installed here: pip install 'icclip[plot]'" in outcome.err


def test_what_cannot_be_drawn(icclip, runs, tmp_path):
    gif = icclip("plot", *runs, "-o", tmp_path / "a.gif")
    assert (gif.code, "give a name that ends in .svg, .png or .pdf" in gif.err) == (2, True)
    nothing = icclip("plot", tmp_path, "-o", tmp_path / "a.svg")
    assert (nothing.code, "has no metrics.jsonl with logged steps" in nothing.err) == (2, True)
    empty = run(tmp_path / "empty", [], [])
    (empty / "metrics.jsonl").write_text('{"step": 1}')
    early = icclip("plot", empty, "-o", tmp_path / "a.svg")
    assert (early.code, "has logged neither a loss nor a recall yet" in early.err) == (2, True)
