"""A split as retrieval sees it: images, the captions that describe them, and a label. The captions are read once.

Loading one needs the package `datasets`, and neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from icclip.config import DatasetConfig
from icclip.console import Reporter
from icclip.data.split import SplitImages, caption_map, encoded
from icclip.errors import MissingExtraError
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

FINGERPRINT_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Gallery:
    """One split, made once and passed to whoever trains, evaluates, exports or verifies on it."""

    images: SplitImages
    """Decoded when asked for."""
    captions: CaptionMap
    """Which texts describe which image."""
    label: str = ""
    """What messages and results call it: `shapes, split test`."""

    @classmethod
    def of(cls, split: Dataset, name: str = "", source: str = "") -> Self:
        """Read the captions of a split that has the columns `image` and `captions`.

        Args:
            split: as `load_splits` returns it.
            name: the split's name, for the label and for messages about an image.
            source: the dataset's label, likewise.
        """
        label = f"{source}, split {name}" if source else name
        return cls(SplitImages(split, f"{source} {name}".strip()), caption_map(split), label)

    def fingerprint(self) -> str:
        """Recognises a split again: SHA-256 over its captions, its length and some of its images.

        At most 64 images, spread evenly, are read: enough to notice other sizes, another encoding or
        another order, at a cost that does not grow with the images.

        Raises:
            DataError: one of these images cannot be read.
        """
        texts, rows = self.captions.texts, self.images.rows
        lists = [list(texts[start:end]) for start, end in pairwise(self.captions.offsets.tolist())]
        digest = hashlib.sha256(repr((len(rows), lists)).encode())
        for row in range(0, len(rows), max(1, len(rows) // FINGERPRINT_IMAGES)):
            digest.update(hashlib.sha256(encoded(rows[row]["image"], f"row {row}")).digest())
        return digest.hexdigest()


def dataset_asked(registry: Registry, value: str, options: Mapping[str, Any]) -> DatasetConfig:
    """As `icclip.data.loading.dataset_config`, which needs the package `datasets`.

    Raises:
        MissingExtraError: the package is not installed.
        UsageError: the dataset is unknown or an option is wrong.
    """
    try:
        from icclip.data.loading import dataset_config
    except ImportError as error:
        raise MissingExtraError("--dataset", ["datasets"], "pip install datasets") from error
    return dataset_config(registry, value, **options)


def load_gallery(
    registry: Registry,
    dataset: DatasetConfig | str,
    split: str,
    reporter: Reporter,
    *,
    options: Mapping[str, Any] | None = None,
    rows: Callable[[int], np.ndarray] | None = None,
) -> Gallery:
    """Load a dataset and open one of its splits.

    Args:
        registry: knows the datasets.
        dataset: a config, or what the user wrote after `--dataset`.
        split: the split's name.
        reporter: shows the progress of loading.
        options: further fields of DatasetConfig, used where `dataset` is not a config yet.
        rows: maps the number of rows to the indices of the wanted ones; None: all rows.

    Raises:
        MissingExtraError: the package `datasets` is not installed.
        UsageError: the dataset or split is unknown or cannot be read.
    """
    config = dataset if isinstance(dataset, DatasetConfig) else dataset_asked(registry, dataset, options or {})
    from icclip.data.loading import choose_split, load_splits

    found: Any = choose_split(load_splits(registry, config, reporter), split, config.label)
    return Gallery.of(found if rows is None else found.select(rows(len(found))), split, config.label)
