from __future__ import annotations

import pytest

from icclip.retrieval import blocks
from icclip.retrieval.blocks import block_bytes, cache_bytes, free_memory, rows_of, spans


@pytest.mark.parametrize(("rows", "size", "expected"), [(0, 3, []), (3, 3, [(0, 3)]), (7, 3, [(0, 3), (3, 6), (6, 7)])])
def test_spans_cover_all_rows(rows, size, expected):
    assert [(span.start, span.stop) for span in spans(rows, size)] == expected


@pytest.mark.parametrize(
    ("limit", "columns", "itemsize", "expected"), [(100, 5, 4, 5), (119, 5, 4, 5), (3, 5, 4, 1), (100, 0, 4, 100)]
)
def test_rows_that_fit(limit, columns, itemsize, expected):
    assert rows_of(limit, columns, itemsize) == expected


def test_a_block_is_small_against_the_free_memory():
    assert block_bytes(1000, free=10**9) == 1000
    assert block_bytes(1000, free=3200) == 100
    assert block_bytes(1000, free=0) == 1


def test_where_the_system_does_not_tell_a_block_is_as_wanted(monkeypatch):
    monkeypatch.setattr(blocks, "free_memory", lambda: None)
    assert block_bytes(1000) == 1000


def test_free_memory_is_that_of_this_machine(monkeypatch):
    assert free_memory() > 2**20
    monkeypatch.setattr(blocks.os, "sysconf", lambda name: {"SC_AVPHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}[name])
    assert free_memory() == 40960

    def unknown(_name):
        raise ValueError

    monkeypatch.setattr(blocks.os, "sysconf", unknown)
    assert free_memory() is None


@pytest.fixture
def caches(tmp_path, monkeypatch):
    def tell(**levels):
        for name, (level, size) in levels.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "level").write_text(f"{level}\n")
            (tmp_path / name / "size").write_text(f"{size}\n")
        monkeypatch.setattr(blocks, "CACHES", tmp_path)
        return cache_bytes.__wrapped__()

    return tell


def test_the_second_level_is_read(caches):
    assert caches(index0=(1, "48K"), index1=(1, "64K"), index2=(2, "2048K"), index3=(3, "491520K")) == 2 * 2**20


def test_what_is_usual_stands_for_what_is_not_told(caches):
    assert caches(index0=(1, "48K")) == blocks.UNKNOWN_CACHE
