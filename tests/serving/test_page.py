"""The search page in a real browser without a window, driven over its debugging port; skipped where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from serving.test_stopping import service

__all__ = ["service"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def rendered(url, *options, tmp_path):
    """The page's document after its scripts have run."""
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
        "--virtual-time-budget=8000", *options, "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_search_in_the_address_is_shown(service, tmp_path):
    _, port = service
    page = rendered(f"http://127.0.0.1:{port}/?q=a+dog&k=5&filter=width+%3E+60", tmp_path=tmp_path)
    assert page.count('class="shot"') == 5
    assert "data:image/jpeg;base64," in page
    assert "5 results in" in page
    assert "12 images, searched with" in page
    wrong = rendered(f"http://127.0.0.1:{port}/?q=a&filter=colour", tmp_path=tmp_path)
    assert "which is no column" in wrong


NODE = shutil.which("node")
AXE = Path(os.environ.get("ICCLIP_TEST_AXE", Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"))
"""axe-core, where somebody has installed it: npm install axe-core."""


def browsed(port, tmp_path, *arguments):
    url = f"http://127.0.0.1:{port}/?q=a+dog&k=6"
    script = Path(__file__).with_name("browse.mjs")
    command = [NODE, "--experimental-websocket", script, CHROMIUM, tmp_path / "profile", url, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, check=False)
    if "bad option" in done.stderr:
        pytest.skip("needs Node 20 or newer")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or NODE is None, reason="needs Chromium and Node")
def test_keyboard_history_and_pasting(service, tmp_path):
    _, port = service
    found = browsed(port, tmp_path)
    assert (found["tiles"], found["focused"], found["pasted"], found["slash"]) == (6, 1, 6, "text")
    assert "like=" in found["like"]
    assert found["text"] == "a dog"
    assert found["overflow"] == [False] * 4
    assert found["elsewhere"] == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or NODE is None or not AXE.is_file(), reason="needs Chromium, Node and axe-core")
def test_axe_finds_nothing(service, tmp_path):
    """On a desktop and on a phone, light and dark."""
    _, port = service
    assert browsed(port, tmp_path, AXE)["axe"] == {
        f"{scheme} {width}": [] for scheme in ("light", "dark") for width in (1280, 390)
    }
