"""The configuration of `icclip data inspect`, built from the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icclip.config import InspectConfig, overlaid
from icclip.data.gallery import dataset_asked
from icclip.plugins.registry import Registry


def inspect_config(registry: Registry, dataset: str, said: Mapping[str, Any]) -> InspectConfig:
    """Build the complete configuration.

    Args:
        registry: knows the datasets.
        dataset: as the user wrote it.
        said: fields of InspectConfig, nested.

    Raises:
        UsageError: the dataset is unknown, or an option is wrong.
        MissingExtraError: the package `datasets` is not installed.
    """
    data = dataset_asked(registry, dataset, said.get("data", {}))
    return InspectConfig.from_mapping({**overlaid(said), "data": data})
