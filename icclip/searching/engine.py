"""FAISS: making, opening, growing and searching an index of unit vectors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from icclip.config.indexing import StoredAs
from icclip.errors import CheckpointError, UsageError
from icclip.files import readable_os_errors
from icclip.searching.libraries import faiss
from icclip.searching.lists import LISTS, attach, lists_of, write_without_lists

KINDS = ("flat", "hnsw", "ivf-pq")
FLAT_BELOW, GRAPH_BELOW = 50_000, 1_000_000
"""Below how many items which kind is taken unless the user says otherwise."""
LEAST_TO_TRAIN = 1_000
"""Vectors that a quantizer of 256 centroids needs at least to be worth anything."""
TRAINED_ON = 262_144
"""Vectors that a quantizer is trained on at most."""
PER_LIST = 39
"""Training vectors that FAISS wants for each list."""
EXACT_BELOW = 50_000
"""So many items that pass a filter are compared one by one."""
CHUNK = 65_536
"""Vectors that are added, or compared, at a time."""


class Vectors(Protocol):
    """Unit vectors, float32 [n, dim], in memory or read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and width."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Some rows: a slice, or int64 [n]."""


_STORED = {None: "Flat", "float32": "Flat", "float16": "SQfp16"}
_REFINED = {None: "SQ8", "float32": "Flat", "float16": "SQfp16"}


def kind_for(items: int) -> str:
    """The kind that suits a number of items."""
    return "flat" if items < FLAT_BELOW else "hnsw" if items < GRAPH_BELOW else "ivf-pq"


def factory_of(kind: str, items: int, dim: int, stored_as: StoredAs | None) -> str:
    """FAISS's factory string for a kind; a factory string stays as it is. Raises UsageError for too few items."""
    if kind == "flat":
        return "Flat" if stored_as != "float16" else "SQfp16"
    if kind == "hnsw":
        return f"HNSW32,{_STORED[stored_as]}"
    if kind == "ivf-pq":
        return f"{quantized(items, dim, 8)},Refine({_REFINED[stored_as]})"
    return kind


def quantized(items: int, dim: int, share: int) -> str:
    """`IVF1024,PQ64np`: product codes of about `dim / share` bytes.

    `np` leaves out FAISS's polysemous training, which takes most of the time and is not used in searching.
    """
    if items < LEAST_TO_TRAIN:
        raise UsageError(f"ivf-pq needs at least {LEAST_TO_TRAIN:,} items to train on, {items:,} are here: use flat")
    lists = 2 ** round(math.log2(4 * math.sqrt(items)))
    while lists > max(1, items // PER_LIST):
        lists //= 2
    codes = max(m for m in range(1, max(1, dim // share) + 1) if dim % m == 0)
    return f"IVF{lists},PQ{codes}np"


@dataclass(frozen=True)
class Engine:
    """An open index of unit vectors; rows are those of `items.parquet`. Searching is safe from several threads.

    Args:
        raw: FAISS's object.
        effort: nprobe, efSearch and k_factor of a search.
        ids: int64 [items], ascending: the id of each row; None: rows are ids.
    """

    raw: Any
    effort: Mapping[str, int]
    ids: np.ndarray | None = None

    # Making

    @classmethod
    def built(cls, factory: str, vectors: Vectors, training: np.ndarray, dim: int) -> Engine:
        """A new index of unit vectors.

        Args:
            factory: FAISS's factory string.
            vectors: float32 [n, dim]; may be mapped from a file.
            training: float32 [m, dim]: what quantizers are trained on.
            dim: their width.

        Raises:
            UsageError: FAISS cannot make, or train, such an index.
        """
        engine = cls(empty_index(factory, dim, training[:TRAINED_ON]), {})
        with _said_by_faiss(factory):
            for start in range(0, len(vectors), CHUNK):
                engine.append(np.ascontiguousarray(vectors[start : start + CHUNK], np.float32), start)
        return engine

    def append(self, vectors: np.ndarray, first_id: int) -> None:
        """Add float32 [n, dim] with ids from `first_id` on."""
        if self.keeps_ids:
            self.raw.add_with_ids(vectors, np.arange(first_id, first_id + len(vectors), dtype=np.int64))
        else:
            self.raw.add(vectors)

    def without(self, rows: np.ndarray, ids: np.ndarray) -> Engine:
        """The index without some rows; it may be this very one, changed.

        Args:
            rows: int64: rows that leave.
            ids: int64 [items]: the ids of all rows.
        """
        library = faiss()
        if self.keeps_ids:
            self.raw.remove_ids(library.IDSelectorBatch(ids[rows]))
            return self
        kept = np.setdiff1d(np.arange(self.raw.ntotal), rows)
        new = library.clone_index(self.raw)
        new.reset()
        for start in range(0, len(kept), CHUNK):
            new.add(self.raw.reconstruct_batch(kept[start : start + CHUNK]))
        return Engine(new, self.effort)

    def save(self, path: Path) -> None:
        """Write it. Raises UsageError where the disk is full or the directory is not writable."""
        try:
            with readable_os_errors("the index", path):
                self._write(str(path))
        except RuntimeError as error:
            raise UsageError(f"cannot write the index to {path}: {_line(error)}") from error

    def _write(self, file: Any) -> None:
        if lists_of(self.raw) is None:
            faiss().write_index(self.raw, file)
        else:
            write_without_lists(self.raw, file)

    @classmethod
    def open(
        cls, path: Path, effort: Mapping[str, int], ids: np.ndarray | None = None, *, mapped: bool = True
    ) -> Engine:
        """Open what `save` wrote, mapped into memory so that it costs nothing until it is searched.

        Raises:
            CheckpointError: it is damaged.
        """
        library = faiss()
        on_disk = (path.parent / LISTS).exists()
        flags = library.IO_FLAG_MMAP_IFC if mapped and not on_disk and hasattr(library, "IO_FLAG_MMAP_IFC") else 0
        try:
            raw = library.read_index(str(path), flags)
            if on_disk:
                attach(raw, path.parent)
            return cls(raw, effort, ids)
        except RuntimeError as error:
            raise CheckpointError(f"{path} cannot be read ({_line(error)}): build the index again") from error

    # What it is

    @cached_property
    def _ivf(self) -> Any:
        return faiss().try_extract_index_ivf(self.raw)

    @cached_property
    def refines(self) -> bool:
        """Whether candidates are compared again with finer vectors."""
        return isinstance(faiss().downcast_index(self.raw), faiss().IndexRefine)

    @cached_property
    def keeps_ids(self) -> bool:
        """Whether FAISS itself keeps ids, which then stay when items leave; otherwise it counts rows."""
        return self._ivf is not None and not self.refines

    @cached_property
    def efforts(self) -> list[dict[str, int]]:
        """How hard a search may try, the least first; one empty setting where there is nothing to set."""
        if self._ivf is not None:
            lists = int(self._ivf.nlist)
            probes = [n for n in (4, 8, 16, 32, 64, 128, 256) if n < lists] + [min(lists, 512)]
            return [{"nprobe": n, **({"k_factor": min(64, max(4, n // 4))} if self.refines else {})} for n in probes]
        if _graph(self.raw) is not None:
            return [{"efSearch": ef} for ef in (32, 64, 128, 256, 512)]
        return [{}]

    def with_effort(self, effort: Mapping[str, int]) -> Engine:
        """The same index, searched with another effort."""
        return dataclasses.replace(self, effort=dict(effort))

    def serialized_bytes(self) -> int:
        """The size of its files, counted without a copy of it in memory."""
        library, count = faiss(), 0

        def written(block: bytes) -> None:
            nonlocal count
            count += len(block)

        self._write(library.PyCallbackIOWriter(written, 1 << 20))
        lists = lists_of(self.raw)
        return count + (0 if lists is None else int(lists.totsize))

    # Searching

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each query.

        Args:
            queries: float32 [q, dim], rows of length 1.
            k: how many are wanted.
            allowed: int64, ascending: rows that may be found; None: all.

        Returns:
            cosines float32 [q, k], best first, and rows int64 [q, k]; -1 where there are not as many.
        """
        k = min(k, self.raw.ntotal if allowed is None else len(allowed))
        if k == 0:
            empty = np.empty((len(queries), 0))
            return empty.astype(np.float32), empty.astype(np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        if allowed is not None and len(allowed) <= EXACT_BELOW and not self.keeps_ids:
            return self._exact(queries, k, allowed)
        labels = None if allowed is None else allowed if not self.keeps_ids else self._ids_of(allowed)
        cosines, found = self.raw.search(queries, k, params=self._parameters(labels))
        return cosines, self._rows_of(found)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The stored vectors of rows, as exactly as the index holds them: float32 [n, dim], rows of length 1."""
        if self.keeps_ids:
            held = self._decoded(self._ids_of(rows))
        else:
            held = self.raw.reconstruct_batch(np.ascontiguousarray(rows, np.int64))
        unit: np.ndarray = held / np.maximum(np.linalg.norm(held, axis=1, keepdims=True), 1e-12)
        return unit.astype(np.float32, copy=False)

    def _decoded(self, ids: np.ndarray) -> np.ndarray:
        # The map of ids to lists is made once, when a vector is first asked for.
        if self._ivf.direct_map.type == faiss().DirectMap.NoMap:
            self._ivf.set_direct_map_type(faiss().DirectMap.Hashtable)
        return np.stack([self.raw.reconstruct(int(one)) for one in ids])

    def _exact(self, queries: np.ndarray, k: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = ((allowed[i : i + CHUNK], self.vectors(allowed[i : i + CHUNK])) for i in range(0, len(allowed), CHUNK))
        return best_of(queries, k, blocks)

    def _parameters(self, labels: np.ndarray | None) -> Any:
        library = faiss()
        selected: dict[str, Any] = {}
        if labels is not None:
            selected = {"sel": library.IDSelectorBatch(np.ascontiguousarray(labels, np.int64))}
        return _parameters(self.raw, self.effort, selected)

    def _ids_of(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows, np.int64) if self.ids is None else self.ids[rows]

    def _rows_of(self, labels: np.ndarray) -> np.ndarray:
        if self.ids is None or not self.keeps_ids:
            return labels
        rows = np.searchsorted(self.ids, labels)
        return np.where(labels < 0, -1, rows)


def empty_index(factory: str, dim: int, training: np.ndarray) -> Any:
    """FAISS's object, trained and without vectors. Raises UsageError where it cannot make or train such an index."""
    library = faiss()
    with _said_by_faiss(factory):
        raw = library.index_factory(dim, factory, library.METRIC_INNER_PRODUCT)
        _quiet(raw)
        if not raw.is_trained:
            raw.train(np.ascontiguousarray(training))
    return raw


def best_of(
    queries: np.ndarray, k: int, blocks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Exact search: the k rows with the largest cosine, a block at a time; of equal ones the first.

    Args:
        queries: float32 [q, dim].
        k: at most as many as there are rows.
        blocks: rows int64 [b] and their vectors float32 [b, dim].

    Returns:
        cosines float32 [q, k] and rows int64 [q, k], best first.
    """
    cosines = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for own, vectors in blocks:
        every = np.concatenate([cosines, queries @ vectors.T], axis=1)
        named = np.concatenate([rows, np.broadcast_to(own, (len(queries), len(own)))], axis=1)
        order = np.argsort(-every, axis=1, kind="stable")[:, :k] if every.shape[1] <= 4 * k else _top(every, k)
        cosines, rows = np.take_along_axis(every, order, 1), np.take_along_axis(named, order, 1)
    return cosines, rows


def _top(values: np.ndarray, k: int) -> np.ndarray:
    found = np.argpartition(-values, k - 1, axis=1)[:, :k]
    order = np.lexsort((found, -np.take_along_axis(values, found, 1)), axis=1)
    return np.take_along_axis(found, order, 1)


def blocks_of(vectors: Vectors) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All rows with their vectors, for `best_of`."""
    for start in range(0, len(vectors), CHUNK):
        block = np.asarray(vectors[start : start + CHUNK], np.float32)
        yield np.arange(start, start + len(block)), block


def _parameters(raw: Any, effort: Mapping[str, int], selected: Mapping[str, Any]) -> Any:
    """FAISS's parameters for one search, from the outside in; None where there is nothing to say."""
    library = faiss()
    raw = library.downcast_index(raw)
    if isinstance(raw, library.IndexRefine):
        base = _parameters(raw.base_index, effort, selected)
        return library.IndexRefineSearchParameters(k_factor=effort.get("k_factor", 4), base_index_params=base)
    if isinstance(raw, library.IndexPreTransform):
        return library.SearchParametersPreTransform(index_params=_parameters(raw.index, effort, selected))
    if isinstance(raw, library.IndexIVF):
        return library.SearchParametersIVF(nprobe=effort.get("nprobe", 8), **selected)
    if isinstance(raw, library.IndexHNSW):
        return library.SearchParametersHNSW(efSearch=effort.get("efSearch", 64), **selected)
    return library.SearchParameters(**selected) if selected else None


def _graph(raw: Any) -> Any:
    library = faiss()
    raw = library.downcast_index(raw)
    if isinstance(raw, library.IndexPreTransform):
        return _graph(raw.index)
    return raw if isinstance(raw, library.IndexHNSW) else None


def _quiet(raw: Any) -> None:
    """FAISS prints a warning to stderr where there are few training points; the gate measures what that costs."""
    library = faiss()
    ivf = library.try_extract_index_ivf(raw)
    if ivf is not None:
        ivf.cp.min_points_per_centroid = 1
        held = library.downcast_index(ivf)
        if hasattr(held, "pq"):
            held.pq.cp.min_points_per_centroid = 1


class _said_by_faiss:  # noqa: N801 # a context manager
    """Turns what FAISS raises about a factory string into one line."""

    def __init__(self, factory: str) -> None:
        self.factory = factory

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RuntimeError):
            raise UsageError(f"FAISS cannot make an index {self.factory!r}: {_line(error)}") from error


def _line(error: Exception) -> str:
    """What FAISS says after the place in its source."""
    return " ".join(str(error).rpartition("\n")[2].split())[-200:] or " ".join(str(error).split())[-200:]


Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
