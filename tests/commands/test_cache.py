from __future__ import annotations

import io
import json

import numpy as np
import pytest

NAME = "0123456789abcdef" * 2


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("ICCLIP_CACHE", str(tmp_path))
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / f"{NAME}.npy"
    np.save(path, np.zeros((1000, 3, 4, 4), np.uint8))
    return path


def test_list_names_every_file_and_the_total(icclip, cached):
    shown = icclip("cache", "list")
    assert shown.code == 0
    assert "1,000 rows of 3 x 4 x 4" in shown.out
    assert "total" in shown.out
    (entry,) = json.loads(icclip("cache", "list", "--json").out)["entries"]
    assert (entry["path"], entry["bytes"]) == (str(cached), 48_128)


def test_a_download_is_listed_as_one(icclip, cached, tmp_path):
    (tmp_path / "downloads" / "ab").mkdir(parents=True)
    (tmp_path / "downloads" / "ab" / ("ab" * 32)).write_bytes(b"a jpeg")
    shown = icclip("cache", "list").out
    assert "downloads  a file from the network" in shown
    assert "2 files" in shown


def test_clear_asks_first(icclip, cached, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = icclip("cache", "clear")
    assert refused.code == 1
    assert "Delete 1 cached files (47 KiB)" in refused.err
    assert cached.exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert icclip("cache", "clear").code == 0
    assert not cached.exists()


def test_clear_does_not_ask_with_yes(icclip, cached):
    cleared = icclip("cache", "clear", "--yes", "--json")
    assert cleared.code == 0
    assert json.loads(cleared.out)["bytes"] == 48_128
    assert not cached.exists()
    assert "deleted 0 cached files" in icclip("cache", "clear").out
