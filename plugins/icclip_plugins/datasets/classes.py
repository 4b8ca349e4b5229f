"""A folder for each class, with its images: the folder's name, or a template around it, is the caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.data.foreign import IMAGE_SUFFIXES, files_below
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `classes`."""
    summary = "a directory with a folder of images per class, whose name is the caption (--template)"
    return [
        DatasetSpec(name="classes", summary=summary, load=load, takes_path=True, recognises=recognises, classes=classes)
    ]


def load(config: DatasetConfig) -> DatasetDict:
    """Load the folders train, validation and test as splits, or else everything as `train`; underscores become spaces.

    Raises:
        DataError: there are no images, or one is not in a class folder.
    """
    root, parts = _opened(config)
    template = config.template or "{}"
    items = [
        item for split, folder in (parts or {"train": root}).items() for item in _items(folder, root, split, template)
    ]
    if not items:
        raise DataError(f"{root}: has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return caption_files.splits_of(config, [root], items)


def classes(config: DatasetConfig, split: str) -> list[str]:
    """The names of the classes of a split, ordered by folder; those of `train` for a split that icclip makes.

    Raises:
        DataError: there is no such folder.
    """
    root, parts = _opened(config)
    # Splits that icclip makes are made from the training images.
    folder = parts.get(split, parts.get("train", root))
    found = {item.name for item in folder.iterdir() if item.is_dir() and item.name[0] != "."}
    return [_name(folder) for folder in sorted(found)]


def _opened(config: DatasetConfig) -> tuple[Path, dict[str, Path]]:
    """The folder, and those of the folders in it that are splits."""
    root = caption_files.given_path(config, "FOLDER")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    return root, {split: path for split, path in caption_files.by_split(root).items() if path.is_dir()}


def _name(folder: str) -> str:
    return folder.replace("_", " ")


def recognises(path: Path) -> bool:
    """Whether it is a directory whose first image is in a class folder and has no .txt file beside it."""
    if not path.is_dir():
        return False
    parts = [folder for folder in caption_files.by_split(path).values() if folder.is_dir()]
    for folder in parts or [path]:
        first = next((file for file in files_below(folder) if file.suffix.lower() in IMAGE_SUFFIXES), None)
        if first is not None:
            return first.parent != folder and not first.with_suffix(".txt").exists() and not _metadata(path, *parts)
    return False


def _metadata(*folders: Path) -> bool:
    return any((folder / f"metadata{suffix}").exists() for folder in folders for suffix in (".jsonl", ".csv"))


def _items(folder: Path, root: Path, split: str, template: str) -> Iterator[caption_files.Item]:
    for image in files_below(folder):
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if image.parent == folder:
            raise DataError(f"{image}: is not in a class folder; move it into one, or remove it")
        caption = template.replace("{}", _name(image.relative_to(folder).parts[0]))
        yield caption_files.Item(
            str(image), split, str(image.relative_to(root)), caption_files.usable_captions([caption], str(image))
        )
