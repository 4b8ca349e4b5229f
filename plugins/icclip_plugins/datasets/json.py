"""A caption file: a JSON array of objects, `[{"image": "a.jpg", "caption": "a dog"}, ...]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.reading import read_array

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SUFFIXES = (".json",)


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `json`."""
    summary = (
        "a .json array of objects that name image files, or a directory with train.json, validation.json, test.json"
    )
    return [DatasetSpec(name="json", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """See `caption_files.load`."""
    return caption_files.load(config, SUFFIXES, read_array)


def recognises(path: Path) -> bool:
    """Whether it is a .json file, or a directory with one per split; COCO's and Karpathy's layouts are checked earlier."""
    return caption_files.recognises(path, SUFFIXES)
