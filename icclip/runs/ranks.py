"""The ranks of all queries of an evaluation in one parquet file: `test_ranks.parquet`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icclip.errors import DataError, MissingExtraError
from icclip.files import atomic_write_bytes
from icclip.retrieval.queries import QueryRanks

RANKS = "_ranks.parquet"
FORMAT = 1
_KEY = b"icclip"
_COLUMNS = ("query", "image", "caption", "rank", "optimistic", "cosine", "first")


@dataclass(frozen=True, slots=True)
class SavedRanks:
    """The content of such a file."""

    about: Mapping[str, Any]
    """What was measured: dataset, split, relevance, checkpoint, `fingerprint` of the data, numbers of `images`, `texts`
    and `kinds` of images, and `cosines`, the counts of `icclip.retrieval.queries.cosine_counts`."""
    i2t: QueryRanks
    t2i: QueryRanks


def ranks_path(directory: Path, split: str) -> Path:
    """The file for the ranks of a split."""
    return directory / f"{split}{RANKS}"


def write_ranks(path: Path, saved: SavedRanks) -> None:
    """Write them, completely or not at all. Raises UsageError where the file cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for name, queries in (("i2t", saved.i2t), ("t2i", saved.t2i)):
        arrays = {column: getattr(queries, column) for column in _COLUMNS}
        columns = {key: list(value) if value.ndim > 1 else value for key, value in arrays.items()}
        direction = pa.array([name] * len(queries), pa.string())
        first = pa.array(columns.pop("first"), pa.list_(pa.int32()))
        parts.append(pa.table({"direction": direction, **columns, "first": first}))
    table = pa.concat_tables(parts)
    table = table.replace_schema_metadata({_KEY: json.dumps({"format": FORMAT, **saved.about})})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    atomic_write_bytes(path, file.getvalue())


def read_ranks(path: Path) -> SavedRanks:
    """What `write_ranks` wrote.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: the file cannot be read, or is not one of these.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(str(path), ["pyarrow"], "pip install pyarrow") from error
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        about = json.loads(table.schema.metadata[_KEY])
        parts = [_direction(table, name) for name in ("i2t", "t2i")]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not hold the ranks of an evaluation: run icclip eval again") from error
    if about.get("format") != FORMAT:
        raise DataError(f"{path} is of format {about.get('format')}, and this icclip reads format {FORMAT}")
    return SavedRanks(about, *parts)


def _direction(table: Any, name: str) -> QueryRanks:
    import pyarrow.compute as pc

    own = table.filter(pc.equal(table["direction"], name))
    first = np.array(own["first"].to_pylist(), np.int32).reshape(len(own), -1)
    return QueryRanks(**{column: own[column].to_numpy() for column in _COLUMNS[:-1]}, first=first)
