"""What an index knows of its items: `items.parquet`, read a few rows at a time."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from icclip.errors import CheckpointError, UsageError
from icclip.files import readable_os_errors
from icclip.searching.filters import Columns
from icclip.searching.libraries import arrow, parquet

ROWS_PER_GROUP = 1_024
"""Rows that are read together: what a search finds lies anywhere."""
HIDDEN = ("thumbnail", "size", "mtime_ns", "sha256")
"""Columns that are not shown with a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that is indexed."""

    path: str
    width: int | None = None
    height: int | None = None
    captions: tuple[str, ...] | None = None
    size: int | None = None
    """Of the file, in bytes."""
    mtime_ns: int | None = None
    sha256: str | None = None
    thumbnail: bytes | None = None
    """A small JPEG."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the source."""


def base_schema() -> Any:
    """The columns that every index has."""
    pa = arrow()
    return pa.schema(
        [
            ("id", pa.int64()),
            ("path", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("captions", pa.list_(pa.string())),
            ("size", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("sha256", pa.string()),
            ("thumbnail", pa.binary()),
        ]
    )


class ItemWriter:
    """Writes `items.parquet` a group of rows at a time.

    Args:
        path: the file.
        others: further columns with pyarrow's types.
    """

    def __init__(self, path: Path, others: Sequence[tuple[str, Any]] = ()) -> None:
        self.path = path
        base = base_schema()
        self.schema = arrow().schema([*base, *(arrow().field(*one) for one in others if one[0] not in base.names)])
        self.rows = 0
        self._writer = parquet().ParquetWriter(path, self.schema)
        self._waiting: list[dict[str, Any]] = []

    def add(self, items: Iterable[Item], first_id: int) -> None:
        """Append items with ids from `first_id` on."""
        for number, item in enumerate(items, start=first_id):
            own = {name: getattr(item, name) for name in base_schema().names if name != "id"}
            self._waiting.append({**item.others, **own, "id": number})
            if len(self._waiting) >= ROWS_PER_GROUP:
                self._flush()

    def copy(self, table: Any) -> None:
        """Append rows as another index has them."""
        self._flush()
        columns = [
            table[one.name].cast(one.type) if one.name in table.column_names else arrow().nulls(len(table), one.type)
            for one in self.schema
        ]
        self._write(arrow().table(columns, schema=self.schema))

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._write(arrow().Table.from_pylist(waiting, schema=self.schema))

    def _write(self, table: Any) -> None:
        with readable_os_errors("the items", self.path):
            self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self.rows += len(table)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


@dataclass(frozen=True)
class Items:
    """The items of an index that is there."""

    path: Path

    @property
    def _file(self) -> Any:
        # One for each thread: pyarrow's reader crashes when two threads read with it at once.
        readers = self._readers
        if not hasattr(readers, "file"):
            readers.file = self._opened()
        return readers.file

    @cached_property
    def _readers(self) -> threading.local:
        return threading.local()

    def _opened(self) -> Any:
        try:
            return parquet().ParquetFile(self.path, memory_map=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error!s:.120}): build the index again") from error

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    @cached_property
    def types(self) -> dict[str, Any]:
        """Column -> pyarrow's type."""
        return {one.name: one.type for one in self._file.schema_arrow}

    @property
    def shown(self) -> list[str]:
        """The columns that come with a result."""
        return [name for name in self.types if name not in HIDDEN]

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 [items], ascending."""
        return np.asarray(self._file.read(["id"])["id"].to_numpy(), np.int64)

    @cached_property
    def _starts(self) -> np.ndarray:
        metadata = self._file.metadata
        return np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])

    def take(self, rows: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The items in these rows, in their order; only the groups that hold them are read."""
        wanted = np.asarray(rows, np.int64)
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups):
            own = np.unique(wanted[groups == group])
            table = self._file.read_row_group(int(group), columns=list(columns or self.shown), use_threads=False)
            for row, values in zip(own, table.take(own - self._starts[group]).to_pylist(), strict=True):
                found[int(row)] = values
        return [found[int(row)] for row in wanted]

    def rows_where(self, condition: str) -> np.ndarray:
        """int64, ascending: the rows that meet a condition (see `icclip.searching.filters`).

        Raises:
            UsageError: it is no condition, names no column, or compares a number with a text.
        """
        hidden = {name: kind for name, kind in self.types.items() if name != "thumbnail"}
        expression = Columns(hidden).expression(condition)
        dataset = importlib.import_module("pyarrow.dataset")
        try:
            met = dataset.dataset(self.path, format="parquet").to_table(columns={"met": expression}, use_threads=False)[
                "met"
            ]
        except (arrow().ArrowException, ValueError, TypeError) as error:
            line = " ".join(str(error).split())
            raise UsageError(
                f"the filter {condition!r:.120} compares things that cannot be compared ({line:.120})"
            ) from error
        return np.flatnonzero(np.asarray(met.fill_null(False).to_numpy(zero_copy_only=False), bool))

    def known(self) -> dict[str, dict[str, Any]]:
        """Path -> row, size, time and hash: what an addition compares with. Of copies the last."""
        table = self._file.read(["path", "size", "mtime_ns", "sha256"])
        return {values["path"]: {"row": row, **values} for row, values in enumerate(table.to_pylist())}

    def groups(self) -> Iterator[tuple[int, Any]]:
        """The first row of each group, and the group as a table."""
        for number in range(self._file.num_row_groups):
            yield int(self._starts[number]), self._file.read_row_group(number)
