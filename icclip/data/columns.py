"""Turn the columns of a source into `image` and `captions`.

Nothing here decodes or copies an image. Caption columns are read separately, and image columns are only renamed
or cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets import Sequence as ListFeature

from icclip.data.foreign import checked_text
from icclip.errors import DataError

FEATURES = Features({"image": Image(decode=False), "captions": ListFeature(Value("string"))})
"""The columns of every split: undecoded images as `{"bytes", "path"}`, and lists of strings."""

NESTED = ("raw", "caption", "text")
"""The keys under which an object may hold its caption."""


def dataset_of(images: Sequence[str | bytes], captions: Sequence[Sequence[str]]) -> Dataset:
    """Make a dataset in memory from the paths or contents of image files and each image's captions.

    Raises:
        DataError: the captions of an image are one string, where a list of them was meant.
    """
    row = next((row for row, own in enumerate(captions) if isinstance(own, str)), None)
    if row is not None:
        raise DataError(f"row {row}: the captions are one text, {captions[row]!r:.80}: give a list of texts")
    contents = [item if isinstance(item, bytes) else None for item in images]
    paths = [item if isinstance(item, str) else None for item in images]
    cells = pa.StructArray.from_arrays(
        [pa.array(contents, pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"]
    )
    table = pa.table({"image": cells, "captions": pa.array(captions, pa.list_(pa.string()))})
    return Dataset(table, info=DatasetInfo(features=FEATURES))


def with_captions(dataset: Dataset, image_column: str, caption_columns: Sequence[str], source: str) -> Dataset:
    """Make the columns `image` and `captions` from named columns.

    Several caption columns, strings or lists of strings, become one list per row; nulls are left
    out. Pass a dataset without an indices mapping (before `select`): adding a column to a mapped
    one would copy every image.

    Raises:
        DataError: a caption is not a string, or the columns are given as one string instead of a list.
    """
    if isinstance(caption_columns, str):
        raise DataError(f"{source}: the caption columns are one text, {caption_columns!r}: give a list of names")
    columns = read_columns(dataset, caption_columns)
    captions = [captions_of(cells, f"{source} row {row}") for row, cells in enumerate(zip(*columns, strict=True))]
    images = dataset.select_columns([image_column])
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    return images.cast_column("image", FEATURES["image"]).add_column(
        "captions", pa.array(captions, pa.list_(pa.string())), feature=FEATURES["captions"]
    )


def read_columns(dataset: Dataset, names: Sequence[str]) -> list[list[Any]]:
    """Read the values of some columns, and no others."""
    table = dataset.select_columns(list(names)).with_format("arrow")[:]
    return [table[name].to_pylist() for name in names]


def captions_of(cells: Sequence[Any], where: str) -> list[str]:
    """Turn strings, lists of strings, `{"raw": ...}` and nulls into one list of strings.

    Raises:
        DataError: there is another type among them, or a text that no file and no tokenizer can take.
    """
    flat = [item for cell in cells for item in (cell if isinstance(cell, list) else [cell]) if item is not None]
    return [checked_text(_caption(item, where), f"{where}, a caption") for item in flat]


def _caption(item: Any, where: str) -> str:
    """A caption, or the text of an object that holds one as COCO's and Karpathy's files do."""
    text = next((item[key] for key in NESTED if key in item), None) if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise DataError(f"{where}: a caption is {item!r:.80}: expected text or a list of texts")
    return text
