"""Embeddings in shards, as `icclip embed --shards` writes them: read a part at a time, and never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icclip.console import Reporter
from icclip.embedding.layout import Layout, Manifest
from icclip.errors import CheckpointError, UsageError
from icclip.searching.items import Item
from icclip.searching.libraries import parquet

BATCH = 8_192
SHARDS_ASKED = 64
"""Shards whose captions are drawn from."""


@dataclass(frozen=True)
class ShardedVectors:
    """The rows of many .npy files as one array, of which parts are read when they are asked for.

    Files are mapped for as long as a part is copied, so that no page of them stays in the process.

    Args:
        files: with float32 [n, dim].
        counts: the n of each.
        dim: the width of all.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    dim: int

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [files + 1]: the first row of each file, and the number of all rows."""
        return np.cumsum([0, *self.counts], dtype=np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self), self.dim

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """float32 [n, dim], rows of length 1. Takes a slice without a step, or int64 [n].

        Raises:
            CheckpointError: a file is damaged, or holds a vector that is zero or not finite.
        """
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._between(start, stop)
        wanted = np.asarray(rows, np.int64)
        made = np.empty((len(wanted), self.dim), np.float32)
        owner = np.searchsorted(self.starts, wanted, side="right") - 1
        for file in np.unique(owner):
            own = owner == file
            made[own] = self._file(int(file))[wanted[own] - self.starts[file]]
        return unit(made, self.files[0].parent)

    def _between(self, start: int, stop: int) -> np.ndarray:
        made = np.empty((max(0, stop - start), self.dim), np.float32)
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        for file in range(first, len(self.files)):
            begin, end = int(self.starts[file]), int(self.starts[file + 1])
            low, high = max(start, begin), min(stop, end)
            if low < high:
                made[low - start : high - start] = self._file(file)[low - begin : high - begin]
            if end >= stop:
                break
        return unit(made, self.files[0].parent)

    def _file(self, number: int) -> np.ndarray:
        path = self.files[number]
        try:
            held: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path} cannot be read ({error!s:.120}): embed its shard again") from error
        if held.shape != (self.counts[number], self.dim) or held.dtype != np.float32:
            raise CheckpointError(
                f"{path} holds {held.shape} {held.dtype}, but its shard has {self.counts[number]:,} rows of {self.dim} float32: "
                "embed it again"
            )
        return held


def unit(vectors: np.ndarray, origin: Path) -> np.ndarray:
    """Rows of length 1. Raises CheckpointError where one is zero or not finite."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise CheckpointError(f"{origin} holds an embedding that is zero or not finite: embed the images again")
    made: np.ndarray = vectors / lengths
    return made


@dataclass(frozen=True)
class Shards:
    """The finished shards of a directory."""

    layout: Layout
    manifest: Manifest
    numbers: tuple[int, ...]
    vectors: ShardedVectors

    @classmethod
    def open(cls, directory: Path, fingerprint: str, reporter: Reporter) -> Shards:
        """Read what is finished.

        Raises:
            UsageError: another encoder made them, or none is finished.
            CheckpointError: the manifest or a mark is damaged.
        """
        layout = Layout(directory)
        manifest = layout.read()
        _check_encoder(directory, manifest, fingerprint, reporter)
        done = {shard: counts.rows for shard, counts in layout.all_finished(manifest.shards) if counts.rows}
        finished = sum(1 for _ in layout.all_finished(manifest.shards))
        if not done:
            raise UsageError(f"{directory} has no finished shard with embeddings: run `icclip embed` again")
        if finished < manifest.shards:
            reporter.warn(
                f"{directory}: {finished:,} of {manifest.shards:,} shards are finished; the others are left out"
            )
        files = tuple(map(layout.images, done))
        return cls(layout, manifest, tuple(done), ShardedVectors(files, tuple(done.values()), manifest.dim))

    def items(self) -> Iterator[tuple[list[Item], int]]:
        """The items in their order, some at a time, and the row of the first of them."""
        row = 0
        for shard, count in zip(self.numbers, self.vectors.counts, strict=True):
            begin = row
            for table in self._metadata(shard).iter_batches(batch_size=BATCH):
                items = [_item(values) for values in table.to_pylist()]
                yield items, row
                row += len(items)
            if row - begin != count:
                raise CheckpointError(
                    f"{self.layout.metadata(shard)} has {row - begin:,} rows for {count:,} vectors: embed its shard again"
                )

    def captions(self, most: int, seed: int) -> tuple[list[str], np.ndarray]:
        """Captions that are drawn from up to 64 shards, and int64: the row of each."""
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(self.numbers))[:SHARDS_ASKED])
        texts: list[str] = []
        rows: list[int] = []
        for place in chosen:
            column = self._metadata(self.numbers[place]).read(columns=["caption"])["caption"].to_pylist()
            own = [(text, row) for row, text in enumerate(column, start=int(self.vectors.starts[place])) if text]
            for number in np.sort(rng.permutation(len(own))[: -(-most // len(chosen))]):
                texts.append(own[number][0])
                rows.append(own[number][1])
        return texts[:most], np.array(rows[:most], np.int64)

    def _metadata(self, shard: int) -> Any:
        path = self.layout.metadata(shard)
        try:
            return parquet().ParquetFile(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error!s:.120}): embed its shard again") from error


def _item(values: Mapping[str, Any]) -> Item:
    caption = values["caption"]
    return Item(path=values["image_path"], captions=None if caption is None else (caption,))


def _check_encoder(directory: Path, manifest: Manifest, fingerprint: str, reporter: Reporter) -> None:
    own = manifest.fingerprint
    if own is None:
        reporter.warn(f"{directory} does not say which encoder made it: searches are wrong if it was another one")
    elif own != fingerprint:
        raise UsageError(
            f"{directory} was made by another encoder (fingerprint {own[:12]}) than this one ({fingerprint[:12]}): embed the "
            "images again with this model, or index them with that one"
        )
