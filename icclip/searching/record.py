"""What an index says about itself: `icclip.json`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from icclip.bundles.reading import read_table
from icclip.config import LossFamily
from icclip.config.base import Config
from icclip.errors import CheckpointError, ConfigError, UsageError
from icclip.files import atomic_write_json
from icclip.plugins.specs import Encoder
from icclip.searching.lists import LISTS, TABLE

NAME, VECTORS, ITEMS = "icclip.json", "index.faiss", "items.parquet"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp(Config):
    """Which encoder made the vectors, and how it scores."""

    checkpoint: str
    """Where it was when the index was built."""
    fingerprint: str
    """sha256 over weights, precision, preprocessing and text policy."""
    description: str
    dim: int
    precision: str
    loss: LossFamily
    logit_scale: float
    """The natural logarithm of the factor on the cosine."""
    logit_bias: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Config):
    """All that opening an index needs to know."""

    format: int = FORMAT
    kind: Literal["index"] = "index"
    metric: Literal["cosine"] = "cosine"
    encoder: Stamp
    index: str
    """flat, hnsw, ivf-pq or a factory string."""
    factory: str
    """FAISS's factory string."""
    effort: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How hard a search tries: nprobe, efSearch, k_factor."""
    items: int
    next_id: int
    source: str
    """What was indexed, without directories of the machine."""
    thumbnails: bool
    bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """File -> its size."""
    gate: Mapping[str, Any] | None = None
    """What the gate measured; None: it was off."""
    tried: tuple[Mapping[str, Any], ...] = ()
    """The kinds that were tried, with size and recall."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def problems(self) -> list[str]:
        """Counts that contradict each other."""
        return [] if 0 <= self.items <= self.next_id else [f"{self.items} items with ids below {self.next_id}"]


@runtime_checkable
class Fingerprinted(Protocol):
    """An encoder that says what it is, to the last bit, and how it scores."""

    fingerprint: str
    loss: LossFamily
    logit_scale: float
    logit_bias: float | None
    precision: str


def stamp_of(encoder: Encoder, checkpoint: str, dim: int) -> Stamp:
    """What an index keeps of its encoder. Raises UsageError for one that has no fingerprint."""
    if not isinstance(encoder, Fingerprinted):
        raise UsageError(
            f"{checkpoint} cannot be indexed: its export target gives encoders without a fingerprint, so an index could "
            "not tell whether it is searched with the same one"
        )
    return Stamp(
        checkpoint=_place(checkpoint),
        fingerprint=encoder.fingerprint,
        description=encoder.description,
        dim=dim,
        precision=encoder.precision,
        loss=encoder.loss,
        logit_scale=float(encoder.logit_scale),
        logit_bias=None if encoder.logit_bias is None else float(encoder.logit_bias),
    )


def _place(checkpoint: str) -> str:
    """An absolute path, so that the index can be searched from another directory; a hub id as it is."""
    path = Path(checkpoint)
    return str(path.absolute()) if path.exists() else checkpoint


def versions() -> dict[str, str]:
    """The libraries that made the index."""
    return {name: importlib.metadata.version(name) for name in ("icclip", "faiss-cpu") if _installed(name)}


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_record(directory: Path, record: Record) -> Record:
    """Write `icclip.json` with the sizes of the files beside it."""
    sizes = {
        name: (directory / name).stat().st_size
        for name in (VECTORS, ITEMS, LISTS, TABLE)
        if (directory / name).exists()
    }
    whole = dataclasses.replace(record, bytes=sizes, versions=versions())
    atomic_write_json(directory / NAME, whole.to_mapping())
    return whole


def read_record(directory: Path) -> Record:
    """Read and check `icclip.json`, and compare the sizes of the files beside it.

    Raises:
        CheckpointError: it is no index, has another format, or is damaged.
    """
    path = directory / NAME
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no index {directory}: make one with `icclip index MODEL --images DIR -o INDEX`"
        )
    values = read_table(path, f"{directory} is not an index: cannot read {NAME}")
    if values.get("kind") != "index":
        raise CheckpointError(
            f"{directory} is not an index but a {values.get('kind', 'run')}: make one with `icclip index`"
        )
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {values.get('format')!r}, but this icclip reads {FORMAT}: build the index again"
        )
    try:
        record = Record.from_mapping(values)
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged ({error}): build the index again") from error
    for name, size in record.bytes.items():
        file = directory / Path(name).name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise CheckpointError(f"{file} {what}: build the index again")
    return record


def is_index(directory: Path) -> bool:
    """Whether a directory says that it is an index."""
    try:
        values = json.loads((directory / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("kind") == "index"
