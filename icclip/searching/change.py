"""Adding to an index, removing from it, looking at it. A change that is cut off leaves the old index whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.config.indexing import AddConfig, InfoConfig, RemoveConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.files import exchange, staging_directory
from icclip.plugins.registry import Registry
from icclip.runs.claim import claim_beside, claimed
from icclip.searching.engine import Engine
from icclip.searching.items import Item, ItemWriter, base_schema
from icclip.searching.lists import LISTS
from icclip.searching.opening import OpenIndex, check_golden_vectors, encoder_of
from icclip.searching.record import ITEMS, VECTORS, Record, write_record
from icclip.searching.sources import source_of

if TYPE_CHECKING:
    from rich.console import RenderableType

GROWN = 1.5
"""A gate's measurement is old when the index has grown by this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeResult:
    """What was done to an index."""

    index: Path
    added: int = 0
    replaced: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    items: int = 0
    """How many it holds now."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "index": str(self.index)}

    def renderables(self) -> Iterator[RenderableType]:
        """One line."""
        from rich.text import Text

        from icclip.console import harmless

        done = {"added": self.added, "replaced": self.replaced, "removed": self.removed, "unchanged": self.unchanged}
        said = ", ".join(f"{count:,} {name}" for name, count in done.items() if count) or "nothing to do"
        yield Text(harmless(f"{self.index}: {said}; {self.items:,} items"))

    def verdict(self) -> None:
        """A change has no threshold to miss."""


def add(config: AddConfig, registry: Registry, reporter: Reporter) -> ChangeResult:
    """Index what is new or has changed; what is unchanged by size and time, or by its hash, is left alone.

    Raises:
        UsageError: the encoder is another one, or the items cannot be used.
    """
    assert config.encoder is not None
    with claimed(config.index, claim_beside(config.index), reporter.note):
        index = _changeable(config.index)
        encoder = encoder_of(index, config.encoder, registry, reporter)
        check_golden_vectors(index, encoder)
        stamp = index.record.encoder
        items = dataclasses.replace(config.items, no_thumbnails=not index.record.thumbnails)
        source = source_of(items, registry, encoder, stamp.fingerprint, reporter)
        new: list[Item] = []
        vectors = [np.empty((0, stamp.dim), np.float32)]
        result, leaving = ChangeResult(index=config.index), list[int]()
        for batch in source.batches(index.items.known()):
            if len(batch.items):
                if batch.vectors.shape[1] != stamp.dim:
                    raise UsageError(
                        f"the embeddings have the width {batch.vectors.shape[1]}, but {config.index} holds {stamp.dim}"
                    )
                new += batch.items
                vectors.append(batch.vectors)
            leaving += batch.replaces
            result = dataclasses.replace(
                result,
                unchanged=result.unchanged + batch.unchanged,
                skipped={**result.skipped, **batch.skipped},
            )
        result = dataclasses.replace(result, added=len(new) - len(leaving), replaced=len(leaving))
        if new:
            record = _rewrite(index, np.array(sorted(leaving), np.int64), new, np.concatenate(vectors), source.others)
            _say_where_old(record, reporter)
        return dataclasses.replace(result, items=index.record.items + len(new) - len(leaving))


def remove(config: RemoveConfig, reporter: Reporter) -> ChangeResult:
    """Take items out by their paths, by a condition, or because their files are gone.

    Raises:
        UsageError: a path is not in the index, the condition is none, or nothing would be left.
    """
    with claimed(config.index, claim_beside(config.index), reporter.note):
        index = _changeable(config.index)
        rows = _leaving(config, index)
        if len(rows) == index.record.items:
            raise UsageError(f"nothing would be left in {config.index}: remove the directory instead")
        if len(rows):
            none = np.empty((0, index.record.encoder.dim), np.float32)
            _rewrite(index, rows, [], none, ())
        return ChangeResult(index=config.index, removed=len(rows), items=index.record.items - len(rows))


def _changeable(directory: Path) -> OpenIndex:
    index = OpenIndex.open(directory)
    if LISTS in index.record.bytes:
        raise UsageError(
            f"{directory} has its lists on the disk and is not changed in place: build it again from its embeddings"
        )
    return index


def _leaving(config: RemoveConfig, index: OpenIndex) -> np.ndarray:
    if config.where is not None:
        return index.items.rows_where(config.where)
    known = index.items.known()
    if config.missing:
        gone = [
            values["row"]
            for path, values in known.items()
            if values["mtime_ns"] is not None and not Path(path).exists()
        ]
        return np.array(sorted(gone), np.int64)
    found = []
    for said in config.paths:
        path = said if said in known else str(Path(said).absolute())
        if path not in known:
            raise UsageError(f"{config.index} has no item {said}")
        found.append(known[path]["row"])
    return np.array(sorted(set(found)), np.int64)


def _rewrite(index: OpenIndex, leaving: np.ndarray, new: list[Item], vectors: np.ndarray, others: Any) -> Record:
    """The index anew, in a directory beside it that takes its place at once."""
    engine: Engine = index.engine_from_file(mapped=False)
    ids = index.items.ids
    if len(leaving):
        engine = engine.without(leaving, ids)
    first = index.record.next_id
    if len(new):
        engine.append(np.ascontiguousarray(vectors, np.float32), first)
    with staging_directory(index.directory) as staging:
        engine.save(staging / VECTORS)
        own = [(name, kind) for name, kind in index.items.types.items() if name not in base_schema().names]
        with ItemWriter(staging / ITEMS, [*own, *(one for one in others if one[0] not in index.items.types)]) as writer:
            for start, table in index.items.groups():
                kept = np.setdiff1d(np.arange(len(table)), leaving - start)
                writer.copy(table.take(kept))
            writer.add(new, first)
        _copy_golden(index.directory, staging)
        count = index.record.items - len(leaving) + len(new)
        record = write_record(staging, dataclasses.replace(index.record, items=count, next_id=first + len(new)))
        exchange(staging, index.directory)
    return record


def _copy_golden(directory: Path, staging: Path) -> None:
    import shutil

    from icclip.bundles.golden import DIRECTORY

    shutil.copytree(directory / DIRECTORY, staging / DIRECTORY)


def _say_where_old(record: Record, reporter: Reporter) -> None:
    if record.gate is not None and record.items > GROWN * int(record.gate["items"]) and record.index != "flat":
        reporter.warn(
            f"the gate measured this index with {record.gate['items']:,} items, and it has {record.items:,} now: "
            "build it again to measure it anew"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoResult:
    """What an index says about itself."""

    index: Path
    record: Record

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"path": str(self.index), **self.record.to_mapping()}

    def renderables(self) -> Iterator[RenderableType]:
        """A table of facts, what was tried, and what the gate measured."""
        from icclip.report.index import gate_table, index_table, tried_table

        record = self.record
        effort = " ".join(f"{name}={value}" for name, value in record.effort.items())
        yield index_table(
            str(self.index),
            {
                "items": f"{record.items:,} of {record.source}",
                "index": f"{record.factory} {effort}".strip(),
                "size": ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in record.bytes.items()),
                "encoder": f"{record.encoder.description} ({record.encoder.checkpoint})",
                "fingerprint": record.encoder.fingerprint,
            },
        )
        yield tried_table(record.tried)
        if record.gate is not None:
            yield gate_table(record.gate)

    def verdict(self) -> None:
        """Looking has no threshold to miss."""


def info(config: InfoConfig) -> InfoResult:
    """Read what an index says about itself. Raises CheckpointError where it is none, or damaged."""
    index = OpenIndex.open(config.index)
    _ = index.items
    return InfoResult(index=config.index, record=index.record)
