"""A caption file: a table with a header line such as `image,caption` and any separator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SUFFIXES = (".csv", ".tsv")


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `csv`."""
    summary = "a .csv or .tsv table of image files, or a directory with train.csv, validation.csv, test.csv"
    return [DatasetSpec(name="csv", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """See `caption_files.load` and `reading.read_table`."""
    return caption_files.load(config, SUFFIXES, read_table)


def recognises(path: Path) -> bool:
    """Whether it is a .csv or .tsv file, or a directory with one per split."""
    return caption_files.recognises(path, SUFFIXES)
