from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from icclip.bundles.parity_record import read_parity


@pytest.mark.slow
def test_quickstart_leaves_a_run_a_picture_and_a_bundle(icclip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = icclip("quickstart", "--epochs", 1, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert Image.open(io.BytesIO(Path(result["pictures"]).read_bytes())).size > (500, 500)
    written = json.loads((tmp_path / result["run"] / "test_metric.json").read_text())
    assert written["t2i_R@1"] == result["metrics"]["t2i_R@1"]

    parity = read_parity(tmp_path / result["bundle"])
    assert [(own.precision, own.passed) for own in parity.results] == [("fp32", True), ("int8", True)]
    assert parity.results[0].metrics["t2i_R@1"] == pytest.approx(written["t2i_R@1"])

    again = icclip("quickstart")
    assert again.code == 2
    assert "--overwrite" in again.err


def test_what_is_missing_is_said_before_the_work(icclip, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "onnxscript" else find_spec(name))
    outcome = icclip("quickstart", "--output-dir", tmp_path / "q")
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert "needs onnxscript, not installed here: pip install 'icclip[export]'" in outcome.err
