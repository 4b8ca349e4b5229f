"""Any dataset of the hub, or a local directory of parquet files, that has an image and a caption column."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.data.foreign import Door, regular_file
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.columns import IMAGE_ALIASES, IMAGE_NAMES, caption_columns, given_column

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    from icclip.config import DatasetConfig

PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin"})


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a source that hold images and captions."""

    image: str
    captions: tuple[str, ...]


Choose = Callable[[Mapping[str, Any], str], Columns]
"""A function (features, where) that returns the columns to read."""


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `hub`."""
    return [
        DatasetSpec(
            name="hub",
            summary="a dataset of the hub (owner/name) or a local directory of parquet files",
            load=load,
            takes_path=True,
            recognises=has_parquet,
        )
    ]


def load(config: DatasetConfig) -> DatasetDict | IterableDatasetDict:
    """Load the splits of a source; its image and caption columns are found or configured.

    Raises:
        DataError: there is no such repository or directory, the network is down, or a column is missing.
    """
    if config.path is None:
        raise DataError("dataset 'hub' needs an id or a directory: write hub@owner/name or hub@PATH")
    source = open_source(config, config.path, config.revision)
    splits = named_splits(source, config.path)
    return in_contract(config, splits, lambda features, where: find_columns(config, features, where))


def has_parquet(path: Path) -> bool:
    """Whether a directory holds parquet files, itself or in its sub-directories."""
    return path.is_dir() and next(path.rglob("*.parquet"), None) is not None


# Opening ----------------------------------------------------------------------------------------


def open_source(config: DatasetConfig, source: str, revision: str | None) -> Any:
    """Call `datasets.load_dataset` and turn its failures into one line each.

    A local directory is checked for pickles first; no code of a repository is ever run.

    Raises:
        DataError: see `load`.
    """
    import datasets

    path = Path(source).expanduser()
    if path.is_dir():
        refuse_pickles(path)
        refuse_pipes(path)
    elif path.exists() or not is_hub_id(source):
        raise DataError(f"{source}: no such directory; give a directory of parquet files or a hub id owner/name")
    try:
        return datasets.load_dataset(
            str(path) if path.is_dir() else source,
            revision=None if path.is_dir() else revision,
            streaming=config.streaming,
        )
    # The library may raise any exception for a damaged file or a malformed dataset card.
    except Exception as error:
        raise DataError(_explained(error, config, source, path)) from error


def is_hub_id(source: str) -> bool:
    """Whether the name looks like owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) is not None


def refuse_pickles(path: Path) -> None:
    """Raise DataError if a directory holds pickled data files, because loading one runs code."""
    pickled = next((file for file in sorted(path.rglob("*")) if file.suffix in PICKLES), None)
    if pickled is not None:
        raise DataError(f"{pickled}: pickled data is never loaded; convert it to parquet")


def refuse_pipes(path: Path) -> None:
    """Raise DataError if a data file is a named pipe or a device, because opening one may wait forever."""
    for file in sorted(path.rglob("*")):
        if not file.is_dir():
            regular_file(file, str(path))


def _explained(error: Exception, config: DatasetConfig, source: str, path: Path) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if path.is_dir():
        return f"{source}: cannot be read as a dataset: {first}"
    local = "hub@PATH" if config.name == "hub" else f"{config.name}@PATH"
    if unreachable(error):
        return f"dataset {source}: the hub cannot be reached and it is not in the cache; give a local copy as {local}"
    return f"dataset {source}: {first}; check the id and the revision, or give a local copy as {local}"


def unreachable(error: BaseException | None) -> bool:
    """Whether a failure comes from having no network (or HF_HUB_OFFLINE) rather than from the hub's answer."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or "Connection" in type(error).__name__:
            return True
        error = error.__cause__ or error.__context__
    return False


# Splits and columns -----------------------------------------------------------------------------


def named_splits(source: Any, where: str) -> dict[str, Any]:
    """Rename splits to our names; `val`, `valid` and `dev` mean validation. Splits with other names are left out.

    Raises:
        DataError: no split has one of our names.
    """
    names = {name: caption_files.SPLIT_ALIASES.get(name, name) for name in source}
    chosen = {ours: source[name] for name, ours in names.items() if ours in {"train", "validation", "test"}}
    if not chosen:
        raise DataError(f"{where}: no split is called train, validation or test; it has {', '.join(source)}")
    return chosen


def in_contract(config: DatasetConfig, splits: Mapping[str, Any], choose: Choose) -> DatasetDict | IterableDatasetDict:
    """Give every split the columns `image` and `captions`. Images that are named rather than embedded are looked up as in a caption file.

    Raises:
        DataError: a column is missing, an image is null, or its file lies outside the dataset's directory.
    """
    from datasets import DatasetDict, IterableDataset, IterableDatasetDict

    streaming = any(isinstance(split, IterableDataset) for split in splits.values())
    convert = _streamed if streaming else _in_memory
    converted = {name: convert(config, split, choose, f"split {name!r}") for name, split in splits.items()}
    return IterableDatasetDict(converted) if streaming else DatasetDict(converted)


def _in_memory(config: DatasetConfig, split: Dataset, choose: Choose, where: str) -> Dataset:
    from icclip.data.columns import with_captions

    columns = choose(split.features, where)
    where = f"{config.label}, {where}"
    return with_images(config, with_captions(split, columns.image, columns.captions, where), where)


def _streamed(config: DatasetConfig, split: IterableDataset, choose: Choose, where: str) -> IterableDataset:
    from icclip.data.columns import FEATURES, captions_of

    features = features_of(split)
    columns, door = choose(features, where), door_to(config)
    where = f"{config.label}, {where}"

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        image = held(config, door, row[columns.image], where)
        return {"image": image, "captions": captions_of([row[name] for name in columns.captions], where)}

    undecoded = split.cast_column(columns.image, FEATURES["image"])
    return undecoded.map(convert, remove_columns=list(features), features=FEATURES)


# Images that are named instead of held ----------------------------------------------------------

ENCODED = re.compile(r"data:image/[\w.+-]+;base64,|/9j/|iVBORw0KGgo|UklGR|R0lGOD|Qk[0-9A-Za-z]|SUkq|TU0A")
"""How the text of an image in base64 begins: JPEG, PNG, WebP, GIF, BMP, TIFF."""
SHORTEST_ENCODED = 64


def door_to(config: DatasetConfig) -> Door:
    """The door for a dataset's files: its directory, or for a hub dataset the hub's cache."""
    import datasets

    path = Path(config.path or "").expanduser()
    local = path.is_dir() or path.is_file()
    root = path.parent if path.is_file() else path if local else Path(datasets.config.HF_CACHE_HOME)
    return caption_files.door_of(config, [root])


def with_images(config: DatasetConfig, split: Dataset, where: str) -> Dataset:
    """Return the split if every row holds its image, or else one whose images are found, decoded from base64 or fetched.

    Args:
        config: tells what is allowed.
        split: a split with `image` and `captions`, and without an indices mapping.
        where: the source, for messages.

    Raises:
        DataError: an image is null or cannot be found; the message names the first such row.
    """
    from icclip.data.columns import dataset_of, read_columns

    chunks = split.data.column("image").chunks
    if not any(chunk.null_count or chunk.field("bytes").null_count for chunk in chunks):
        return split
    cells, captions = read_columns(split, ["image", "captions"])
    rows = [_content(config, cell, f"{where}, row {row}") for row, cell in enumerate(cells)]
    named: dict[str, str] = {}
    for row, value in enumerate(rows):
        if isinstance(value, str):
            named.setdefault(value, f"{where}, row {row}")
    files = caption_files.located(config, door_to(config), named)
    kept = [row for row, value in enumerate(rows) if not isinstance(value, str) or value in files]
    images = [str(files[value]) if isinstance(value := rows[row], str) else value for row in kept]
    return dataset_of(images, [captions[row] for row in kept])


def held(config: DatasetConfig, door: Door, cell: Any, where: str) -> dict[str, Any]:
    """Find the image of one cell of a stream. Raises DataError."""
    value = _content(config, cell, where)
    if isinstance(value, str):
        found = caption_files.located(config, door, {value: where})
        return {"bytes": None, "path": str(found.get(value, value))}
    return {"bytes": value, "path": None if cell is None else cell["path"]}


def _content(config: DatasetConfig, cell: Any, where: str) -> bytes | str:
    """The content of a cell, or the name that it gives; neither for an image that cannot be read."""
    content, name = (cell["bytes"], cell["path"]) if cell else (None, None)
    if content is not None:
        return bytes(content)
    if not name:
        if config.on_bad_image == "skip":
            return b""
        raise DataError(f"{where}: the image is null; remove the row, or pass --on-bad-image skip")
    return _decoded(name, where) if len(name) >= SHORTEST_ENCODED and ENCODED.match(name) else str(name)


def _decoded(text: str, where: str) -> bytes:
    try:
        return b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: the image is not valid base64: {error}") from error


# Columns ----------------------------------------------------------------------------------------


def features_of(split: IterableDataset) -> Mapping[str, Any]:
    """The features of a stream; they are read from its first rows if its files do not declare them."""
    features: Mapping[str, Any] = split.features or split._resolve_features().features  # noqa: SLF001
    return features


def require_columns(columns: Columns, features: Mapping[str, Any], where: str, *others: str) -> Columns:
    """Return `columns`. Raises DataError if the source lacks one of them."""
    missing = [name for name in (columns.image, *columns.captions, *others) if name not in features]
    if missing:
        raise DataError(f"{where}: no column {', '.join(missing)}; the columns are {', '.join(features)}")
    return columns


def find_columns(config: DatasetConfig, features: Mapping[str, Any], where: str) -> Columns:
    """Find the columns that the config names, or else those with a suitable type and name.

    Raises:
        DataError: no such columns exist; the message lists those that do.
    """
    image = given_column(config.image_column, features, "--image-column", where) or _image_column(features)
    captions = given_column(config.caption_column, features, "--caption-column", where)
    found = (captions,) if captions else caption_columns(features)
    if image is not None and not (_holds_images(features[image]) or _names_images(features[image])):
        raise DataError(f"{where}: --image-column {image}: not an image column ({features[image]})")
    if image is None:
        raise DataError(f"{where}: no image column among {', '.join(features)}; name it with --image-column")
    if not found:
        raise DataError(f"{where}: no caption column among {', '.join(features)}; name it with --caption-column")
    return Columns(image, found)


def _image_column(features: Mapping[str, Any]) -> str | None:
    images = [name for name, feature in features.items() if _holds_images(feature)]
    preferred = [name for name in IMAGE_ALIASES if name in images]
    by_name = {name.lower(): name for name, feature in features.items() if _names_images(feature)}
    return next(iter(preferred + images + [by_name[name] for name in IMAGE_NAMES if name in by_name]), None)


def _holds_images(feature: Any) -> bool:
    """Whether a feature has the image type, or is a struct of bytes and path, as other programs write it."""
    from datasets import Image

    return isinstance(feature, Image) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _names_images(feature: Any) -> bool:
    """Whether a feature can hold image files, or their paths, URLs or base64 text."""
    return getattr(feature, "dtype", None) in {"string", "large_string", "binary", "large_binary"}
