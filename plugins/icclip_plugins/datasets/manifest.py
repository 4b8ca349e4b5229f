"""Rows of (image path, caption) -> splits; shared by the datasets that list files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.errors import DataError
from icclip_plugins.datasets.hub import IMAGE_ALIASES, SPLIT_ALIASES, caption_columns, given_column

if TYPE_CHECKING:
    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SPLIT_NAMES = ("train", "validation", "test")
IMAGE_COLUMNS = (*IMAGE_ALIASES, "file_name")
"""`file_name` is what datasets' imagefolder calls it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a manifest."""

    where: str
    """File and line, for messages."""
    values: Mapping[str, Any]


Reader = Callable[[Path], Iterator[Row]]


# Reading lines ----------------------------------------------------------------------------------


def read_jsonl(path: Path) -> Iterator[Row]:
    """One object a line; blank lines are passed over. Raises DataError with the line's number."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", _object(line, f"{path}:{number}"))


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f'{where}: expected an object such as {{"image": ..., "caption": ...}}')
    return value


def read_csv(path: Path) -> Iterator[Row]:
    """A header line, then one row each, as a spreadsheet writes them. Raises DataError with the line's number."""
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), strict=True)
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            # The last good row ended at line_num. An open quote runs on to the end of the file: where
            # the row began says more than where the reader gave up.
            raise DataError(f"{path}:{reader.line_num + 1}: not valid CSV: {error}") from error
        if values is None:
            return
        where = f"{path}:{reader.line_num}"
        if None in values or None in values.values():
            raise DataError(f"{where}: not as many fields as the header has ({len(reader.fieldnames or ())})")
        yield Row(where, values)


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, with or without a byte order mark. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8: save it in that encoding") from error


# From a path to splits --------------------------------------------------------------------------


def load(config: DatasetConfig, suffix: str, read: Reader) -> DatasetDict:
    """From a manifest, or a directory with one manifest per split.

    Raises:
        DataError: there is none, a line is malformed, an image is missing or outside the root.
    """
    path = given_path(config, f"PATH{suffix}")
    if path.is_file():
        return splits_of(config, path.parent, ((split_of(row), row) for row in read(path)))
    files = by_split(path, suffix)
    if not files:
        raise DataError(f"{path}: no {', '.join(name + suffix for name in SPLIT_NAMES)} in it")
    return splits_of(config, path, ((split, row) for split, file in files.items() for row in read(file)))


def recognises(path: Path, suffix: str) -> bool:
    """Whether `load` has something to read."""
    return path.suffix == suffix if path.is_file() else bool(by_split(path, suffix))


def given_path(config: DatasetConfig, example: str) -> Path:
    """`config.path`, which must be there. Raises DataError."""
    if config.path is None:
        raise DataError(f"dataset {config.name!r} needs a path: write {config.name}@{example}")
    path = Path(config.path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: there is no such file or directory")
    return path


def by_split(path: Path, suffix: str = "") -> dict[str, Path]:
    """What a directory has under a split's name; `val`, `valid` and `dev` are validation.

    Raises:
        DataError: one split is there under two names.
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


def split_of(row: Row) -> str:
    """What the row's column `split` says; `train` without one. Raises DataError for another name."""
    name = row.values.get("split", "train")
    split = SPLIT_ALIASES.get(name, name) if isinstance(name, str) else None
    if split not in SPLIT_NAMES:
        raise DataError(f"{row.where}: split {name!r}: use one of {', '.join(SPLIT_NAMES)}")
    return split


# From rows to splits ----------------------------------------------------------------------------


def splits_of(config: DatasetConfig, root: Path, rows: Iterable[tuple[str, Row]]) -> DatasetDict:
    """Group the rows, each with its split, by image: one image with the captions of all its rows.

    Args:
        config: which columns, and whether images may lie outside `root`.
        root: the directory that relative paths start from.
        rows: in the order the images are to have.

    Raises:
        DataError: names the file and line of the first row that cannot be used.
    """
    from datasets import DatasetDict

    from icclip.data.columns import dataset_of

    captions: dict[str, dict[str, list[str]]] = {}
    for split, row in rows:
        image = image_path(config, root, row)
        captions.setdefault(split, {}).setdefault(str(image), []).extend(row_captions(config, row))
    if not captions:
        raise DataError(f"{config.label}: has no rows")
    return DatasetDict({name: dataset_of(list(own), list(own.values())) for name, own in captions.items()})


def image_path(config: DatasetConfig, root: Path, row: Row) -> Path:
    """The image of a row: a file below `root`, links followed.

    Raises:
        DataError: no column, a URL, no such file, or one outside `root` that is not allowed.
    """
    value = row.values[_image_column(config, row)]
    if not isinstance(value, str) or not value:
        raise DataError(f"{row.where}: the image is {value!r}: expected a path")
    if "://" in value:
        raise DataError(f"{row.where}: {value}: images are not fetched from the network; download it and give its path")
    path = root / value
    if not config.allow_outside_root and not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{row.where}: {value} lies outside {root}; move it there or pass --allow-outside-root")
    if not path.is_file():
        raise DataError(f"{row.where}: there is no file {path}")
    return path


def _image_column(config: DatasetConfig, row: Row) -> str:
    given = given_column(config.image_column, row.values, "--image-column", row.where)
    column = given or next((name for name in IMAGE_COLUMNS if name in row.values), None)
    if column is None:
        raise DataError(f"{row.where}: no image column among {', '.join(row.values)}; name it with --image-column")
    return column


def row_captions(config: DatasetConfig, row: Row) -> list[str]:
    """The captions of a row, at least one.

    Raises:
        DataError: no column, no caption, an empty one, or one that is no text.
    """
    from icclip.data.columns import captions_of

    given = given_column(config.caption_column, row.values, "--caption-column", row.where)
    columns = [given] if given else caption_columns(row.values)
    if not columns:
        raise DataError(f"{row.where}: no caption column among {', '.join(row.values)}; name it with --caption-column")
    captions = captions_of([row.values[name] for name in columns], row.where)
    if not captions:
        raise DataError(f"{row.where}: the image has no caption; add one or remove the line")
    if not all(caption.strip() for caption in captions):
        raise DataError(f"{row.where}: a caption is empty; fill it in or remove it")
    return captions
