from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_quickstart_leaves_a_run_and_a_picture(icclip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = icclip("quickstart", "--epochs", 1, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert Image.open(io.BytesIO(Path(result["pictures"]).read_bytes())).size > (500, 500)
    written = json.loads((tmp_path / result["run"] / "test_metric.json").read_text())
    assert written["t2i_R@1"] == result["metrics"]["t2i_R@1"]

    again = icclip("quickstart")
    assert again.code == 2
    assert "--overwrite" in again.err
