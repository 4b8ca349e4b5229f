"""What goes into an index, batch by batch: items and their vectors."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.parity_record import measured_batch
from icclip.config.indexing import ItemsConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery, load_gallery
from icclip.data.images import decode_image, read_file
from icclip.embedding.layout import is_sharded
from icclip.embedding.sinks import FINGERPRINT_KEY
from icclip.embedding.sources import check_paths, image_paths
from icclip.errors import DataError, UsageError
from icclip.naming import public_name
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder
from icclip.searching.engine import Vectors
from icclip.searching.items import Item
from icclip.searching.libraries import arrow, parquet
from icclip.searching.shards import Shards, unit

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 192
"""Pixels of a thumbnail's longer side."""
RESERVED = ("input", "path", "embedding")


@dataclass(frozen=True, slots=True)
class Raw:
    """An image before it is decoded."""

    path: str
    read: Callable[[], bytes]
    size: int | None = None
    mtime_ns: int | None = None
    captions: tuple[str, ...] | None = None
    row: int | None = None
    """In the dataset's split."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Items with their vectors, and what was left out."""

    items: Sequence[Item]
    vectors: np.ndarray
    """float32 [n, dim], rows of length 1."""
    rows: Sequence[int | None] = ()
    """The rows of a dataset's split."""
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unchanged: int = 0
    replaces: Sequence[int] = ()
    """Rows of the index that these items take the place of."""


@dataclass(frozen=True)
class Source:
    """Where items come from."""

    label: str
    """Without directories of this machine."""
    batches: Callable[[Mapping[str, Mapping[str, Any]]], Iterator[Batch]]
    """Takes what the index knows already: path -> row, size, time and hash."""
    gallery: Gallery | None = None
    others: Sequence[tuple[str, Any]] = ()
    """Further columns."""
    vectors: Vectors | None = None
    """All vectors of the batches, where they can be read again at any time."""
    captions: Callable[[int, int], tuple[Sequence[str], np.ndarray]] | None = None
    """(how many, seed) -> texts that are drawn from the items' own, and int64: the row of each."""


def source_of(
    config: ItemsConfig, registry: Registry, encoder: Encoder, fingerprint: str, reporter: Reporter
) -> Source:
    """The source that a request names.

    Raises:
        UsageError: a path, dataset or file of embeddings cannot be used, or was made by another encoder.
    """
    if config.embeddings is not None and is_sharded(config.embeddings):
        return _in_shards(config.embeddings, fingerprint, reporter)
    if config.embeddings is not None:
        return _ready_made(config.embeddings, fingerprint, reporter)
    if config.images:
        check_paths(config.images)
        label, gallery = ", ".join(public_name(str(path)) for path in config.images), None
        raws: Callable[[], Iterator[Raw]] = lambda: map(_of_file, _distinct(config.images))  # noqa: E731
    else:
        assert config.data is not None
        gallery = load_gallery(registry, config.data, config.split, reporter)
        # It says too whether the source has splits.
        label = gallery.label.replace(config.data.label, public_name(config.data.label), 1)
        raws = lambda: _of_split(gallery)  # noqa: E731

    def batches(known: Mapping[str, Mapping[str, Any]]) -> Iterator[Batch]:
        return encoded_batches(raws(), known, config, encoder)

    return Source(label, batches, gallery)


def _distinct(given: Sequence[Path]) -> Iterator[Path]:
    """Every file once, under its absolute path, so that the same file is known again."""
    seen = set()
    for path in image_paths(given):
        whole = path.absolute()
        if whole not in seen:
            seen.add(whole)
            yield whole


def _of_file(path: Path) -> Raw:
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return Raw(str(path), lambda: read_file(path, str(path)), status.st_size, status.st_mtime_ns)


def _of_split(gallery: Gallery) -> Iterator[Raw]:
    names, label = gallery.image_names, gallery.label
    used: set[str] = set()
    for row in range(len(gallery.images)):
        # Where images have names these are shown; a name that stands twice is told apart by its row.
        own = Path(names[row] or "").name
        name = own if own and own not in used else f"{label} row {row}"
        used.add(name)
        start, end = int(gallery.captions.offsets[row]), int(gallery.captions.offsets[row + 1])
        captions = tuple(gallery.captions.texts[start:end])
        yield Raw(name, partial(_content, gallery, row), None, None, captions, row)


def _content(gallery: Gallery, row: int) -> bytes:
    from icclip.data.split import encoded

    return encoded(gallery.images.rows[row]["image"], f"row {row}")


@dataclass
class _Pending:
    """What has been read since the last batch."""

    waiting: list[tuple[Raw, Item, Image]] = dataclasses.field(default_factory=list)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    unchanged: int = 0
    replaces: list[int] = dataclasses.field(default_factory=list)

    def batch(self, encoder: Encoder, batch_size: int) -> Batch:
        images = [image for _, _, image in self.waiting]
        batch = measured_batch(encoder, batch_size)
        vectors = encoder.encode_images(images, batch_size=batch) if images else np.empty((0, 0), np.float32)
        items, rows = [item for _, item, _ in self.waiting], [raw.row for raw, _, _ in self.waiting]
        return Batch(items, vectors, rows, self.skipped, self.unchanged, self.replaces)


def encoded_batches(
    raws: Iterator[Raw], known: Mapping[str, Mapping[str, Any]], config: ItemsConfig, encoder: Encoder
) -> Iterator[Batch]:
    """Read, compare with what is known, decode and encode, `batch_size` images at a time."""
    pending = _Pending()
    for raw in raws:
        try:
            made = _read(raw, known.get(raw.path), config)
        except DataError as error:
            if config.on_bad_image == "fail":
                raise DataError(f"{error}; pass --on-bad-image skip to leave such images out") from error
            pending.skipped[raw.path] = str(error)
            continue
        if made is None:
            pending.unchanged += 1
            continue
        pending.waiting.append((raw, *made))
        if raw.path in known:
            pending.replaces.append(int(known[raw.path]["row"]))
        if len(pending.waiting) >= config.batch_size:
            yield pending.batch(encoder, config.batch_size)
            pending = _Pending()
    if pending != _Pending():
        yield pending.batch(encoder, config.batch_size)


def _read(raw: Raw, before: Mapping[str, Any] | None, config: ItemsConfig) -> tuple[Item, Image] | None:
    """The item and its image; None where it is known and unchanged. Raises DataError."""
    if before is not None and raw.mtime_ns is not None and _same_file(raw, before):
        return None
    content = raw.read()
    digest = hashlib.sha256(content).hexdigest()
    if before is not None and before["sha256"] == digest:
        return None
    image = decode_image(content, raw.path)
    small = None if config.no_thumbnails else thumbnail(image)
    item = Item(
        path=raw.path, width=image.width, height=image.height, captions=raw.captions, size=len(content),
        mtime_ns=raw.mtime_ns, sha256=digest, thumbnail=small,
    )  # fmt: skip
    return item, image


def _same_file(raw: Raw, before: Mapping[str, Any]) -> bool:
    return bool(before["size"] == raw.size and before["mtime_ns"] == raw.mtime_ns)


def thumbnail(image: Image) -> bytes:
    """A small JPEG of an RGB image."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


# Embeddings that are there already ----------------------------------------------------------------


def _ready_made(path: Path, fingerprint: str, reporter: Reporter) -> Source:
    files = embedding_files(path)
    schema = _schema(files[0])
    column = "embedding" if "embedding" in schema.names else None
    if column is None or not (arrow().types.is_fixed_size_list(schema.field(column).type)):
        raise UsageError(f"{files[0]} has no column 'embedding' with lists of one length: write it with `icclip embed`")
    for file in files:
        _check_stamp(file, _schema(file), fingerprint, reporter)
    base = {"path", "width", "height", "captions", "size", "mtime_ns", "sha256", "thumbnail"}
    others = [(one.name, one.type) for one in schema if one.name not in {*base, *RESERVED, "id"}]

    def batches(known: Mapping[str, Mapping[str, Any]]) -> Iterator[Batch]:
        for file in files:
            yield from _read_batches(file, known, [name for name, _ in others])

    return Source(public_name(str(path)), batches, None, others)


def _in_shards(path: Path, fingerprint: str, reporter: Reporter) -> Source:
    shards = Shards.open(path, fingerprint, reporter)

    def batches(known: Mapping[str, Mapping[str, Any]]) -> Iterator[Batch]:
        for items, first in shards.items():
            vectors = shards.vectors[first : first + len(items)]
            new = [i for i, item in enumerate(items) if item.path not in known]
            yield Batch([items[i] for i in new], vectors[new], unchanged=len(items) - len(new))

    return Source(public_name(str(path)), batches, vectors=shards.vectors, captions=shards.captions)


def embedding_files(path: Path) -> list[Path]:
    """A parquet file, or the shards of a directory in their order. Raises UsageError."""
    if path.is_dir():
        found = sorted(path.glob("*.parquet"))
        if not found:
            raise UsageError(f"{path} holds no .parquet files of embeddings: make them with `icclip embed`")
        return found
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return [path]


def _schema(file: Path) -> Any:
    try:
        return parquet().read_schema(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not a parquet file: {error!s:.120}") from error


def _check_stamp(file: Path, schema: Any, fingerprint: str, reporter: Reporter) -> None:
    own = (schema.metadata or {}).get(FINGERPRINT_KEY.encode())
    if own is None:
        reporter.warn(f"{file} does not say which encoder made it: searches are wrong if it was another one")
    elif own.decode() != fingerprint:
        raise UsageError(
            f"{file} was made by another encoder (fingerprint {own.decode()[:12]}) than this one ({fingerprint[:12]}): "
            "embed the images again with this model, or index them with that one"
        )


def _read_batches(file: Path, known: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> Iterator[Batch]:
    for table in parquet().ParquetFile(file).iter_batches(batch_size=8_192):
        flat = table["embedding"].flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        vectors = unit(flat.reshape(len(table), -1), file)
        rest = [name for name in table.schema.names if name != "embedding"]
        rows = table.select(rest).to_pylist()
        items = [_item(values, others) for values in rows]
        new = [i for i, item in enumerate(items) if item.path not in known]
        yield Batch([items[i] for i in new], vectors[new], unchanged=len(items) - len(new))


def _item(values: Mapping[str, Any], others: Sequence[str]) -> Item:
    captions = values.get("captions")
    return Item(
        path=str(values.get("path", values.get("input", ""))),
        width=values.get("width"),
        height=values.get("height"),
        captions=None if captions is None else tuple(captions),
        sha256=values.get("sha256"),
        thumbnail=values.get("thumbnail"),
        others={name: values[name] for name in others},
    )
