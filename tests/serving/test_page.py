"""The search page in a real browser without a window, driven over its debugging port; skipped where there is none."""

from __future__ import annotations

import shutil
import subprocess

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
