"""A caption file: one JSON object per line, `{"image": "a.jpg", "caption": "a dog"}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import caption_files
from icclip_plugins.datasets.reading import read_jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict

    from icclip.config import DatasetConfig

SUFFIXES = (".jsonl", ".ndjson")


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `jsonl`."""
    summary = (
        "a .jsonl file that names images and captions, or a directory with train.jsonl, validation.jsonl, test.jsonl"
    )
    return [DatasetSpec(name="jsonl", summary=summary, load=load, takes_path=True, recognises=recognises)]


def load(config: DatasetConfig) -> DatasetDict:
    """See `caption_files.load`."""
    return caption_files.load(config, SUFFIXES, read_jsonl)


def recognises(path: Path) -> bool:
    """Whether it is a .jsonl file, or a directory with one per split."""
    return caption_files.recognises(path, SUFFIXES)
