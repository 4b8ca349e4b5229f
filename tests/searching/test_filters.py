"""Conditions on columns: what they mean, and that nothing else is ever run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icclip.errors import UsageError
from icclip.searching.filters import LONGEST
from icclip.searching.items import Items


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    path = tmp_path_factory.mktemp("items") / "items.parquet"
    table = pa.table(
        {
            "path": ["a.png", "b.JPG", "c.png", None],
            "width": [100, 900, 1200, None],
            "height": [50, 60, 70, 80],
            "captions": [["A dog", "in snow"], ["two cats"], [], None],
            "score": [0.5, -1.0, 2.0, 3.0],
            "thumbnail": [b"", b"", b"", b""],
        }
    )
    pq.write_table(table, path)
    return Items(path)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("width > 800", [1, 2]),
        ("width > 100 and width < 1000", [1]),
        ("100 < width <= 1200", [1, 2]),
        ("not width > 800", [0]),
        ("width == 100 or height == 80", [0, 3]),
        ("width != 100", [1, 2]),
        ("score >= -1 and score < 1", [0, 1]),
        ("contains(captions, 'DOG')", [0]),
        ("contains(captions, 'snow') or contains(path, 'jpg')", [0, 1]),
        ("startswith(path, 'a')", [0]),
        ("endswith(path, '.png')", [0, 2]),
        ("is_null(width)", [3]),
        ("width in [100, 1200]", [0, 2]),
        ("width not in (100, 1200)", [1, 3]),
        ("path == 'c.png'", [2]),
        ("width > height", [0, 1, 2]),
    ],
)
def test_conditions(items, condition, rows):
    assert items.rows_where(condition).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "cannot be read: write it as"),
        ("width = 3", "cannot be read: write it as"),
        ("width >", "cannot be read"),
        ("colour == 'red'", "names 'colour', which is no column: the columns are captions, height, path, score, width"),
        ("width", "where a condition belongs") ,
        ("3", "where a condition belongs"),
        ("1 < 2", "names no column"),
        ("width > 'a'", "compares things that cannot be compared"),
        ("__import__('os').system('true')", 'calls "__import__'),
        ("open('x')", "calls 'open': the functions are contains, startswith, endswith, is_null"),
        ("width.__class__", "neither a column, a number nor a text"),
        ("(lambda: 1)()", "calls 'lambda"),
        ("[x for x in (1,)]", "neither a column, a number nor a text"),
        ("width is 3", "compare with ==, !=, <, <=, > or >="),
        ("width in 3", "after 'in': write a list"),
        ("contains(width, 'a')", "holds int64 and no texts"),
        ("contains(captions)", "write contains(column, 'text')"),
        ("contains(captions, 3)", "write contains(column, 'text')"),
        ("contains('a', 'b')", "where a column belongs"),
        ("thumbnail == 'a'", "which is no column"),
        ("width > 1 and 3", "where a condition belongs"),
        ("9**9**9 > width", "neither a column, a number nor a text"),
        ("w" * (LONGEST + 1), "more than 1,000: shorten it"),
        (" or ".join(["width>1"] * 90), "more than 200 parts"),
        ("(" * 400 + "width" + ")" * 400, "cannot be read"),
        ("width > 1\0", "cannot be read"),
    ],
)  # fmt: skip
def test_whatever_else_is_one_line(items, condition, message):
    with pytest.raises(UsageError) as caught:
        items.rows_where(condition)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_rows_are_read_from_wherever_they_lie(tmp_path):
    pq.write_table(pa.table({"id": list(range(100))}), tmp_path / "i.parquet", row_group_size=7)
    found = Items(tmp_path / "i.parquet").take([99, 0, 50, 0, 6, 7], ["id"])
    assert [values["id"] for values in found] == [99, 0, 50, 0, 6, 7]
