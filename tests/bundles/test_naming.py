from __future__ import annotations

import pytest

from icclip.naming import public_name


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("clip-tiny", "clip-tiny"),
        ("openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"),
        ("/home/me/runs/best", "best"),
        ("/home/me/runs/best/", "best"),
        ("~/runs/best", "best"),
        ("./best", "best"),
        ("../../elsewhere/best", "best"),
        ("runs/2026/best", "best"),
        (r"C:\\Users\\me\\best", "best"),
        ("C:/Users/me/best", "best"),
        ("shapes", "shapes"),
        ("flickr8k@/data/f8k", "flickr8k@f8k"),
        ("jsonl@captions.jsonl", "jsonl@captions.jsonl"),
        ("hub@owner/name", "hub@owner/name"),
        ("/home/me@work/run", "run"),
        ("/", "data"),
    ],
)
def test_names_keep_what_they_are_and_lose_where_it_is(name, public):
    assert public_name(name) == public


def test_two_parts_that_are_a_directory_here_are_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "runs/best").mkdir(parents=True)
    assert public_name("runs/best") == "runs/best"
    monkeypatch.chdir(tmp_path)
    assert public_name("runs/best") == "best"
