"""Turn files that list images and captions into splits; shared by all datasets that name images by path or URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icclip.console import Reporter
from icclip.data.foreign import Door, checked_text, is_url
from icclip.errors import DataError
from icclip_plugins.datasets.columns import caption_columns, given_column, image_column
from icclip_plugins.datasets.reading import Row

if TYPE_CHECKING:
    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SPLIT_NAMES = ("train", "validation", "test")
SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}
Reader = Callable[[Path], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Item:
    """An image with captions, before the image file is looked up."""

    where: str
    """File and line, for messages."""
    split: str
    image: str
    """A path or a URL."""
    captions: Sequence[str]


# From a path to splits --------------------------------------------------------------------------


def load(config: DatasetConfig, suffixes: Sequence[str], read: Reader) -> DatasetDict:
    """Load a caption file, or a directory with one caption file per split.

    Raises:
        DataError: there is no caption file, a line is malformed, an image is missing or outside the root.
    """
    path = given_path(config, f"PATH{suffixes[0]}")
    if not path.is_dir():
        return splits_of(config, [path.parent], items_of(config, read(path)))
    files = _files(path, suffixes)
    if not files:
        raise DataError(f"{path}: no {', '.join(name + suffixes[0] for name in SPLIT_NAMES)} in it")
    items = (item for split, file in files.items() for item in items_of(config, read(file), split))
    return splits_of(config, [path], items)


def recognises(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether `load` has something to read."""
    return bool(_files(path, suffixes)) if path.is_dir() else path.suffix.lower() in suffixes


def _files(path: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    return next((found for suffix in suffixes if (found := by_split(path, suffix))), {})


def given_path(config: DatasetConfig, example: str) -> Path:
    """Return `config.path`, which must exist. Raises DataError."""
    if config.path is None:
        raise DataError(f"dataset {config.name!r} needs a path: write {config.name}@{example}")
    path = Path(checked_text(config.path, "--dataset")).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise DataError(f"{config.path:.80}: {error.strerror}") from error
    if not there:
        raise DataError(f"{path}: there is no such file or directory")
    return path


def by_split(path: Path, suffix: str = "") -> dict[str, Path]:
    """The files and folders of a directory that are named like splits; `val`, `valid` and `dev` mean validation.

    Raises:
        DataError: one split exists under two names.
    """
    found: dict[str, Path] = {}
    for name in (*SPLIT_NAMES, *SPLIT_ALIASES):
        split, item = SPLIT_ALIASES.get(name, name), path / f"{name}{suffix}"
        if not item.exists():
            continue
        if split in found:
            raise DataError(f"{path}: both {found[split].name} and {item.name} are {split}; remove one")
        found[split] = item
    return found


# From rows to items -----------------------------------------------------------------------------


def items_of(config: DatasetConfig, rows: Iterable[Row], split: str | None = None) -> Iterator[Item]:
    """The rows of a caption file as items.

    Args:
        config: the configuration, which may name the columns.
        rows: the rows, in the order of the images.
        split: the split of the rows; None means that each row's column `split` tells.

    Raises:
        DataError: a row cannot be used; the message names its file and line.
    """
    for row in rows:
        own = split_of(row) if split is None else split
        yield Item(row.where, own, image_of(config, row), row_captions(config, row))


def split_of(row: Row) -> str:
    """The split that the row's column `split` names; `train` without such a column. Raises DataError for another name."""
    return known_split(row.values.get("split", "train"), row.where)


def known_split(name: object, where: str, aliases: Mapping[str, str] = SPLIT_ALIASES) -> str:
    """The split with this name or alias. Raises DataError for any other name."""
    split = aliases.get(name, name) if isinstance(name, str) else None
    if split not in SPLIT_NAMES:
        raise DataError(f"{where}: split {name!r}: use one of {', '.join(SPLIT_NAMES)}")
    return split


def image_of(config: DatasetConfig, row: Row) -> str:
    """The image that a row names. Raises DataError if there is no image column, or its value is not a string."""
    column = given_column(config.image_column, row.values, "--image-column", row.where) or image_column(row.values)
    if column is None:
        raise DataError(f"{row.where}: no image column among {', '.join(row.values)}; name it with --image-column")
    value = row.values[column]
    if not isinstance(value, str) or not value:
        raise DataError(f"{row.where}: the image is {value!r}: expected a path")
    return value


def row_captions(config: DatasetConfig, row: Row) -> list[str]:
    """The captions of a row, at least one.

    Raises:
        DataError: there is no caption column, no caption, or one that is empty or not a string.
    """
    given = given_column(config.caption_column, row.values, "--caption-column", row.where)
    columns = [given] if given else caption_columns(row.values)
    if not columns:
        raise DataError(f"{row.where}: no caption column among {', '.join(row.values)}; name it with --caption-column")
    return usable_captions([row.values[name] for name in columns], row.where)


def usable_captions(cells: Sequence[object], where: str) -> list[str]:
    """Turn texts, lists of texts and nulls into captions, at least one.

    Raises:
        DataError: there is no caption, or one is empty or not a string.
    """
    from icclip.data.columns import captions_of

    captions = captions_of(cells, where)
    if not captions:
        raise DataError(f"{where}: the image has no caption; add one or remove the line")
    if not all(caption.strip() for caption in captions):
        raise DataError(f"{where}: a caption is empty; fill it in or remove it")
    return captions


# From items to splits ---------------------------------------------------------------------------


def splits_of(config: DatasetConfig, folders: Sequence[Path], items: Iterable[Item]) -> DatasetDict:
    """Group the items by image: one image with the captions of all its items.

    Args:
        config: tells whether images may be outside the folder, and whether they may be fetched.
        folders: folders in which relative paths are looked up, unless `config.image_root` is set; images must be inside
            the first.
        items: the items, in the order of the images.

    Raises:
        DataError: an image is missing or outside the root, or cannot be fetched.
    """
    from datasets import DatasetDict

    from icclip.data.columns import dataset_of

    captions: dict[str, dict[str, list[str]]] = {}
    first: dict[str, str] = {}
    for item in items:
        captions.setdefault(item.split, {}).setdefault(item.image, []).extend(item.captions)
        first.setdefault(item.image, item.where)
    if not captions:
        raise DataError(f"{config.label}: has no rows")
    files = located(config, door_of(config, folders), first)
    grouped = {name: _by_file(own, files) for name, own in captions.items()}
    return DatasetDict({name: dataset_of(list(own), list(own.values())) for name, own in grouped.items() if own})


def _by_file(captions: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> dict[str, list[str]]:
    """Group items by file, since one file may have several names; images that were left out are not in `files`."""
    found: dict[str, list[str]] = {}
    for image, own in captions.items():
        if image in files:
            found.setdefault(str(files[image]), []).extend(own)
    return found


def door_of(config: DatasetConfig, folders: Sequence[Path]) -> Door:
    """The door that limits where a dataset's files may be."""
    root = config.image_root
    if root is not None and not Path(root).expanduser().is_dir():
        raise DataError(f"--image-root {root}: there is no such directory")
    chosen = folders if root is None else [Path(root).expanduser()]
    return Door(tuple(chosen), config.allow_outside_root, missing=config.on_bad_image == "skip")


def located(config: DatasetConfig, door: Door, images: Mapping[str, str]) -> dict[str, Path]:
    """Find the file of each image; URLs are fetched first, and those that fail may be left out, as the config says.

    Args:
        config: tells whether to fetch, and whether to leave out images that cannot be fetched.
        door: finds files.
        images: each path or URL, with the file and line that name it first.

    Raises:
        DataError: see `splits_of`.
    """
    urls = [image for image in images if is_url(image)]
    fetched = _fetched(config, urls, images) if urls else {}
    return {
        image: fetched[image] if is_url(image) else door.find(image, where)
        for image, where in images.items()
        if not is_url(image) or image in fetched
    }


def _fetched(config: DatasetConfig, urls: Sequence[str], images: Mapping[str, str]) -> dict[str, Path]:
    from icclip.data.downloads import fetch_all

    for url in urls:
        checked_text(url, images[url])
        if not url.lower().startswith(("http://", "https://")):
            raise DataError(f"{images[url]}: {url:.200}: only http and https are fetched; give a path")
    if not config.download:
        where = f"{images[urls[0]]}: {urls[0]:.200}"
        raise DataError(f"{where}: pass --download to fetch images from the network, or give a path")
    reporter = Reporter.for_this_process()
    results = fetch_all(urls, reporter)
    failed = {url: result for url, result in results.items() if isinstance(result, DataError)}
    if failed:
        url, error = next(iter(failed.items()))
        message = f"{len(failed):,} of {len(urls):,} images could not be fetched; the first: {images[url]}: {error}"
        if config.on_bad_image == "fail" or len(failed) == len(images):
            raise DataError(f"{message}; try again, or pass --on-bad-image skip")
        reporter.warn(f"{config.label}: skipped: {message}")
    return {url: result for url, result in results.items() if isinstance(result, Path)}
