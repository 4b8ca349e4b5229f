"""Flickr30k (Young et al. 2014) in Karpathy's splits: 31,014 photographs, five captions each.

The hub's copy has one split, `test`, of all rows; its column `split` says to which of the real
splits a row belongs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icclip import hookimpl
from icclip.errors import DataError
from icclip.plugins.specs import DatasetSpec
from icclip_plugins.datasets import hub

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    from icclip.config import DatasetConfig

REPOSITORY = "nlphuji/flickr30k"
# The main revision is a loading script, which is not run; this one has the same rows as parquet.
REVISION = "refs/convert/parquet"
COLUMNS = hub.Columns("image", ("caption",))
SPLIT_COLUMN = "split"
SPLITS = {"train": "train", "validation": "val", "test": "test"}
"""Our name -> the value in the column."""

SPLIT_SIZES = {"train": (29_000, 145_000), "validation": (1_014, 5_070), "test": (1_000, 5_000)}
"""Split -> images and captions, as published."""


@hookimpl
def icclip_datasets() -> list[DatasetSpec]:
    """Return the dataset `flickr30k`."""
    summary = "Flickr30k: 29,000 / 1,014 / 1,000 photographs with 5 captions each"
    return [
        DatasetSpec(
            name="flickr30k", summary=summary, load=load, takes_path=True, relevance="pair", split_sizes=SPLIT_SIZES
        )
    ]


def load(config: DatasetConfig) -> DatasetDict | IterableDatasetDict:
    """Load it from the hub, or from `config.path`, a local copy in the same layout.

    Raises:
        DataError: it cannot be loaded, or its columns differ.
    """
    where = config.path or REPOSITORY
    source = hub.open_source(config, where, config.revision or REVISION)
    if "test" not in source:
        raise DataError(f"{where}: the hub's layout has one split, test; this has {', '.join(source)}")
    return _streamed(config, source["test"], where) if config.streaming else _in_memory(config, source["test"], where)


def _in_memory(config: DatasetConfig, rows: Dataset, where: str) -> DatasetDict:
    from datasets import DatasetDict

    from icclip.data.columns import read_columns, with_captions

    columns = hub.require_columns(COLUMNS, rows.features, where, SPLIT_COLUMN)
    (values,) = read_columns(rows, [SPLIT_COLUMN])
    captioned = hub.with_images(config, with_captions(rows, columns.image, columns.captions, where), where)
    chosen = {name: [i for i, value in enumerate(values) if value == here] for name, here in SPLITS.items()}
    return DatasetDict({name: captioned.select(indices) for name, indices in chosen.items() if indices})


def _streamed(config: DatasetConfig, rows: Any, where: str) -> IterableDatasetDict:
    from icclip.data.columns import FEATURES

    hub.require_columns(COLUMNS, hub.features_of(rows), where, SPLIT_COLUMN)
    undecoded = rows.cast_column(COLUMNS.image, FEATURES["image"])
    parts = {
        name: undecoded.filter(lambda value, here=here: value == here, input_columns=SPLIT_COLUMN)
        for name, here in SPLITS.items()
    }
    return hub.in_contract(config, parts, lambda _features, _split: COLUMNS)
