"""The inverted lists of an index in a file of their own, mapped into memory.

FAISS can keep the place of such a file in the index, but then the index cannot be moved, or FAISS prints to the standard
output where it was. So `index.faiss` is written with empty lists, and a table beside it says where each list lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icclip.errors import CheckpointError
from icclip.searching.libraries import faiss

LISTS, TABLE = "lists.ivfdata", "lists.npy"


def lists_of(raw: Any) -> Any:
    """The lists on the disk of an index; None where its lists lie in memory, or it has none."""
    library = faiss()
    ivf = library.try_extract_index_ivf(raw)
    held = None if ivf is None else library.downcast_InvertedLists(ivf.invlists)
    return held if isinstance(held, library.OnDiskInvertedLists) else None


def write_without_lists(raw: Any, file: Any) -> None:
    """Write an index whose lists are on the disk, to a path or a writer of FAISS, as if they were empty."""
    library = faiss()
    ivf = library.extract_index_ivf(raw)
    held = library.downcast_InvertedLists(ivf.invlists)
    ivf.own_invlists = False
    # Named, because FAISS does not keep it alive.
    empty = library.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    ivf.replace_invlists(empty, False)
    try:
        library.write_index(raw, file)
    finally:
        ivf.replace_invlists(held, True)


@dataclass(frozen=True)
class Block:
    """Some vectors, sorted into lists, in two files: all codes, and all ids, list after list."""

    path: Path
    sizes: np.ndarray
    """int64 [lists]"""

    @classmethod
    def of(cls, raw: Any, path: Path) -> Block:
        """Write the lists of an index that holds them in memory."""
        library = faiss()
        ivf = library.extract_index_ivf(raw)
        held = ivf.invlists
        sizes = np.array([held.list_size(number) for number in range(ivf.nlist)], np.int64)
        with path.with_suffix(".codes").open("wb") as codes, path.with_suffix(".ids").open("wb") as ids:
            for number in np.flatnonzero(sizes).tolist():
                count = int(sizes[number])
                codes.write(library.rev_swig_ptr(held.get_codes(number), count * ivf.code_size).tobytes())
                ids.write(library.rev_swig_ptr(held.get_ids(number), count).tobytes())
        return cls(path, sizes)


def merge(blocks: Sequence[Block], code_size: int, directory: Path) -> None:
    """Join the lists of all blocks, one list at a time, and write where each lies.

    A list is its codes and then its ids, as FAISS maps them. The table is int64 [lists, 3]: the size, the capacity and
    the place in bytes of each.
    """
    sizes = np.stack([block.sizes for block in blocks])
    total = sizes.sum(axis=0)
    offsets = np.concatenate([[0], np.cumsum(total)])[:-1] * (code_size + 8)
    with ExitStack() as stack, (directory / LISTS).open("wb") as out:
        parts = [
            [stack.enter_context(block.path.with_suffix(suffix).open("rb")) for block in blocks]
            for suffix in (".codes", ".ids")
        ]
        for number in range(len(total)):
            for files, each in zip(parts, (code_size, 8), strict=True):
                for file, count in zip(files, sizes[:, number].tolist(), strict=True):
                    out.write(file.read(count * each))
    np.save(directory / TABLE, np.stack([total, total, offsets], axis=1), allow_pickle=False)


def attach(raw: Any, directory: Path) -> None:
    """Map the lists in a directory, read-only, into the index that was written there.

    Raises:
        CheckpointError: the table does not fit the index or its lists.
    """
    library = faiss()
    ivf = library.try_extract_index_ivf(raw)
    path, table_file = directory / LISTS, directory / TABLE
    try:
        table = np.load(table_file, allow_pickle=False)
        size = path.stat().st_size
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{table_file} cannot be read ({error!s:.120}): build the index again") from error
    fits = ivf is not None and table.shape == (ivf.nlist, 3) and table.dtype == np.int64
    if not fits or (table < 0).any() or (table[:, 2] + table[:, 1] * (ivf.code_size + 8) > size).any():
        raise CheckpointError(f"{table_file} does not fit the lists beside it: build the index again")
    held = library.OnDiskInvertedLists()
    held.nlist, held.code_size, held.read_only, held.filename, held.totsize = (
        ivf.nlist,
        ivf.code_size,
        True,
        str(path),
        size,
    )
    held.lists.clear()
    for count, capacity, offset in table.tolist():
        one = library.OnDiskOneList()
        one.size, one.capacity, one.offset = count, capacity, offset
        held.lists.push_back(one)
    held.do_mmap()
    ivf.replace_invlists(held, True)
    held.this.disown()
    raw.ntotal = ivf.ntotal = int(table[:, 0].sum())
