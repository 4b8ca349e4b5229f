"""A folder of images, captioned by metadata.jsonl, metadata.csv or a .txt file beside each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.data.foreign import IMAGE_SUFFIXES, files_below, is_url
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.columns import IMAGE_NAMES
from icclip_plugins.datasets.hub import has_parquet
from icclip_plugins.datasets.reading import Row, read_jsonl, read_table, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

METADATA = (("metadata.jsonl", read_jsonl), ("metadata.csv", read_table))


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `folder`."""
    summary = "a folder of images with metadata.jsonl, metadata.csv or a .txt file beside each image"
    return [DatasetSpec(name="folder", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """Load the sub-folders train, validation and test as splits, or the splits that the metadata's column `split` names.

    In a .txt file every line is a caption. Metadata names files relative to its own folder.

    Raises:
        DataError: there are no images, one has no caption, or a line is malformed.
    """
    root = caption_files.given_path(config, "FOLDER")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    parts = {} if _metadata(root) else _split_folders(root)
    if parts:
        found = [(split, row) for split, folder in parts.items() for row in _rows(folder, root)]
        items = [item for split, row in found for item in caption_files.items_of(config, [row], split)]
    else:
        items = list(caption_files.items_of(config, _rows(root, root)))
    if not items:
        raise DataError(f"{root}: has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return caption_files.splits_of(config, [root], items)


def recognises(path: Path) -> bool:
    """Whether it is a directory with metadata, in it or in a split's folder, or with images and no parquet files."""
    if not path.is_dir():
        return False
    if any(map(_metadata, [path, *_split_folders(path).values()])):
        return True
    return next(_images(path), None) is not None and not has_parquet(path)


def _split_folders(root: Path) -> dict[str, Path]:
    return {split: path for split, path in caption_files.by_split(root).items() if path.is_dir()}


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name, _ in METADATA if (folder / name).is_file()), None)


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def _rows(folder: Path, root: Path) -> Iterator[Row]:
    for name, read in METADATA:
        if (folder / name).is_file():
            return (_below(row, folder, root) for row in read(folder / name))
    return (_captioned(image, root) for image in _images(folder))


def _below(row: Row, folder: Path, root: Path) -> Row:
    """The row with the path of its image relative to `root` instead of to the folder of its metadata."""
    prefix = folder.relative_to(root)

    def moved(name: str, value: Any) -> Any:
        names_file = name.lower() in IMAGE_NAMES and isinstance(value, str) and value and not is_url(value)
        return str(prefix / value) if names_file else value

    return Row(row.where, {name: moved(name, value) for name, value in row.values.items()})


def _captioned(image: Path, root: Path) -> Row:
    text = image.with_suffix(".txt")
    if not text.is_file():
        raise DataError(f"{image}: has no caption: put one into {text.name} beside it, or into metadata.jsonl")
    captions = [line for line in read_text(text).splitlines() if line.strip()]
    return Row(str(text), {"image": str(image.relative_to(root)), "captions": captions})
