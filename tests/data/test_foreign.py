"""What the system refuses about a path or a text is one line, with its row; each through the command line too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.flickr import jpeg

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.columns import captions_of, dataset_of, with_captions
from icclip.data.foreign import Door, files_below, regular_file
from icclip.data.loading import dataset_config, load_splits, read_splits
from icclip.errors import DataError
from icclip.plugins.registry import Registry

REGISTRY = Registry(load_plugins=frozenset())


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    (folder / "loop").symlink_to("loop2")
    (folder / "loop2").symlink_to("loop")
    os.mkfifo(folder / "pipe.jpg")
    return folder


HOSTILE = {
    "a NUL": ("a\0.jpg", "holds a NUL character"),
    "half of a surrogate pair": ("\udc80.jpg", "is not valid Unicode (half of a surrogate pair)"),
    "a loop of links": ("loop/a.jpg", "Too many levels of symbolic links|Symlink loop"),
    "too long a name": ("a" * 300 + ".jpg", "File name too long"),
    "too long a path": ("a/" * 3000 + "b.jpg", "File name too long"),
    "a pipe": ("pipe.jpg", "is a named pipe, not a file"),
    "a device": ("/dev/zero", "lies outside|is a device"),
    "a folder": (".", "is a directory, not a file"),
    "a drive": ("C:\\photos\\a.jpg", "it is a Windows path: name files relative to --image-root"),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
@pytest.mark.parametrize("outside", [False, True])
def test_a_hostile_path_is_one_line_with_its_row(root, kind, outside, icclip):
    value, problems = HOSTILE[kind]
    rows = [{"image": "0.jpg", "text": "fine"}, {"image": value, "text": "not"}]
    (root / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--allow-outside-root"] if outside else []
    outcome = icclip("train", "-m", "clip-tiny", "-d", root / "m.jsonl", "-o", root / "run", *options)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "m.jsonl:2: " in outcome.err
    assert any(problem in outcome.err for problem in problems.split("|")), outcome.err
    assert len(outcome.err) < 800


def test_a_windows_drive_where_nothing_is_skipped(root):
    with pytest.raises(DataError, match="it is a Windows path: name files relative to --image-root"):
        Door((root,)).find("C:\\photos\\a.jpg", "m.csv:3")


def test_separators_of_windows(root):
    (root / "sub dir").mkdir()
    (root / "sub dir" / "ü.jpg").write_bytes(jpeg(1))
    assert Door((root,)).find("sub dir\\ü.jpg", "row") == root / "sub dir" / "ü.jpg"
    (root / "a\\b.jpg").write_bytes(jpeg(1))
    assert Door((root,)).find("a\\b.jpg", "row") == root / "a\\b.jpg"


@pytest.mark.parametrize(("text", "problem"), [("a\0b", "holds a NUL character"), ("\ud800", "is not valid Unicode")])
def test_a_hostile_caption_is_one_line_with_its_row(root, text, problem, icclip):
    (root / "m.jsonl").write_text(json.dumps({"image": "0.jpg", "text": text}))
    outcome = icclip("data", "inspect", root / "m.jsonl")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert f"m.jsonl:1, a caption: {text!r} {problem}" in outcome.err


@pytest.mark.parametrize(
    "value", ["a\0", "x" * 300, "x/" * 5000, "\udc80.csv", "http://example.org/a.csv", "file:///a.tar"]
)
def test_a_hostile_dataset_name(value):
    with pytest.raises(DataError) as caught:
        dataset_config(REGISTRY, value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_pipe_in_the_place_of_a_manifest_or_among_parquet_files(root):
    os.mkfifo(root / "m.csv")
    os.mkfifo(root / "train.parquet")
    (root / "loop").unlink()
    (root / "loop2").unlink()
    for name, path in (("csv", root / "m.csv"), ("hub", root), ("parquet", root / "train.parquet")):
        with pytest.raises(DataError, match="is a named pipe, not a file"):
            REGISTRY.dataset(name).load(DatasetConfig(name=name, path=str(path)))


def test_a_folder_whose_files_have_names_that_are_no_text(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(name)).write_bytes(jpeg(1))
    Path(os.fsdecode(name[:-3] + b"txt")).write_text("a caption")
    with pytest.raises(DataError, match="is not valid Unicode"):
        load_splits(REGISTRY, dataset_config(REGISTRY, str(tmp_path)), Reporter(silent=True))


def test_links_in_a_folder_are_followed_once(root):
    (root / "again").symlink_to(root)
    (root / "loop").unlink()
    (root / "loop2").unlink()
    assert [path.name for path in files_below(root)] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "pipe.jpg"]


def test_files_and_others(root):
    assert regular_file(root / "0.jpg", "here") == root / "0.jpg"
    for path, problem in (
        (root / "none", "there is no file"),
        (root, "is a directory"),
        (root / "loop", "symbolic links"),
    ):
        with pytest.raises(DataError, match=f"^here: .*{problem}"):
            regular_file(path, "here")


def test_missing_images_are_counted_where_images_are_skipped(root):
    rows = [{"image": f"{i}.jpg", "text": f"text {i}"} for i in range(5)]
    (root / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DatasetConfig(name="jsonl", path=str(root / "m.jsonl"), on_bad_image="skip", val_fraction=0.2)
    assert len(read_splits(REGISTRY, config, Reporter(silent=True))["train"]) == 5
    assert sum(map(len, load_splits(REGISTRY, config, Reporter(silent=True)).values())) == 4


# One string where a list was meant


def test_captions_that_are_one_string():
    with pytest.raises(DataError, match=r"^row 1: the captions are one text, 'a dog': give a list of texts$"):
        dataset_of([jpeg(0), jpeg(1)], [["fine"], "a dog"])
    split = dataset_of([jpeg(0)], [["a"]])
    with pytest.raises(DataError, match=r"^it: the caption columns are one text, 'captions': give a list of names$"):
        with_captions(split, "image", "captions", "it")


def test_nested_captions():
    assert captions_of([[{"raw": "a", "tokens": []}, "b"], {"caption": "c"}, None], "here") == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"here: a caption is {'other': 1}: expected text or a list of texts"):
        captions_of([{"other": 1}], "here")
