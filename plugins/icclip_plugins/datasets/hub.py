"""Any dataset of the hub, or a local directory of parquet files, that has an image and a caption column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    from icclip.config import DatasetConfig

IMAGE_ALIASES = ("image", "image_path", "filepath", "path")
CAPTION_ALIASES = ("text", "caption", "captions", "prompt", "sentences")
SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}
NUMBERED_CAPTION = re.compile(r"captions?_?\d+")
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a source keeps what we need."""

    image: str
    captions: tuple[str, ...]


Choose = Callable[[Mapping[str, Any], str], Columns]
"""(features, where) -> the columns to read."""


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """`hub`."""
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
    """The splits that the source has, with its image and caption columns found or as configured.

    Raises:
        DataError: no such repository or directory, no network, a missing column.
    """
    if config.path is None:
        raise DataError("dataset 'hub' needs an id or a directory: write hub@owner/name or hub@PATH")
    source = open_source(config, config.path, config.revision)
    return in_contract(named_splits(source, config.path), lambda features, where: find_columns(config, features, where))


def has_parquet(path: Path) -> bool:
    """Whether a directory holds parquet files, itself or in its sub-directories."""
    return path.is_dir() and next(path.rglob("*.parquet"), None) is not None


# Opening ----------------------------------------------------------------------------------------


def open_source(config: DatasetConfig, source: str, revision: str | None) -> Any:
    """`datasets.load_dataset` with its failures as one line each.

    A local directory is checked for pickles first; no code of a repository is ever run.

    Raises:
        DataError: see `load`.
    """
    import datasets

    path = Path(source).expanduser()
    if path.is_dir():
        refuse_pickles(path)
    elif path.exists() or not is_hub_id(source):
        raise DataError(f"{source}: no such directory; give a directory of parquet files or a hub id owner/name")
    try:
        return datasets.load_dataset(
            str(path) if path.is_dir() else source,
            revision=None if path.is_dir() else revision,
            streaming=config.streaming,
        )
    # A superset of what the library and the network raise for a wrong id, no network and damaged files.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_explained(error, config, source, path)) from error


def is_hub_id(source: str) -> bool:
    """Whether it looks like owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) is not None


def refuse_pickles(path: Path) -> None:
    """Raises DataError where a directory holds pickled data files: loading one runs code."""
    pickled = next((file for file in sorted(path.rglob("*")) if file.suffix in PICKLES), None)
    if pickled is not None:
        raise DataError(f"{pickled}: pickled data is never loaded; convert it to parquet")


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
    """Splits under our names; `val`, `valid` and `dev` are validation. Splits of other names are left out.

    Raises:
        DataError: none of them is one of ours.
    """
    names = {name: SPLIT_ALIASES.get(name, name) for name in source}
    chosen = {ours: source[name] for name, ours in names.items() if ours in {"train", "validation", "test"}}
    if not chosen:
        raise DataError(f"{where}: no split is called train, validation or test; it has {', '.join(source)}")
    return chosen


def in_contract(splits: Mapping[str, Any], choose: Choose) -> DatasetDict | IterableDatasetDict:
    """`image` and `captions` in every split."""
    from datasets import DatasetDict, IterableDataset, IterableDatasetDict

    streaming = any(isinstance(split, IterableDataset) for split in splits.values())
    convert = _streamed if streaming else _in_memory
    converted = {name: convert(split, choose, f"split {name!r}") for name, split in splits.items()}
    return IterableDatasetDict(converted) if streaming else DatasetDict(converted)


def _in_memory(split: Dataset, choose: Choose, where: str) -> Dataset:
    from icclip.data.columns import with_captions

    columns = choose(split.features, where)
    return with_captions(split, columns.image, columns.captions, where)


def _streamed(split: IterableDataset, choose: Choose, where: str) -> IterableDataset:
    from icclip.data.columns import FEATURES, captions_of

    features = features_of(split)
    columns = choose(features, where)

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": row[columns.image], "captions": captions_of([row[name] for name in columns.captions], where)}

    undecoded = split.cast_column(columns.image, FEATURES["image"])
    return undecoded.map(convert, remove_columns=list(features), features=FEATURES)


def features_of(split: IterableDataset) -> Mapping[str, Any]:
    """The features of a stream, read from its first rows where its files do not declare them."""
    features: Mapping[str, Any] = split.features or split._resolve_features().features  # noqa: SLF001
    return features


def require_columns(columns: Columns, features: Mapping[str, Any], where: str, *others: str) -> Columns:
    """`columns` themselves. Raises DataError where the source lacks one of them."""
    missing = [name for name in (columns.image, *columns.captions, *others) if name not in features]
    if missing:
        raise DataError(f"{where}: no column {', '.join(missing)}; there are {', '.join(features)}")
    return columns


def find_columns(config: DatasetConfig, features: Mapping[str, Any], where: str) -> Columns:
    """The columns that the config names, or else those whose type and name give them away.

    Raises:
        DataError: lists the columns there are.
    """
    image = given_column(config.image_column, features, "--image-column", where) or _image_column(features)
    captions = given_column(config.caption_column, features, "--caption-column", where)
    found = (captions,) if captions else caption_columns(features)
    if image is not None and not _holds_images(features[image]):
        raise DataError(f"{where}: --image-column {image}: not an image column ({features[image]})")
    if image is None:
        raise DataError(f"{where}: no image column among {', '.join(features)}; name it with --image-column")
    if not found:
        raise DataError(f"{where}: no caption column among {', '.join(features)}; name it with --caption-column")
    return Columns(image, found)


def given_column(name: str | None, features: Iterable[str], option: str, where: str) -> str | None:
    """`name` itself. Raises DataError where it is given and not among `features`."""
    if name is not None and name not in features:
        raise DataError(f"{where}: {option} {name}: no such column; there are {', '.join(features)}")
    return name


def _image_column(features: Mapping[str, Any]) -> str | None:
    images = [name for name, feature in features.items() if _holds_images(feature)]
    preferred = [name for name in IMAGE_ALIASES if name in images]
    return next(iter(preferred + images), None)


def _holds_images(feature: Any) -> bool:
    """Whether it is the image type, or the bytes and path that it is stored as (parquet written by others)."""
    from datasets import Image

    return isinstance(feature, Image) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def caption_columns(features: Iterable[str]) -> tuple[str, ...]:
    """The names that captions go by: one column, or `caption_0`, `caption_1`...; empty where there is none."""
    features = list(features)
    numbered = tuple(sorted((n for n in features if NUMBERED_CAPTION.fullmatch(n)), key=lambda n: (len(n), n)))
    named = tuple(name for name in CAPTION_ALIASES if name in features)
    return named[:1] or numbered
