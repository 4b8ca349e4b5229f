"""An inverted file whose lists lie on the disk: built a block at a time, so that memory does not grow with the items.

The quantizers are trained on a sample. Each block of vectors is then sorted into lists of its own, which are written and
merged at the end, list by list (https://github.com/facebookresearch/faiss/wiki/Indexes-that-do-not-fit-in-RAM).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from icclip.errors import UsageError
from icclip.files import readable_os_errors
from icclip.searching.engine import CHUNK, TRAINED_ON, Engine, Vectors, empty_index, quantized
from icclip.searching.libraries import faiss
from icclip.searching.lists import Block, attach, merge

BLOCK_BYTES = 256 << 20
"""Codes that are held in memory at a time."""
GRAPH_OF_LISTS = 8_192
"""From so many lists on, the nearest are found by a graph: comparing with each would take most of the time."""


def factory_on_disk(kind: str | None, items: int, dim: int) -> str:
    """FAISS's factory string: lists of 8-bit vectors, of product codes (ivf-pq), or what is named. Raises UsageError."""
    if kind in ("flat", "hnsw"):
        raise _without_lists(kind)
    if kind not in (None, "ivf-pq"):
        return kind
    lists, codes = quantized(items, dim, 4).split(",")
    if int(lists.removeprefix("IVF")) >= GRAPH_OF_LISTS:
        lists += "_HNSW32"
    return f"{lists},{'SQ8' if kind is None else codes}"


def built_on_disk(factory: str, vectors: Vectors, training: np.ndarray, directory: Path) -> Engine:
    """A new index of unit vectors, whose lists are a file in a directory.

    Args:
        factory: FAISS's factory string.
        vectors: float32 [n, dim], of which one block is read at a time.
        training: float32 [m, dim]: what quantizers are trained on.
        directory: where the index will be.

    Raises:
        UsageError: FAISS cannot make such an index, it has no lists, or the disk is full.
    """
    index = empty_index(factory, vectors.shape[1], training[:TRAINED_ON])
    library = faiss()
    ivf = library.try_extract_index_ivf(index)
    if ivf is None or isinstance(library.downcast_index(index), library.IndexRefine):
        raise _without_lists(factory)
    block = max(CHUNK, BLOCK_BYTES // (int(ivf.code_size) + 8) // CHUNK * CHUNK)
    with (
        readable_os_errors("the index", directory),
        tempfile.TemporaryDirectory(dir=directory, prefix=".blocks-") as folder,
    ):
        blocks = [
            _block(index, vectors, range(start, min(start + block, len(vectors))), Path(folder))
            for start in range(0, len(vectors), block)
        ]
        merge(blocks, int(ivf.code_size), directory)
    attach(index, directory)
    return Engine(index, {})


def _block(trained: Any, vectors: Vectors, rows: range, folder: Path) -> Block:
    """Sort some rows into lists, and write these."""
    part = faiss().clone_index(trained)
    for start in range(rows.start, rows.stop, CHUNK):
        stop = min(start + CHUNK, rows.stop)
        chunk = np.ascontiguousarray(vectors[start:stop], np.float32)
        part.add_with_ids(chunk, np.arange(start, stop, dtype=np.int64))
    return Block.of(part, folder / str(rows.start))


def _without_lists(kind: str) -> UsageError:
    return UsageError(
        f"{kind!r} has no lists that could lie on the disk: give --kind an IVF without Refine, such as IVF4096,SQ8"
    )
