"""A manifest of images and captions: a table with a header line, `image,caption`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """`csv`."""
    summary = "a .csv manifest of image files, or a directory with train.csv, validation.csv, test.csv"
    return [DatasetSpec(name="csv", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """See `manifest.load`."""
    return manifest.load(config, ".csv", manifest.read_csv)


def recognises(path: Path) -> bool:
    """A .csv file, or a directory with one per split."""
    return manifest.recognises(path, ".csv")
