"""What `icclip index` and `icclip search` are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.config import EncoderConfig, overlaid
from icclip.config.indexing import AddConfig, IndexConfig
from icclip.config.searching import SearchConfig
from icclip.plugins.registry import Registry
from icclip.searching.libraries import faiss
from icclip.searching.opening import encoder_request
from icclip.searching.record import read_record


def index_config(registry: Registry, said: Mapping[str, Any]) -> IndexConfig:
    """The whole request for a new index.

    Args:
        registry: knows the datasets.
        said: fields of IndexConfig, nested; `items.data.name` is what the user wrote after `--dataset`.

    Raises:
        UsageError: the dataset is unknown or an option is wrong. ModuleNotFoundError: FAISS is not installed.
    """
    faiss()
    checkpoint = str(said["encoder"]["checkpoint"])
    return IndexConfig.from_mapping({**overlaid(said), "items": _items(registry, checkpoint, said)})


def add_config(registry: Registry, said: Mapping[str, Any]) -> AddConfig:
    """The whole request for an addition; raises as `index_config` does."""
    faiss()
    encoder = _encoder(said)
    items = _items(registry, encoder.checkpoint, said)
    return AddConfig.from_mapping({**overlaid(said), "encoder": encoder, "items": items})


def search_config(said: Mapping[str, Any]) -> SearchConfig:
    """The whole request for a search; raises as `index_config` does."""
    faiss()
    return SearchConfig.from_mapping({**overlaid(said), "encoder": _encoder(said)})


def _encoder(said: Mapping[str, Any]) -> EncoderConfig:
    return encoder_request(read_record(Path(said["index"])), said.get("encoder"), said.get("model"))


def _items(registry: Registry, checkpoint: str, said: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(said.get("items", {}))
    values = {**overlaid(given), "data": None}
    if given.get("data", {}).get("name") is not None:
        from icclip.evaluating.request import evaluation_data

        data = {**given["data"], "on_bad_image": None}
        values["data"] = evaluation_data(registry, checkpoint, data)
    return values
