"""What a split has in common with the other splits of its dataset: byte-identical images and identical captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from icclip.console import counted
from icclip.data.split import caption_lists, encoded
from icclip.retrieval.relevance import same_text

if TYPE_CHECKING:
    from datasets import Dataset

    from icclip.data.gallery import Gallery

_AT_ONCE = 256


def leakage(gallery: Gallery, others: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """For each other split that shares something: its name as `in`, and how many `images` and `captions` of this split.

    Args:
        gallery: the split that is measured.
        others: the splits beside it, with the columns `image` and `captions`.

    Raises:
        DataError: an image's file cannot be read.
    """
    found = []
    for name, split in others.items():
        images, captions = _shared_images(gallery, split), _shared_captions(gallery.captions.texts, split)
        if images or captions:
            found.append({"in": name, "images": images, "captions": captions})
    return found


def leakage_line(shared: Mapping[str, Any], split: str) -> str:
    """One finding in words."""
    counts = ((shared["images"], "byte-identical image"), (shared["captions"], "identical caption"))
    said = " and ".join(counted(count, what) for count, what in counts if count)
    return f"leakage from {shared['in']} into {split}: {said}"


def _shared_captions(texts: Sequence[str], split: Dataset) -> int:
    known = {same_text(text) for own in caption_lists(split) for text in own}
    return sum(same_text(text) in known for text in texts)


def _shared_images(gallery: Gallery, split: Dataset) -> int:
    """Only files of a length that the measured split has are read and hashed."""
    lengths = set(_lengths(gallery.images.rows))
    rows = [row for row, length in enumerate(_lengths(split.select_columns(["image"]))) if length in lengths]
    known = {hashlib.sha256(encoded(split[row]["image"], f"row {row}")).digest() for row in rows}
    return sum(digest in known for digest in gallery.image_digests) if known else 0


def _lengths(rows: Dataset) -> Iterator[int]:
    """The number of bytes of each image's file; 0 where there is none."""
    for batch in rows.with_format("arrow").iter(_AT_ONCE):
        cells = batch["image"]
        lengths = pc.binary_length(pc.struct_field(cells, "bytes")).to_pylist()
        paths = pc.struct_field(cells, "path").to_pylist()
        for length, path in zip(lengths, paths, strict=True):
            yield length if length is not None else _size(path)


def _size(path: str | None) -> int:
    try:
        return Path(path).stat().st_size if path else 0
    except OSError:
        return 0
