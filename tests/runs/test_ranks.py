from __future__ import annotations

import builtins

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icclip.errors import DataError, MissingExtraError
from icclip.retrieval.queries import QueryRanks
from icclip.runs.ranks import SavedRanks, ranks_path, read_ranks, write_ranks


def queries(n, first):
    numbers = np.arange(n)
    return QueryRanks(numbers, numbers // 2, numbers - 1, numbers + 1, numbers + 1, numbers.astype(np.float32), first)


def saved():
    no_first = np.empty((4, 0), np.int32)
    return SavedRanks(
        {"split": "test", "kinds": 2}, queries(3, np.arange(6, dtype=np.int32).reshape(3, 2)), queries(4, no_first)
    )


def test_what_is_written_is_read(tmp_path):
    write_ranks(path := ranks_path(tmp_path, "test"), saved())
    assert path.name == "test_ranks.parquet"
    found, expected = read_ranks(path), saved()
    assert found.about == {"format": 1, "split": "test", "kinds": 2}
    for direction in ("i2t", "t2i"):
        for column in QueryRanks.__slots__:
            mine, theirs = (getattr(getattr(one, direction), column) for one in (found, expected))
            np.testing.assert_array_equal(mine, theirs)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*test_ranks.parquet: .*No such file"):
        read_ranks(tmp_path / "test_ranks.parquet")


def test_files_of_another_kind(tmp_path):
    (tmp_path / "a").write_text("not parquet")
    pq.write_table(pa.table({"query": [1]}), tmp_path / "b")
    for name in "ab":
        with pytest.raises(DataError, match="does not hold the ranks of an evaluation: run icclip eval again"):
            read_ranks(tmp_path / name)


def test_a_format_of_the_future(tmp_path, monkeypatch):
    monkeypatch.setattr("icclip.runs.ranks.FORMAT", 2)
    write_ranks(tmp_path / "a", saved())
    monkeypatch.undo()
    with pytest.raises(DataError, match="is of format 2, and this icclip reads format 1"):
        read_ranks(tmp_path / "a")


def test_without_pyarrow(tmp_path, monkeypatch):
    plain = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match="needs pyarrow, not installed here: pip install pyarrow"):
        read_ranks(tmp_path / "a")
