"""Turn what the user typed after `--dataset` into a config, and the config into checked splits."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    IterableDatasetDict,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets.utils import are_progress_bars_disabled

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.columns import FEATURES, captions_of
from icclip.data.foreign import checked_text, is_url
from icclip.data.split import SplitImages, decode_cell
from icclip.errors import DataError, PluginError, UnknownNameError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import DatasetSpec

Splits: TypeAlias = DatasetDict | IterableDatasetDict

SPLIT_NAMES = ("train", "validation", "test")
FILE_SUFFIXES = frozenset(
    {
        ".jsonl",
        ".ndjson",
        ".csv",
        ".tsv",
        ".json",
        ".token",
        ".txt",
        ".parquet",
        ".arrow",
        ".feather",
        ".tar",
        ".tgz",
        ".gz",
    }
)
"""A name that ends like this is a missing file, not a repository of the hub."""
PATTERN = re.compile(r"[*?\[]|\{\d+\.\.\d+\}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHOWN_BAD_IMAGES = 5


# The value -> a config --------------------------------------------------------------------------


def dataset_config(registry: Registry, value: str, **options: Any) -> DatasetConfig:
    """Find out which dataset a value means.

    Args:
        registry: knows the datasets.
        value: a dataset's name, `name@path`, a path, or a hub id `owner/name`. A name wins over a
            path of the same spelling (write ./shapes for the folder).
        options: fields of DatasetConfig; None means that the user did not give it.

    Raises:
        UnknownNameError: no dataset has that name.
        DataError: a path does not exist, or no dataset can read it.
        ConfigError: an option or its value is unknown.
    """
    name, path = _name_and_path(registry, value)
    said = {key: option for key, option in options.items() if option is not None}
    return DatasetConfig.from_mapping({**said, "name": name, **({} if path is None else {"path": path})})


def _name_and_path(registry: Registry, value: str) -> tuple[str, str | None]:
    if is_url(value):
        return _remote(registry, value), value
    path = Path(checked_text(value, "--dataset")).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise DataError(f"dataset {value!r:.80}: {error.strerror}") from error
    name, at, rest = value.partition("@")
    if at and not there:
        return _named_with_path(registry.dataset(name), rest), rest
    if "/" not in value and not path.suffix and not value.startswith("~"):
        return _bare_name(registry, value, path)
    if there or PATTERN.search(value):
        return _reader(registry, path).name, str(path)
    if HUB_ID.fullmatch(value) and not value.startswith(".") and path.suffix.lower() not in FILE_SUFFIXES:
        return registry.dataset("hub").name, value
    raise DataError(f"dataset {value!r}: there is no such file or directory")


def _remote(registry: Registry, value: str) -> str:
    if not value.lower().startswith(("http://", "https://")) or not value.lower().endswith((".tar", ".tar.gz", ".tgz")):
        raise DataError(
            f"dataset {value:.200}: of URLs only http(s) ones of .tar shards are read; give a path or a hub id"
        )
    return registry.dataset("webdataset").name


def _named_with_path(spec: DatasetSpec, path: str) -> str:
    if not spec.takes_path:
        raise DataError(f"dataset {spec.name!r} takes no path: leave out {'@' + path!r}")
    if not path:
        raise DataError(f"dataset '{spec.name}@' names no path: write {spec.name}@PATH")
    return spec.name


def _bare_name(registry: Registry, value: str, path: Path) -> tuple[str, str | None]:
    try:
        return registry.dataset(value).name, None
    except UnknownNameError:
        if path.exists():
            return _reader(registry, path).name, str(path)
        raise


def _reader(registry: Registry, path: Path) -> DatasetSpec:
    spec = registry.dataset_for_path(path)
    if spec is None:
        raise DataError(
            f"{path}: no dataset reads this; give a .jsonl or .csv file, a directory of parquet files, .tar shards, "
            "a folder of images with metadata.jsonl, metadata.csv or .txt files beside them, or a folder per class"
        )
    return spec


# A config -> splits -----------------------------------------------------------------------------


def load_splits(registry: Registry, config: DatasetConfig, reporter: Reporter) -> Splits:
    """Load, check and complete the splits of a dataset.

    Returns:
        `train`, `validation` and `test` (only those present where there is no `train` to make them
        from, with streaming, and where none are to be made: `config.whole`), each with the columns `image` (bytes and path, not decoded) and
        `captions` (list of str, at least one, none empty).

    Raises:
        DataError: the source cannot be read, a caption is missing or empty, an image is unreadable
            and `on_bad_image` is "skip" for all of them.
        PluginError: the dataset returned something that violates its contract.
    """
    splits = read_splits(registry, config, reporter)
    if isinstance(splits, IterableDatasetDict):
        return _streamed(splits, config, reporter)
    checked: dict[str, Dataset] = dict(splits)
    if config.on_bad_image == "skip":
        checked = {name: _without_bad_images(split, name, config, reporter) for name, split in checked.items()}
    return _completed(checked, config, reporter)


def read_splits(registry: Registry, config: DatasetConfig, reporter: Reporter) -> Splits:
    """Read the splits of the source without adding any or checking images; a stream stays as the dataset gives it.

    Raises:
        DataError: the source cannot be read, a caption is missing or empty.
        PluginError: the dataset returned something that violates its contract.
    """
    spec = registry.dataset(config.name)
    with reporter.progress(f"loading {config.label}", total=None), _one_bar():
        splits = spec.load(config)
    _check_shape(splits, spec)
    if isinstance(splits, IterableDatasetDict):
        return splits
    return DatasetDict({name: _checked(split, f"{config.label}, split {name!r}") for name, split in splits.items()})


@contextlib.contextmanager
def _one_bar() -> Iterator[None]:
    """Show only the reporter's progress bar, because those of `datasets` would draw over it and write into log files."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def is_whole(splits: Splits, config: DatasetConfig) -> bool:
    """Whether the source has no splits and is used as a whole, whatever split is asked for."""
    return config.whole and set(splits) == {"train"}


def measured_split(splits: Splits, name: str, config: DatasetConfig) -> Dataset | IterableDataset:
    """Choose the split to measure: the one of that name, or all of a source without splits. Raises UnknownNameError."""
    return splits["train"] if is_whole(splits, config) else choose_split(splits, name, config.label)


def choose_split(splits: Splits, name: str, source: str) -> Dataset | IterableDataset:
    """One split by name. Raises UnknownNameError, which lists the splits of `source`, if there is none of that name."""
    if name not in splits:
        raise UnknownNameError("split", name, splits, f"in {source}")
    return splits[name]


def load_image_text_dataset(
    name: str, image_col: str = "image", caption_field: str = "caption", **options: Any
) -> DatasetDict:
    """Load a dataset with the seed project's call: `image` as PIL images, `captions` as lists of str.

    Args:
        name: see `dataset_config`.
        image_col: the column of images, for sources whose columns can be chosen (hub, jsonl, csv); by default, the
            source decides.
        caption_field: the column of captions, in the same way.
        options: further fields of DatasetConfig.

    Raises:
        DataError, UnknownNameError, ConfigError: see `dataset_config` and `load_splits`.
    """
    registry = Registry.from_environment()
    options.setdefault("image_column", None if image_col == "image" else image_col)
    options.setdefault("caption_column", None if caption_field == "caption" else caption_field)
    config = dataset_config(registry, name, **options)
    return load_splits(registry, config, Reporter.for_this_process()).cast_column("image", Image(decode=True))


# The contract -----------------------------------------------------------------------------------


def _check_shape(splits: Any, spec: DatasetSpec) -> None:
    if not isinstance(splits, DatasetDict | IterableDatasetDict):
        raise PluginError(f"dataset {spec.name!r} returned {type(splits).__name__}: return a datasets.DatasetDict")
    if not splits or set(splits) - set(SPLIT_NAMES):
        found = ", ".join(map(str, splits)) or "none"
        raise PluginError(f"dataset {spec.name!r} returned the splits {found}: use {', '.join(SPLIT_NAMES)}")
    for name, split in splits.items():
        missing = set(FEATURES) - set(split.column_names or FEATURES)
        if missing:
            raise PluginError(
                f"dataset {spec.name!r}, split {name!r}: no column {', '.join(sorted(missing))} "
                f"among {', '.join(split.column_names)}"
            )


def _checked(split: Dataset, where: str) -> Dataset:
    """Check the types of the two columns. Raises for a row without a usable caption."""
    split = split.select_columns(list(FEATURES))
    if not isinstance(split.features["image"], Image):
        raise PluginError(f"{where}: the column image is {split.features['image']}: make it a datasets.Image")
    split = split.cast_column("image", FEATURES["image"])
    captions = split.select_columns(["captions"]).with_format("arrow")[:]["captions"].combine_chunks()
    if not _is_list_of_strings(captions.type):
        raise PluginError(f"{where}: the column captions is {captions.type}: make it a list of strings")
    _check_captions(captions, where)
    if split.features["captions"] != FEATURES["captions"]:
        split = split.cast_column("captions", FEATURES["captions"])
    if not len(split):
        raise DataError(f"{where}: has no images")
    return split


def _is_list_of_strings(type_: pa.DataType) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    return bool(is_list and (pa.types.is_string(type_.value_type) or pa.types.is_large_string(type_.value_type)))


def _check_captions(captions: pa.Array, where: str, first_row: int = 0) -> None:
    """Check, vectorised, that every row has a caption and that no caption is blank."""
    lengths = pc.fill_null(pc.list_value_length(captions), 0)
    row = pc.index(lengths, pa.scalar(0, lengths.type)).as_py()
    if row >= 0:
        raise DataError(f"{where}, row {first_row + row}: the image has no caption; add one or remove the row")
    blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(pc.list_flatten(captions), "")), "")
    text = pc.index(blank, True).as_py()
    if text >= 0:
        row = pc.list_parent_indices(captions)[text].as_py()
        raise DataError(f"{where}, row {first_row + row}: a caption is empty; fill it in or remove it")


# Images that cannot be read ---------------------------------------------------------------------


def _without_bad_images(split: Dataset, name: str, config: DatasetConfig, reporter: Reporter) -> Dataset:
    images = SplitImages(split, name)
    bad: dict[int, str] = {}
    with reporter.progress(f"checking the images of {name}", total=len(images)) as advance:
        for row in range(len(images)):
            try:
                images[row]
            except DataError as error:
                bad[row] = str(error)
            advance(1)
    if not bad:
        return split
    if len(bad) == len(images):
        raise DataError(f"{config.label}, split {name!r}: none of the {len(bad)} images can be read; {bad[0]}")
    shown = "; ".join(list(bad.values())[:SHOWN_BAD_IMAGES])
    more = f"; and {len(bad) - SHOWN_BAD_IMAGES} more" if len(bad) > SHOWN_BAD_IMAGES else ""
    reporter.warn(f"{config.label}: skipped {len(bad)} of {len(images)} images of {name!r}: {shown}{more}")
    return split.select([row for row in range(len(images)) if row not in bad])


# Splits that the source lacks -------------------------------------------------------------------


def _completed(splits: dict[str, Dataset], config: DatasetConfig, reporter: Reporter) -> DatasetDict:
    missing = [name for name in ("validation", "test") if name not in splits]
    if "train" not in splits or not missing or config.whole:
        return DatasetDict({name: splits[name] for name in SPLIT_NAMES if name in splits})
    train = splits["train"]
    size = max(1, round(config.val_fraction * len(train)))
    if size * len(missing) >= len(train):
        raise DataError(
            f"{config.label}: {len(train)} images are too few to make {' and '.join(missing)} from; add images"
        )
    order = _permutation(len(train), config.seed)
    for number, name in enumerate(missing):
        splits[name] = train.select(sorted(order[number * size : (number + 1) * size]))
    splits["train"] = train.select(sorted(order[len(missing) * size :]))
    reporter.note(
        f"{config.label} has no {' or '.join(missing)} split: icclip sets aside {size} of its {len(train)} training images "
        f"for {'each' if len(missing) > 1 else 'it'} (val-fraction {config.val_fraction:g}, seed {config.seed})"
    )
    return DatasetDict({name: splits[name] for name in SPLIT_NAMES})


def _permutation(size: int, seed: int) -> list[int]:
    """An order of 0..size-1 that only depends on the arguments.

    It sorts by a hash, because the random numbers of Python and numpy may change with their versions, and then a
    training image would appear in an older run's test split.
    """
    return sorted(range(size), key=lambda row: hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest())


# Streaming --------------------------------------------------------------------------------------


def _streamed(splits: IterableDatasetDict, config: DatasetConfig, reporter: Reporter) -> IterableDatasetDict:
    """Check the contract row by row as the rows arrive."""
    missing = [name for name in SPLIT_NAMES if name not in splits]
    if missing:
        reporter.note(f"{config.label} has no {' or '.join(missing)} split, and none is made while streaming")
    return IterableDatasetDict({name: _streamed_split(splits[name], name, config) for name in _present(splits)})


def _present(splits: Splits) -> Iterable[str]:
    return [name for name in SPLIT_NAMES if name in splits]


def _streamed_split(split: IterableDataset, name: str, config: DatasetConfig) -> IterableDataset:
    where = f"{config.label}, split {name!r}"
    if split.features is not None:
        split = split.cast_column("image", FEATURES["image"])

    def check(row: dict[str, Any], index: int) -> dict[str, Any]:
        captions = captions_of([row["captions"]], f"{where}, row {index}")
        _check_captions(pa.array([captions], pa.list_(pa.string())), where, index)
        return {"image": row["image"], "captions": captions}

    def readable(row: dict[str, Any]) -> bool:
        try:
            decode_cell(row["image"], where)
        except DataError:
            return False
        return True

    checked = split.map(check, with_indices=True, features=FEATURES, remove_columns=split.column_names)
    return checked.filter(readable) if config.on_bad_image == "skip" else checked
