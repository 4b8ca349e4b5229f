"""Folders and patterns, images that cannot be read, runs that are interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.bundles import photo
from support.subjects import subject

from icclip.embedding import run as embedding
from icclip.embedding.sinks import Parts, Written
from icclip.embedding.sources import Done, image_paths, lines_of
from icclip.errors import DataError, UsageError
from icclip.runtime import Encoder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return subject("clip", tmp_path_factory.mktemp("clip") / "bundle").bundle


@pytest.fixture
def folder(tmp_path):
    """Nine images in three folders, and what is no image."""
    root = tmp_path / "photos"
    for i in range(9):
        path = root / "abc"[i // 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(20 + i, 30, seed=i).save(path)
    (root / "a" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    return root


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(embedding, "PART", 2)


def names(out):
    return [json.loads(line) for line in out.with_suffix(".inputs.jsonl").read_text().splitlines()]


def test_a_folder_and_a_pattern_give_their_files_in_order(bundle, folder, tmp_path, icclip):
    out = tmp_path / "out.npy"
    assert icclip("embed", bundle, folder, "-o", out).code == 0
    files = [folder / "abc"[i // 3] / f"{i}.png" for i in range(9)]
    assert names(out) == [str(file) for file in files]
    np.testing.assert_allclose(np.load(out), Encoder.open(bundle).encode_images(files), atol=1e-5)
    assert icclip("embed", bundle, folder / "[bc]" / "*.png", folder / "a" / "0.png", "-o", out).code == 0
    assert names(out) == [str(file) for file in [*files[3:], files[0]]]


def test_links_to_folders_are_followed_and_loops_are_not(folder, tmp_path):
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "d").symlink_to(folder / "b")
    found = [str(path.relative_to(folder)) for path in image_paths([folder])]
    assert found == [f"{'abc'[i // 3]}/{i}.png" for i in range(9)] + ["d/3.png", "d/4.png", "d/5.png"]


@pytest.mark.parametrize("given", ["nothing", "no*.png", "one.png"])
def test_inputs_that_are_not_there(bundle, tmp_path, icclip, given):
    (tmp_path / "nothing").mkdir()
    outcome = icclip("embed", bundle, tmp_path / given, "-o", tmp_path / "out.npy")
    assert outcome.code == 2
    assert f"{tmp_path / given}" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


@pytest.mark.parametrize("kind", [".npy", ".parquet"])
def test_an_image_that_cannot_be_read_stops_or_is_left_out_and_listed(bundle, folder, tmp_path, icclip, kind):
    out = tmp_path / f"out{kind}"
    (folder / "b" / "4.png").write_bytes(b"no image")
    (folder / "c" / "8.png").write_bytes(b"")
    stopped = icclip("embed", bundle, folder, "-o", out, "--batch-size", 2)
    assert stopped.code == 2
    assert "4.png: not an image that Pillow can read; pass --on-bad-image skip to leave such images out" in stopped.err
    assert not out.exists()
    skipped = icclip("embed", bundle, folder, "-o", out, "--batch-size", 2, "--on-bad-image", "skip", "--json")
    assert skipped.code == 2, "the parts of the first are of another request"
    assert (
        "on_bad_image differ"
        in icclip("embed", bundle, folder, "-o", out, "--batch-size", 2, "--on-bad-image", "skip", "--resume").err
    )
    for file in (tmp_path / f"out{kind}.parts").iterdir():
        file.unlink()
    (tmp_path / f"out{kind}.parts").rmdir()
    skipped = icclip("embed", bundle, folder, "-o", out, "--batch-size", 2, "--on-bad-image", "skip", "--json")
    made = json.loads(skipped.out)
    assert (made["rows"], made["skipped"]) == (7, 2)
    listed = [json.loads(line) for line in (tmp_path / "out.skipped.jsonl").read_text().splitlines()]
    assert [Path(row["input"]).name for row in listed] == ["4.png", "8.png"]
    assert "8.png: the image is empty" in listed[1]["error"]
    kept = [folder / "abc"[i // 3] / f"{i}.png" for i in range(9) if i not in (4, 8)]
    table = pq.read_table(out) if kind == ".parquet" else None
    rows = np.load(out) if table is None else np.array(table["embedding"].to_pylist(), np.float32)
    assert (names(out) if table is None else table["input"].to_pylist()) == [str(path) for path in kept]
    np.testing.assert_allclose(rows, Encoder.open(bundle).encode_images(kept), atol=1e-5)
    assert not (tmp_path / f"out{kind}.parts").exists()


def test_where_no_image_can_be_read(bundle, tmp_path, icclip):
    (tmp_path / "a.png").write_bytes(b"no")
    outcome = icclip("embed", bundle, tmp_path / "a.png", "-o", tmp_path / "out.npy", "--on-bad-image", "skip")
    assert outcome.code == 2
    assert "none of the 1 images could be read; " in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


class InterruptedByTestError(Exception):
    """What a kill looks like from inside: nothing more is done."""


def interrupt_after(monkeypatch, parts):
    add, count = Parts.add, []

    def counted(self, *arguments):
        if len(count) == parts:
            raise InterruptedByTestError
        count.append(1)
        add(self, *arguments)

    monkeypatch.setattr(Parts, "add", counted)


@pytest.mark.parametrize("source", ["images", "texts", "dataset"])
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(bundle, folder, tmp_path, icclip, source):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text {i}\n" for i in range(9)))
    given = {"images": [folder], "texts": ["--texts", texts], "dataset": ["-d", "shapes"]}[source]
    whole, out = tmp_path / "whole.npy", tmp_path / "out.npy"
    options = ["--batch-size", 2] if source != "dataset" else ["--batch-size", 40]
    assert icclip("embed", bundle, *given, "-o", whole, *options).code == 0
    for parts in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, parts)
            with pytest.raises(InterruptedByTestError):
                icclip("embed", bundle, *given, "-o", out, *options, *["--resume"] * (parts > 1))
        assert not out.exists()
    refused = icclip("embed", bundle, *given, "-o", out, *options)
    assert refused.code == 2
    assert "out.npy.parts holds parts of an interrupted run: continue with --resume, or remove it" in refused.err
    ended = icclip("embed", bundle, *given, "-o", out, *options, "--resume")
    assert ended.code == 0, ended.err
    assert f"resuming after {120 if source == 'dataset' else 6} inputs" in ended.err
    np.testing.assert_array_equal(np.load(out), np.load(whole))
    assert names(out) == names(whole)
    assert not (tmp_path / "out.npy.parts").exists()


def test_inputs_that_changed_between_are_noticed(bundle, folder, tmp_path, icclip):
    out, options = tmp_path / "out.npy", ["--batch-size", 2]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedByTestError):
            icclip("embed", bundle, folder, "-o", out, *options)
    (folder / "a" / "0.png").unlink()
    outcome = icclip("embed", bundle, folder, "-o", out, *options, "--resume")
    assert outcome.code == 2
    assert "input 2 was " in outcome.err
    assert "is different now: start over" in outcome.err


def test_a_part_counts_once_its_names_are_there(tmp_path):
    parts = Parts(tmp_path / "out.npy", {"a": 1})
    assert parts.begin(resume=False) == Done()
    parts.add(np.ones((2, 3), np.float32), ["a", "b"], {"c": "bad"}, "c")
    (parts.folder / "000001.npy").write_bytes(b"written, and then killed")
    assert parts.begin(resume=True) == Done(3, "c")
    parts.add(np.zeros((1, 3), np.float32), ["d"], {}, "d")
    assert parts.finish(3) == Written(tmp_path / "out.npy", 3, 3, 1, tmp_path / "out.skipped.jsonl")
    assert np.load(tmp_path / "out.npy").tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_parts_of_another_request(tmp_path):
    Parts(tmp_path / "out.npy", {"a": 1, "b": 2}).begin(resume=False)
    with pytest.raises(
        UsageError, match=r"belongs to other inputs or options \(b differ\): repeat that one with --resume"
    ):
        Parts(tmp_path / "out.npy", {"a": 1, "b": 3}).begin(resume=True)


def test_lines_of_a_file_from_windows(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\r\nthree\u2028still three".encode())
    assert list(lines_of(tmp_path / "a.txt")) == ["one", "", "three\u2028still three"]


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"cannot list {tmp_path}: Permission denied"):
        list(image_paths([tmp_path]))
