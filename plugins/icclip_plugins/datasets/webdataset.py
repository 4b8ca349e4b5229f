"""Shards of tar files as img2dataset and webdataset write them: `000.jpg`, `000.txt` and `000.json` are one sample."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from icclip import hookimpl
from icclip.data import archives
from icclip.data.foreign import checked_text, is_url, regular_file
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.columns import caption_columns, given_column

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

    from icclip.config import DatasetConfig

SUFFIXES = (".tar", ".tar.gz", ".tgz")
LARGEST_SHARD = 8 << 30
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""A range such as `{00000..00041}`, as in webdataset's URLs."""
SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
"""How the name of a shard may begin."""


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `webdataset`."""
    summary = "a directory, glob or {00..41} range of .tar shards with .jpg, .txt and .json members"
    return [DatasetSpec(name="webdataset", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict | IterableDatasetDict:
    """Load splits by folder (`train/`) or by the beginning of the shards' names, or else everything as `train`.

    With `config.streaming`, shards are read as they are needed and divided among worker processes;
    otherwise all samples are held in memory.

    Raises:
        DataError: there are no shards, one is damaged, or a sample has no caption.
    """
    shards = shards_of(config)
    return _streamed(config, shards) if config.streaming else _in_memory(config, shards)


def recognises(path: Path) -> bool:
    """Whether it is a tar file, a directory of them (or of one per split), or a glob that matches some."""
    if path.is_dir():
        return bool(_tars(path)) or any(_tars(folder) for folder in caption_files.by_split(path).values())
    return path.name.lower().endswith(SUFFIXES)


# Shards -----------------------------------------------------------------------------------------


def shards_of(config: DatasetConfig) -> dict[str, list[str]]:
    """The shards of each split in the order of their names, as paths or URLs. Raises DataError."""
    if config.path is None:
        raise DataError("dataset 'webdataset' needs a path: write webdataset@DIRECTORY or webdataset@'data/*.tar'")
    source = checked_text(config.path, "--dataset")
    found = _remote(config, source) if is_url(source) else [str(path) for path in _local(source)]
    if not found:
        raise DataError(f"{source}: no shards ({', '.join(SUFFIXES)})")
    splits: dict[str, list[str]] = {}
    for shard in found:
        splits.setdefault(_split(Path(shard), Path(source)), []).append(shard)
    return splits


def _local(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        folders = [folder for folder in caption_files.by_split(path).values() if folder.is_dir()]
        return _tars(path) + [tar for folder in folders for tar in _tars(folder)]
    names = [str(path)] if path.exists() else [name for one in expanded(str(path)) for name in _globbed(one)]
    return [regular_file(Path(name), "webdataset") for name in names]


def _globbed(pattern: str) -> list[str]:
    return sorted(glob(pattern)) if has_magic(pattern) else [pattern]  # noqa: PTH207


def _remote(config: DatasetConfig, source: str) -> list[str]:
    if not source.lower().startswith(("http://", "https://")):
        raise DataError(f"{source}: only http and https are fetched; copy the shards to the disk")
    if not config.download:
        raise DataError(f"{source}: pass --download to fetch shards from the network")
    return expanded(source)


def expanded(source: str) -> list[str]:
    """Expand a range: `a{08..10}.tar` gives a08.tar, a09.tar and a10.tar."""
    found = RANGE.search(source)
    if found is None:
        return [source]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    before, after = source[: found.start()], source[found.end() :]
    return [name for i in numbers for name in expanded(f"{before}{i:0{len(first)}}{after}")]


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES)) if folder.is_dir() else []


def _split(shard: Path, source: Path) -> str:
    names = [shard.name] if shard.parent == source else [shard.parent.name, shard.name]
    for name in names:
        found = SPLIT.match(name)
        if found is not None:
            own = found[1].lower()
            return caption_files.SPLIT_ALIASES.get(own, own)
    return "train"


# Samples ----------------------------------------------------------------------------------------


def samples(shard: str, caption_column: str | None = None) -> Iterator[dict[str, Any]]:
    """The images of one shard with their captions, in its order; a sample without an image is passed over.

    Raises:
        DataError: the shard is damaged, or a sample has no caption.
    """
    with _opened(shard) as file:
        for sample in archives.samples(file, shard):
            if sample.problem is not None:
                raise DataError(sample.problem)
            if sample.image is not None:
                captions = _captions(sample.texts, f"{shard}, {sample.name}", caption_column)
                yield {"image": {"bytes": sample.image, "path": sample.name}, "captions": captions}


def _opened(shard: str) -> BinaryIO:
    try:
        return _fetched(shard).open("rb")
    except OSError as error:
        raise DataError(f"{shard}: cannot be read: {error.strerror or error}") from error


def _fetched(shard: str) -> Path:
    if not is_url(shard):
        return Path(shard)
    from icclip.data.downloads import fetch

    return fetch(shard, largest=LARGEST_SHARD, suffix=".tar")


def _captions(texts: Mapping[str, bytes], where: str, column: str | None) -> list[str]:
    text = _text(texts.get(".txt", b""), where).strip()
    if text and column is None:
        return [checked_text(text, where)]
    if ".json" not in texts:
        raise DataError(f"{where}: the image has no caption: no .txt and no .json of that name in the shard")
    try:
        values = json.loads(_text(texts[".json"], where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its .json is not valid: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: its .json is not an object")
    given = given_column(column, values, "--caption-column", where)
    return caption_files.usable_captions(
        [values[name] for name in ([given] if given else caption_columns(values))], where
    )


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its text is not UTF-8") from error


# Into memory, or as a stream --------------------------------------------------------------------


def _in_memory(config: DatasetConfig, shards: Mapping[str, Sequence[str]]) -> DatasetDict:
    from datasets import DatasetDict

    from icclip.data.columns import dataset_of

    splits = {}
    for split, own in shards.items():
        rows = [row for shard in own for row in samples(shard, config.caption_column)]
        if not rows:
            raise DataError(f"{config.label}, split {split!r}: no sample has an image")
        splits[split] = dataset_of([row["image"]["bytes"] for row in rows], [row["captions"] for row in rows])
    return DatasetDict(splits)


def _rows(shards: list[str], column: str | None) -> Iterator[dict[str, Any]]:
    """`datasets` gives every worker its part of a list that is an argument of the generator."""
    for shard in shards:
        yield from samples(shard, column)


def _streamed(config: DatasetConfig, shards: Mapping[str, Sequence[str]]) -> IterableDatasetDict:
    from datasets import IterableDataset, IterableDatasetDict

    from icclip.data.columns import FEATURES

    def stream(own: Sequence[str]) -> IterableDataset:
        arguments = {"shards": list(own), "column": config.caption_column}
        return IterableDataset.from_generator(_rows, features=FEATURES, gen_kwargs=arguments)

    return IterableDatasetDict({split: stream(own) for split, own in shards.items()})
