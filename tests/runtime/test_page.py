"""Every example of the page about the runtime runs as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.images import photo

PAGE = Path(__file__).parents[2] / "docs/pages/how-to/runtime.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
BEGIN = """
from pathlib import Path
bundle, photos = Path("bundle"), Path("photos")
"""


@pytest.fixture(scope="module")
def place(bundles, tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    shutil.copytree(bundles["clip"], root / "bundle")
    (root / "photos").mkdir()
    for seed, name in enumerate(("first", "second", "third")):
        photo(60, 40, seed=seed).save(root / f"photos/{name}.png")
    (root / "app.py").write_text("from icclip.runtime import Encoder\nencoder = Encoder.open('bundle')\n")
    return root


def heading(block):
    before = PAGE.read_text(encoding="utf-8").split(block)[0]
    return re.findall(r"^## (.*)$", before, re.MULTILINE)[-1]


def test_the_page_has_its_topics():
    topics = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"Open, encode, rank", "Limits", "Errors", "Threads", "Workers", "asyncio", "Memory and time"} <= set(topics)
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("block", BLOCKS, ids=heading)
def test_the_example_runs(block, place, pytestconfig):
    # gunicorn calls the hook with its server and worker.
    end = "\npost_fork(None, None)\n" if "def post_fork" in block else ""
    (place / "example.py").write_text(BEGIN + block + end)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=place, capture_output=True, text=True, timeout=120, check=False,
        env={"PYTHONPATH": str(pytestconfig.rootpath), "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout or "print" not in block
