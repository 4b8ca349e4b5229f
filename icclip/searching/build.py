"""Building an index: encode, train, add, measure, write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.parity_record import measured_batch
from icclip.config.indexing import LEAST_RECALL, IndexConfig, bytes_of
from icclip.console import Reporter
from icclip.encoders import open_encoder
from icclip.errors import DataError, GateError, UsageError
from icclip.files import put_in_place, staging_directory
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder
from icclip.runs.claim import claim_beside, claimed
from icclip.searching import gate
from icclip.searching.choice import Tried, build_best
from icclip.searching.engine import Vectors
from icclip.searching.items import ItemWriter
from icclip.searching.libraries import faiss
from icclip.searching.lists import LISTS
from icclip.searching.opening import write_golden_vectors
from icclip.searching.phrases import phrases, texts_in
from icclip.searching.record import ITEMS, VECTORS, Record, Stamp, is_index, stamp_of, write_record
from icclip.searching.sources import Batch, Source, source_of

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_TEXTS = 20_000
"""Texts that a quantizer is trained on beside the images."""
SECONDS = 30.0
"""Seconds between two progress notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexResult:
    """What was built, and what the gate says of it."""

    output: Path
    record: Record
    failures: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.output), **self.record.to_mapping(), "failures": list(self.failures),
            "skipped": dict(self.skipped), "seconds": round(self.seconds, 2),
        }  # fmt: skip

    def renderables(self) -> Iterator[RenderableType]:
        """The kinds that were tried, and what the gate measured."""
        from icclip.report.index import gate_table, tried_table

        yield tried_table(self.record.tried)
        if self.record.gate is not None:
            yield gate_table(self.record.gate)

    def verdict(self) -> None:
        """Raises GateError naming the first kind of query that finds too little."""
        if self.failures:
            more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            raise GateError(
                f"{self.output}: {self.failures[0]}{more}; let --min-recall choose the kind, or lower it to accept this"
            )


@dataclass
class Gathered:
    """What the first pass over the source left: vectors in a file, items in theirs."""

    vectors: Vectors
    rows: list[int | None]
    skipped: dict[str, str]
    first_paths: list[str] = field(default_factory=list)


def build_index(config: IndexConfig, registry: Registry, reporter: Reporter) -> IndexResult:
    """Build an index and put it in its place, whole or not at all.

    Raises:
        UsageError: anything that the user can correct: model, images, kind, size.
        DataError: an image cannot be read, or none can.
    """
    faiss()
    began = time.monotonic()
    _check_place(config.output, overwrite=config.overwrite)
    encoder = open_encoder(registry, config.encoder, reporter)
    reporter.note(encoder.description)
    stamp = stamp_of(encoder, config.encoder.checkpoint, _width(encoder))
    source = source_of(config.items, registry, encoder, stamp.fingerprint, reporter)
    with (
        claimed(config.output, claim_beside(config.output), reporter.note),
        staging_directory(config.output) as staging,
        vectors_file(staging) as file,
    ):
        gathered = _gather(source, stamp, file, staging / ITEMS, reporter)
        queries, texts = _queries(config, source, gathered, encoder)
        engine, tried, measured = build_best(config, gathered.vectors, texts, queries, reporter, directory=staging)
        engine.save(staging / VECTORS)
        write_golden_vectors(staging, encoder)
        record = write_record(staging, _record(config, source.label, stamp, tried, measured))
        # Mapped until here; it is no part of the index.
        gathered.vectors = np.empty((0, stamp.dim), np.float32)
        file.unlink()
        put_in_place(staging, config.output)
    _say(config.output, record, gathered.skipped, reporter)
    failed = () if measured is None else tuple(gate.failures(measured, config.min_recall or LEAST_RECALL))
    return IndexResult(
        output=config.output, record=record, failures=failed, skipped=gathered.skipped, seconds=time.monotonic() - began
    )


def _check_place(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not (overwrite and is_index(output)) and not (output.is_dir() and not any(output.iterdir())):
        what = (
            "an index: add to it with `icclip index add`, or pass --overwrite" if is_index(output) else "not an index"
        )
        raise UsageError(f"{output} exists and is {what}")


def _width(encoder: Encoder) -> int:
    return int(encoder.encode_texts(["a"], batch_size=1).shape[1])


@contextmanager
def vectors_file(staging: Path) -> Iterator[Path]:
    """A file for the vectors while the index is built."""
    file = staging / "vectors.f32"
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _gather(source: Source, stamp: Stamp, file: Path, items: Path, reporter: Reporter) -> Gathered:
    """Encode everything once: vectors to a file, items to theirs, so that memory does not grow with them."""
    rows: list[int | None] = []
    skipped: dict[str, str] = {}
    count = 0
    began = said = time.monotonic()
    with ItemWriter(items, source.others) as writer, file.open("wb") as out:
        for batch in source.batches({}):
            _check_width(batch, stamp)
            if source.vectors is None:
                out.write(np.ascontiguousarray(batch.vectors, "<f4").tobytes())
            writer.add(batch.items, count)
            count += len(batch.items)
            if source.gallery is not None:
                rows += batch.rows
            skipped |= batch.skipped
            if time.monotonic() - said > SECONDS:
                said = time.monotonic()
                reporter.note(f"{count:,} items encoded, {count / (said - began):.0f} per second")
    if not count:
        first = next(iter(skipped.values()), "the source is empty")
        raise DataError(f"nothing to index: {first}")
    vectors = np.memmap(file, "<f4", "r", shape=(count, stamp.dim)) if source.vectors is None else source.vectors
    return Gathered(vectors, rows, skipped)


def _check_width(batch: Batch, stamp: Stamp) -> None:
    if len(batch.items) and batch.vectors.shape[1] != stamp.dim:
        raise UsageError(
            f"the embeddings have the width {batch.vectors.shape[1]}, but {stamp.checkpoint} gives {stamp.dim}: they are "
            "another model's"
        )


def _queries(
    config: IndexConfig, source: Source, gathered: Gathered, encoder: Encoder
) -> tuple[gate.Queries, np.ndarray]:
    """What the index is measured with, and the text vectors that quantizers are trained on: other texts where there are enough."""
    rng = np.random.default_rng(config.seed)
    texts, owner, relevant, origin = _texts(config, source, gathered)
    order = rng.permutation(len(texts))
    measured = np.sort(order[: config.n_queries])
    others = order[config.n_queries : config.n_queries + MOST_TEXTS]
    batch = measured_batch(encoder, 256)
    asked = encoder.encode_texts([texts[i] for i in measured], batch_size=batch)
    training = encoder.encode_texts([texts[i] for i in others], batch_size=batch) if len(others) else asked
    images = np.sort(rng.permutation(len(gathered.vectors))[: config.n_queries])
    right = None if relevant is None else tuple(relevant(int(i)) for i in measured)
    return gate.Queries(asked, owner[measured], right, images, origin), training


def _texts(config: IndexConfig, source: Source, gathered: Gathered) -> tuple[Sequence[str], np.ndarray, Any, str]:
    """Texts, the group of each, a function from a text to the rows that are right for it, and where they come from."""
    if config.queries is not None:
        texts = texts_in(config.queries)
        return texts, np.arange(len(texts)), None, config.queries.name
    gallery = source.gallery
    drawn, rows = (
        ([], np.empty(0)) if source.captions is None else source.captions(config.n_queries + MOST_TEXTS, config.seed)
    )
    if len(drawn):
        return drawn, rows, lambda text: rows[text : text + 1], f"captions of {source.label}"
    if gallery is None or not gallery.captions.n_texts:
        texts = phrases()
        return texts, np.arange(len(texts)), None, "phrases that come with icclip"
    relevance = gallery.relevance("pair" if gathered.skipped else None)
    place = {row: index for index, row in enumerate(gathered.rows)}

    def right(text: int) -> np.ndarray:
        return np.array([place[int(row)] for row in relevance.images_of(text) if int(row) in place], np.int64)

    return gallery.captions.texts, gallery.captions.image_of_text, right, f"captions of {source.label}"


def _record(
    config: IndexConfig, label: str, stamp: Stamp, tried: Sequence[Tried], measured: Mapping[str, Any] | None
) -> Record:
    chosen = next(one for one in tried if one.chosen)
    count, threshold = chosen.items, config.min_recall or LEAST_RECALL
    return Record(
        encoder=stamp,
        index=chosen.kind,
        factory=chosen.factory,
        effort=dict(chosen.effort),
        items=count,
        next_id=count,
        source=label,
        thumbnails=not config.items.no_thumbnails,
        gate=None if measured is None else {**measured, "items": count, "needed": threshold, "passed": not gate.failures(measured, threshold)},
        tried=tuple(one.to_mapping() for one in tried),
    )  # fmt: skip


def _say(output: Path, record: Record, skipped: Mapping[str, str], reporter: Reporter) -> None:
    size = bytes_of("1MB") or 1
    vectors = record.bytes[VECTORS] + record.bytes.get(LISTS, 0)
    reporter.note(f"wrote {output}: {record.items:,} items, {record.factory}, {vectors / size:.1f} MB of vectors")
    for path, why in list(skipped.items())[:3]:
        reporter.warn(f"left out {path}: {why}")
    if len(skipped) > 3:  # noqa: PLR2004 # as many as are named above
        reporter.warn(f"{len(skipped):,} images could not be read and were left out in all")
