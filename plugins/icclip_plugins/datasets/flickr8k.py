"""Flickr8k (Hodosh, Young and Hockenmaier 2013): 8,000 photographs, five captions each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import hub

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from datasets import DatasetDict, IterableDatasetDict

    from icclip.config import DatasetConfig

REPOSITORY = "jxie/flickr8k"
COLUMNS = hub.Columns("image", tuple(f"caption_{i}" for i in range(5)))

SPLIT_SIZES = {"train": (6_000, 30_000), "validation": (1_000, 5_000), "test": (1_000, 5_000)}
"""Split -> images and captions, as published."""


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `flickr8k`."""
    summary = "Flickr8k: 6,000 / 1,000 / 1,000 photographs with 5 captions each"
    return [
        DatasetSpec(
            name="flickr8k", summary=summary, load=load, takes_path=True, relevance="pair", split_sizes=SPLIT_SIZES
        )
    ]


def load(config: DatasetConfig) -> DatasetDict | IterableDatasetDict:
    """Load it from the hub, or from `config.path`, a local copy in the same layout.

    Raises:
        DataError: it cannot be loaded, or its columns differ.
    """
    where = config.path or REPOSITORY
    source = hub.open_source(config, where, config.revision)

    def choose(features: Mapping[str, Any], split: str) -> hub.Columns:
        return hub.require_columns(COLUMNS, features, f"{where}, {split}")

    return hub.in_contract(config, hub.named_splits(source, where), choose)
