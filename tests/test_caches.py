from __future__ import annotations

import numpy as np
import pytest
from filelock import FileLock

from icclip.caches import cache_entries, clear_cache, tree_size
from icclip.errors import UsageError

NAME = "0123456789abcdef" * 2


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    np.save(folder / f"{NAME}.npy", np.zeros((3, 3, 4, 5), np.uint8))
    (folder / f"{NAME[::-1]}.part").write_bytes(b"half")
    (folder / f"{NAME}.lock").touch()
    # ICCLIP_CACHE may be a directory that holds other things.
    (folder / "thesis.npy").write_bytes(b"years of work")
    (tmp_path / f"{NAME}.npy").write_bytes(b"not in a cache")
    return folder


def test_entries_are_our_files_alone_the_largest_first(images, tmp_path):
    whole, part = cache_entries(tmp_path)
    assert (whole.kind, whole.shape, whole.bytes) == ("images", (3, 3, 4, 5), 128 + 180)
    assert (part.path.suffix, part.shape, part.bytes) == (".part", None, 4)
    assert whole.to_mapping()["shape"] == [3, 3, 4, 5]


def test_a_damaged_file_is_listed_without_a_shape(images, tmp_path):
    (images / f"{NAME}.npy").write_bytes(b"\x93NUMPY")
    assert {entry.shape for entry in cache_entries(tmp_path)} == {None}


def test_no_cache_has_no_entries(tmp_path):
    assert cache_entries(tmp_path / "nowhere") == []


def test_clearing_deletes_what_is_ours_and_nothing_else(images, tmp_path):
    cleared = clear_cache(cache_entries(tmp_path))
    assert cleared.bytes == 128 + 180 + 4
    assert cache_entries(tmp_path) == []
    assert (images / "thesis.npy").read_bytes() == b"years of work"
    assert (tmp_path / f"{NAME}.npy").exists()


def test_a_file_that_is_being_filled_is_kept(images, tmp_path):
    with FileLock(images / f"{NAME[::-1]}.lock", is_singleton=False):
        cleared = clear_cache(cache_entries(tmp_path))
    assert [entry.path.suffix for entry in cleared.removed] == [".npy"]
    assert [entry.path.suffix for entry in cleared.kept] == [".part"]
    assert (images / f"{NAME[::-1]}.part").exists()


def test_a_file_that_cannot_be_deleted_is_named(images, tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied")

    entries = cache_entries(tmp_path)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(UsageError, match=rf"cannot delete .*{NAME}.npy: Permission denied; check its permissions"):
        clear_cache(entries)


def test_a_cache_that_cannot_be_read_is_named(images, tmp_path, monkeypatch):
    def refuse(self, pattern):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.glob", refuse)
    with pytest.raises(UsageError, match=r"cannot read the cache .*: Permission denied; check its permissions"):
        cache_entries(tmp_path)


def test_downloads_are_listed_and_cleared_too(images, tmp_path):
    folder = tmp_path / "downloads" / "ab"
    folder.mkdir(parents=True)
    (folder / ("ab" * 32)).write_bytes(b"a jpeg")
    (folder / ("cd" * 32 + ".tar")).write_bytes(b"a shard of images" * 100)
    (folder / "notes.txt").write_text("mine")
    shard, whole, image, _ = cache_entries(tmp_path)
    assert [entry.kind for entry in (shard, whole, image)] == ["downloads", "images", "downloads"]
    assert (shard.bytes, image.bytes, image.shape) == (1700, 6, None)
    clear_cache([shard, image])
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_the_size_of_a_tree_is_that_of_its_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "two").write_bytes(b"678")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert tree_size(tmp_path) == 8 + len(str(tmp_path / "gone"))
