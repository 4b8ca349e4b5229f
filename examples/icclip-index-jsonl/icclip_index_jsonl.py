"""A file of JSON lines as a vector database: a complete index target to copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.errors import UsageError
from icclip.plugins import IndexTargetSpec, IndexWrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


@hookimpl
def icclip_index_targets() -> list[IndexTargetSpec]:
    """What this plugin offers: one target, `--to jsonl://FILE`."""
    return [IndexTargetSpec(name="jsonl", summary="a file of JSON lines", write=write, search=search)]


def write(request: IndexWrite) -> int:
    """A line with the fingerprint, then one for each item."""
    count = 0
    try:
        with Path(request.address).open("w", encoding="utf-8") as file:
            file.write(json.dumps({"fingerprint": request.fingerprint}) + "\n")
            for items, vectors in request.batches:
                for item, vector in zip(items, vectors, strict=True):
                    line = {"path": item["path"], "captions": item["captions"], "vector": vector.tolist()}
                    file.write(json.dumps(line) + "\n")
                    count += 1
    except OSError as error:
        raise UsageError(f"cannot write {request.address}: {error.strerror}") from error
    return count


def search(address: str, vector: np.ndarray, k: int, fingerprint: str) -> Sequence[tuple[str, float]]:
    """Compare the vector with every line."""
    import numpy as np

    try:
        first, *lines = [json.loads(line) for line in Path(address).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UsageError(f"cannot read {address}: {error.strerror}") from error
    if first["fingerprint"] != fingerprint:
        raise UsageError(f"{address} was made by another encoder")
    cosines = np.array([line["vector"] for line in lines], np.float32) @ vector
    return [(lines[i]["path"], float(cosines[i])) for i in np.argsort(-cosines, kind="stable")[:k]]
