"""The configuration of `icclip embed`, built from the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icclip.config import EmbedConfig, overlaid
from icclip.plugins.registry import Registry


def embed_config(registry: Registry, said: Mapping[str, Any]) -> EmbedConfig:
    """Build the complete configuration.

    Args:
        registry: knows the datasets.
        said: fields of EmbedConfig, nested; `data.name` is what the user wrote after `--dataset`.

    Raises:
        UsageError: the dataset is unknown, an option is wrong, or not exactly one kind of input is given.
        MissingExtraError: a dataset is given, but the package `datasets` is not installed.
    """
    values = {**overlaid(said), "data": None}
    if said.get("data", {}).get("name") is not None:
        from icclip.evaluating.request import evaluation_data

        values["data"] = evaluation_data(
            registry, str(said["encoder"]["checkpoint"]), said["data"], said["encoder"].get("revision")
        )
    return EmbedConfig.from_mapping(values)
