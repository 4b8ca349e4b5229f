"""One parquet or Arrow file, or a directory that `datasets` saved, with an image and a caption column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.data.foreign import regular_file
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files, hub

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict, IterableDatasetDict

    from icclip.config import DatasetConfig

BUILDERS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow"}
SAVED = ("dataset_dict.json", "state.json")
"""Files that `datasets.save_to_disk` writes beside its Arrow files."""


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `parquet`."""
    summary = "a .parquet, .arrow or .feather file, or a directory written by datasets' save_to_disk"
    return [DatasetSpec(name="parquet", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict | IterableDatasetDict:
    """Load the splits that the column `split` names, or those of the directory, or else everything as `train`.

    An image may be a struct of bytes and path, bytes, a path, a URL, or text in base64.

    Raises:
        DataError: the file cannot be read, lacks a column, or names an image outside its directory.
    """
    path = caption_files.given_path(config, "FILE.parquet")
    source = _opened(config, path)
    splits = hub.in_contract(config, source, lambda features, where: hub.find_columns(config, features, where))
    if config.streaming or len(source) > 1 or "split" not in source["train"].features:
        return splits
    return _by_column(splits["train"], source["train"], path)


def recognises(path: Path) -> bool:
    """Whether it is a file with one of the suffixes, or a saved directory."""
    if path.is_dir():
        return any((path / name).is_file() for name in SAVED)
    return path.suffix.lower() in BUILDERS


def _opened(config: DatasetConfig, path: Path) -> Any:
    import datasets

    if path.is_dir():
        hub.refuse_pickles(path)
        hub.refuse_pipes(path)
    else:
        regular_file(path, config.label)
    try:
        if path.is_dir():
            saved = datasets.load_from_disk(str(path))
            return hub.named_splits(saved, str(path)) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        builder = BUILDERS.get(path.suffix.lower(), "parquet")
        return datasets.load_dataset(builder, data_files={"train": str(path)}, streaming=config.streaming)
    except DataError:
        raise
    # The library may raise any exception for a damaged file.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be read as a dataset: {first}") from error


def _by_column(captioned: Any, rows: Any, path: Path) -> DatasetDict:
    from datasets import DatasetDict

    from icclip.data.columns import read_columns

    (values,) = read_columns(rows, ["split"])
    if len(captioned) != len(rows):
        raise DataError(f"{path}: has the column split and images that were skipped: remove those rows")
    names = [caption_files.known_split(value, f"{path}, row {row}") for row, value in enumerate(values)]
    chosen = {name: [row for row, own in enumerate(names) if own == name] for name in caption_files.SPLIT_NAMES}
    return DatasetDict({name: captioned.select(own) for name, own in chosen.items() if own})
