"""What the system refuses about a path is one line, wherever on the command line the path stands."""

from __future__ import annotations

import json

import pytest

from icclip.config import DatasetConfig
from icclip.errors import ConfigError
from icclip.files import refused_path

PATHS = {"long name": "a" * 300, "long path": "a/" * 3000 + "b", "loop": "loop/a", "no text": "\udc80x"}
PLACES = {
    "train -o": "train -m clip-tiny -d m.jsonl --max-steps 1 --workers 0 -o PATH",
    "train -m": "train -d m.jsonl -o run -m PATH",
    "train --config": "train -o run --config PATH",
    "train --qrels": "train -m clip-tiny -d m.jsonl -o run --qrels PATH",
    "eval": "eval PATH -d m.jsonl",
    "eval --qrels": "eval nowhere -d m.jsonl --qrels PATH",
    "export": "export PATH -d m.jsonl -o bundle",
    "inspect": "data inspect PATH",
    "inspect --image-root": "data inspect m.jsonl --image-root PATH",
    "inspect --model": "data inspect m.jsonl --model PATH",
    "search": "search PATH dog",
    "verify": "verify PATH",
    "compare": "compare nowhere PATH",
    "push": "push PATH owner/name --dry-run",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop2")
    (tmp_path / "loop2").symlink_to("loop")
    (tmp_path / "m.jsonl").write_text(json.dumps({"image": "0.jpg", "text": "a"}))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("kind", sorted(PATHS))
def test_a_path_that_the_system_refuses_is_one_line(place, kind, icclip):
    outcome = icclip(*(PATHS[kind] if word == "PATH" else word for word in PLACES[place].split()))
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert max(map(len, outcome.err.splitlines())) < 1000
    assert outcome.err.splitlines()[-1].startswith("error: ")


def test_what_the_system_refuses_is_told_apart_from_faults_of_the_program():
    assert refused_path(RuntimeError("Symlink loop from '/a'")).args == ("Symlink loop from '/a': give another path",)
    assert refused_path(RuntimeError("else")) is None
    assert refused_path(FileNotFoundError(2, "No such file", "a")) is None
    assert str(refused_path(OSError(36, "File name too long", "aa"))) == "aa: File name too long: give another path"


@pytest.mark.parametrize(("value", "problem"), [("a\0b", "a NUL character"), ("\udc80", "not valid Unicode")])
def test_no_setting_holds_what_no_path_and_no_record_can(value, problem):
    with pytest.raises(ConfigError, match=rf"^image_root is .*: it (holds|is) {problem}"):
        DatasetConfig.from_mapping({"name": "csv", "image_root": value})
