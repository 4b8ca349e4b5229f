"""The images in a file: itself, the members of an archive, or the rows of a table, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from icclip.data.archives import samples
from icclip.embedding.places import ARCHIVES, TABLES, Input, opened, read
from icclip.errors import DataError

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "content")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "sentence", "sentences", "caption_0")
ROWS = 64
"""Rows of a table that are read at a time."""


@dataclass(frozen=True, slots=True)
class Found:
    """One image before it is decoded, or why there is none."""

    name: str
    """The file; with the member or row behind a #, where there are many in it."""
    content: bytes | None = None
    caption: str | None = None
    problem: str | None = None


def found_in(one: Input) -> Iterator[Found]:
    """The images of a file in their order. What cannot be read is a Found with a problem, and never raises DataError."""
    name = one.place.lower()
    try:
        if name.endswith(ARCHIVES):
            yield from _in_archive(one.place)
        elif name.endswith(TABLES):
            yield from _in_table(one.place)
        else:
            yield Found(one.place, read(one.place))
    except DataError as error:
        yield Found(one.place, problem=str(error))


def _in_archive(place: str) -> Iterator[Found]:
    with opened(place) as file:
        for sample in samples(file, place):
            if sample.name:
                caption = sample.texts.get(".txt")
                text = None if caption is None else caption.decode("utf-8", "replace").strip()
                # Content that is missing has its reason.
                yield Found(f"{place}#{sample.name}", sample.image, text, None if sample.image else sample.problem)


def _in_table(place: str) -> Iterator[Found]:
    from pyarrow import ArrowException, parquet

    try:
        with opened(place) as file:
            table = parquet.ParquetFile(file)
            image, caption = _columns(place, table.schema_arrow)
            number = 0
            for batch in table.iter_batches(batch_size=ROWS, columns=[name for name in (image, caption) if name]):
                for row in batch.to_pylist():
                    yield _row(f"{place}#{number}", row[image], row[caption] if caption else None)
                    number += 1
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{place}: the table is damaged ({' '.join(str(error).split()):.120})") from error


def _columns(place: str, schema: Any) -> tuple[str, str | None]:
    """The column of images and that of captions. Raises DataError where no column holds images."""
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if image is None:
        raise DataError(f"{place}: has no column of images (one of {', '.join(IMAGE_COLUMNS)})")
    return image, next((name for name in CAPTION_COLUMNS if name in schema.names), None)


def _row(name: str, image: Any, caption: Any) -> Found:
    content = image.get("bytes") if isinstance(image, dict) else image
    text = caption[0] if isinstance(caption, list) and caption else caption
    if not isinstance(content, bytes):
        return Found(name, problem=f"{name}: the image is null, or not the content of an image file")
    return Found(name, content, text if isinstance(text, str) else None)
