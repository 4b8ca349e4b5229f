"""The images and the captions of one split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from PIL import Image

from icclip.data.images import decode_image, read_file
from icclip.errors import DataError
from icclip.retrieval.captions import CaptionMap

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class SplitImages(Sequence[Image.Image]):
    """The images of a split, each decoded when it is accessed, as RGB the right way up.

    Args:
        split: a split with the column `image`, as `load_splits` returns it.
        name: the name of the split, for messages.
        first: the number of its first row, for messages, so that a share of a split counts like the split.
    """

    def __init__(self, split: Dataset, name: str = "", first: int = 0) -> None:
        self.rows = split.select_columns(["image"])
        """The undecoded rows, with the column `image` alone."""
        self._name = name
        self._first = first

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Sequence[Image.Image]:
        """Decode an image. Raises DataError naming the row and its file."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            # datasets words this differently for each layout of a table; Sequence relies on the type.
            raise IndexError(f"row {index} of {len(self)}")
        return decode_cell(self.rows[row]["image"], f"{self._name} row {self._first + row}".lstrip())

    def select(self, rows: Sequence[int] | np.ndarray) -> Self:
        """The images in these rows; messages count from the first of them."""
        return type(self)(self.rows.select(rows), self._name)

    def shard(self, shards: int, index: int) -> Self:
        """Part `index` of `shards` contiguous parts, which may be empty; its messages number the rows of the whole."""
        each, longer = divmod(len(self), shards)
        first = each * index + min(index, longer)
        rows = range(first, first + each + (index < longer))
        return type(self)(self.rows.select(rows or []), self._name, self._first + first)

    def __iter__(self) -> Iterator[Image.Image]:
        for row in range(len(self)):
            yield self[row]


def decode_cell(cell: Mapping[str, Any] | Image.Image | None, where: str) -> Image.Image:
    """Decode a cell of an image column: `{"bytes": ..., "path": ...}`, or an image.

    Raises:
        DataError: the image cannot be read; the message contains `where` and the file.
    """
    if isinstance(cell, Image.Image):
        return decode_image(cell, where)
    path = cell["path"] if cell else None
    where = f"{where} ({path})" if path else where
    return decode_image(encoded(cell, where), where)


def encoded(cell: Mapping[str, Any] | None, where: str) -> bytes:
    """The content of an image's file. Raises DataError if it cannot be read."""
    content, path = (cell["bytes"], cell["path"]) if cell else (None, None)
    if content is not None:
        return bytes(content)
    if path is None:
        raise DataError(f"{where}: the image is null; remove the row, or pass --on-bad-image skip")
    return read_file(Path(path), where)


def caption_map(split: Dataset) -> CaptionMap:
    """The captions of each image; only the captions are read."""
    return CaptionMap.from_lists(caption_lists(split))


def caption_lists(split: Dataset) -> list[list[str]]:
    """The column `captions`."""
    lists: list[list[str]] = split.select_columns(["captions"]).with_format("arrow")[:]["captions"].to_pylist()
    return lists
