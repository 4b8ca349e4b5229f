"""A folder of images, captioned by metadata.jsonl, metadata.csv or a .txt file beside each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import manifest
from icclip_plugins.datasets.hub import has_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
METADATA = (("metadata.jsonl", manifest.read_jsonl), ("metadata.csv", manifest.read_csv))


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """`folder`."""
    summary = "a folder of images with metadata.jsonl, metadata.csv or a .txt file beside each image"
    return [DatasetSpec(name="folder", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """Splits are the sub-folders train, validation and test, or what the metadata's column `split` says.

    In a .txt file every line is a caption. Metadata names files relative to its own folder.

    Raises:
        DataError: there is no image, one has no caption, a line is malformed.
    """
    root = manifest.given_path(config, "FOLDER")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    parts = {} if _metadata(root) else _split_folders(root)
    if parts:
        rows = [(split, row) for split, folder in parts.items() for row in _rows(folder, root)]
    else:
        rows = [(manifest.split_of(row), row) for row in _rows(root, root)]
    if not rows:
        raise DataError(f"{root}: has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return manifest.splits_of(config, root, rows)


def recognises(path: Path) -> bool:
    """A directory with metadata, in it or in a split's folder, or with images and no parquet files."""
    if not path.is_dir():
        return False
    if any(map(_metadata, [path, *_split_folders(path).values()])):
        return True
    return next(_images(path), None) is not None and not has_parquet(path)


def _split_folders(root: Path) -> dict[str, Path]:
    return {split: path for split, path in manifest.by_split(root).items() if path.is_dir()}


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name, _ in METADATA if (folder / name).is_file()), None)


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _rows(folder: Path, root: Path) -> Iterator[manifest.Row]:
    for name, read in METADATA:
        if (folder / name).is_file():
            return (_below(row, folder, root) for row in read(folder / name))
    return (_captioned(image, root) for image in sorted(_images(folder)))


def _below(row: manifest.Row, folder: Path, root: Path) -> manifest.Row:
    """The row with its image named from `root` instead of from the folder of its metadata."""
    prefix = folder.relative_to(root)
    moved = {
        name: str(prefix / value) if name in manifest.IMAGE_COLUMNS and isinstance(value, str) else value
        for name, value in row.values.items()
    }
    return manifest.Row(row.where, moved)


def _captioned(image: Path, root: Path) -> manifest.Row:
    text = image.with_suffix(".txt")
    if not text.is_file():
        raise DataError(f"{image}: has no caption: put one into {text.name} beside it, or into metadata.jsonl")
    captions = [line for line in manifest.read_text(text).splitlines() if line.strip()]
    return manifest.Row(str(text), {"image": str(image.relative_to(root)), "captions": captions})
