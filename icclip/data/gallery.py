"""Real images and captions for a bundle: needs `datasets`, and neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.console import Reporter
from icclip.errors import MissingExtraError
from icclip.plugins.registry import Registry
from icclip.retrieval.captions import CaptionMap

if TYPE_CHECKING:
    from PIL.Image import Image


def load_split(
    registry: Registry,
    dataset: str,
    split: str,
    reporter: Reporter,
    *,
    options: Mapping[str, Any] | None = None,
    rows: Callable[[int], np.ndarray] = np.arange,
) -> tuple[Sequence[Image], CaptionMap, str]:
    """The images (decoded when asked for), captions and label of a split.

    Args:
        registry: the datasets there are.
        dataset: as the user writes it.
        split: its name.
        reporter: shows progress.
        options: further fields of DatasetConfig.
        rows: the number of rows there are -> those that are wanted.

    Raises:
        MissingExtraError: reading datasets needs `datasets`.
        UsageError: the dataset or split is not known, or unreadable.
    """
    try:
        from icclip.data.loading import choose_split, dataset_config, load_splits
        from icclip.data.split import SplitImages, caption_map
    except ImportError as error:
        raise MissingExtraError("--dataset", ["datasets"], "pip install datasets") from error
    config = dataset_config(registry, dataset, **(options or {}))
    found: Any = choose_split(load_splits(registry, config, reporter), split, config.label)
    chosen = found.select(rows(len(found)))
    return SplitImages(chosen, f"{config.label} {split}"), caption_map(chosen), f"{config.label}, split {split}"
