"""LanceDB, a database in a directory: `--to lancedb://DIRECTORY?table=NAME`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import UsageError
from icclip.plugins import IndexTargetSpec, IndexWrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

TABLE = "images"
FINGERPRINT = "icclip.fingerprint"


@hookimpl
def icclip_index_targets() -> list[IndexTargetSpec]:
    """One target: LanceDB."""
    return [
        IndexTargetSpec(
            name="lancedb",
            summary="a table of LanceDB in a directory",
            write=write,
            search=search,
            requires=("lancedb", "pyarrow"),
            install="pip install 'icclip[lancedb]'",
        )
    ]


def write(request: IndexWrite) -> int:
    """Make the table anew, and add the items batch by batch.

    Raises:
        UsageError: the directory cannot be written to.
    """
    pa = importlib.import_module("pyarrow")
    directory, name = _place(request.address)
    types = {"width": pa.int32(), "height": pa.int32(), "captions": pa.list_(pa.string()), "thumbnail": pa.binary()}
    columns = [("path", pa.string()), *types.items(), ("vector", pa.list_(pa.float32(), request.dim))]
    schema = pa.schema(columns, metadata={FINGERPRINT: request.fingerprint})
    try:
        table = _connected(directory).create_table(name, schema=schema, mode="overwrite")
        for items, vectors in request.batches:
            held = [pa.array([item.get(column) for item in items], kind) for column, kind in columns[:-1]]
            table.add(
                pa.table(
                    [*held, pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), request.dim)], schema=schema
                )
            )
        return int(table.count_rows())
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot write to {request.address}: {' '.join(str(error).split())[:200]}") from error


def search(address: str, vector: np.ndarray, k: int, fingerprint: str) -> Sequence[tuple[str, float]]:
    """The k nearest paths with their cosines, best first.

    Raises:
        UsageError: there is no such table, or another encoder made it.
    """
    directory, name = _place(address)
    try:
        table = _connected(directory).open_table(name)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        raise UsageError(f"{address} has no table {name!r}") from error
    made_by = (table.schema.metadata or {}).get(FINGERPRINT.encode(), b"").decode()
    if made_by != fingerprint:
        raise UsageError(
            f"{address} was made by another encoder (fingerprint {made_by[:12]}) than this one ({fingerprint[:12]})"
        )
    found = table.search(vector).distance_type("cosine").limit(k).to_list()
    return [(row["path"], 1 - row["_distance"]) for row in found]


def _connected(directory: str) -> Any:
    return importlib.import_module("lancedb").connect(directory)


def _place(address: str) -> tuple[str, str]:
    """`DIRECTORY?table=NAME` -> both. Raises UsageError."""
    directory, _, options = address.partition("?")
    key, _, name = options.partition("=")
    if not directory or (options and (key != "table" or not name)):
        raise UsageError(f"lancedb://{address}: write it as lancedb://DIRECTORY?table=NAME")
    return directory, name or TABLE
