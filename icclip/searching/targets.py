"""Writing to a vector database instead of a FAISS index: `icclip index MODEL ... --to NAME://ADDRESS`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.config.indexing import IndexConfig
from icclip.console import Reporter, harmless
from icclip.encoders import open_encoder
from icclip.errors import DataError, UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import IndexWrite
from icclip.searching.items import Item
from icclip.searching.record import stamp_of
from icclip.searching.sources import Source, source_of

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """What was written to a database."""

    to: str
    items: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"to": self.to, "items": self.items, "skipped": dict(self.skipped)}

    def renderables(self) -> Iterator[RenderableType]:
        """One line."""
        from rich.text import Text

        yield Text(harmless(f"{self.to}: {self.items:,} items"))

    def verdict(self) -> None:
        """The database answers for what it finds."""


def write_to_target(config: IndexConfig, registry: Registry, reporter: Reporter) -> TargetResult:
    """Encode, and hand everything to the target batch by batch.

    Raises:
        UsageError: the target is unknown, or anything else that the user can correct.
        DataError: an image cannot be read, or none can.
    """
    name, separator, address = (config.to or "").partition("://")
    if not separator or not address:
        raise UsageError(f"--to {config.to}: write it as NAME://ADDRESS, such as lancedb://DIRECTORY?table=photos")
    target = registry.index_target(name)
    encoder = open_encoder(registry, config.encoder, reporter)
    reporter.note(encoder.description)
    dim = int(encoder.encode_texts(["a"], batch_size=1).shape[1])
    stamp = stamp_of(encoder, config.encoder.checkpoint, dim)
    source = source_of(config.items, registry, encoder, stamp.fingerprint, reporter)
    skipped: dict[str, str] = {}
    request = IndexWrite(address=address, dim=dim, fingerprint=stamp.fingerprint, batches=_batches(source, skipped))
    count = target.write(request)
    if not count:
        raise DataError(f"nothing to index: {next(iter(skipped.values()), 'the source is empty')}")
    reporter.note(f"wrote {count:,} items to {config.to}")
    return TargetResult(to=str(config.to), items=count, skipped=skipped)


def _batches(source: Source, skipped: dict[str, str]) -> Iterator[tuple[list[Mapping[str, Any]], np.ndarray]]:
    for batch in source.batches({}):
        skipped |= batch.skipped
        if batch.items:
            yield [_columns(item) for item in batch.items], np.ascontiguousarray(batch.vectors, np.float32)


def _columns(item: Item) -> dict[str, Any]:
    captions = None if item.captions is None else list(item.captions)
    own = {
        "path": item.path,
        "width": item.width,
        "height": item.height,
        "captions": captions,
        "thumbnail": item.thumbnail,
    }
    return {**item.others, **own}
