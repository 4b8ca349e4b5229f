"""The content of `icclip.json` when a run starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from icclip.config import TrainConfig
from icclip.data.gallery import Gallery
from icclip.models.loaded import LoadedModel
from icclip.runs.record import FORMAT, versions, without_secrets

if TYPE_CHECKING:
    from datasets import IterableDataset


def record(
    config: TrainConfig,
    loaded: LoadedModel,
    splits: Mapping[str, Gallery | IterableDataset],
    processes: int,
    stream: Mapping[str, int],
) -> dict[str, Any]:
    """Everything needed to know what was done and to repeat it; nothing names the machine or its user.

    Args:
        config: the configuration.
        loaded: the model as it begins.
        splits: by name.
        processes: the number of processes that train together.
        stream: how a streamed training split is divided; empty if it is whole.
    """
    return {
        "format": FORMAT,
        "status": "running",
        "config": without_secrets(config.to_mapping()),
        "processes": processes,
        # Whoever goes on with it, with whatever number of processes, fills its batches from the same shards.
        **({"stream": dict(stream)} if stream else {}),
        "versions": versions(),
        "data": {"splits": {name: about_split(split) for name, split in splits.items()}},
        "model": loaded.describe(),
        "text_policy": dataclasses.asdict(loaded.feeder.text_policy),
    }


def about_split(split: Gallery | IterableDataset) -> dict[str, Any]:
    """The size and fingerprint of a split; null for a stream, about which nothing is known in advance."""
    if not isinstance(split, Gallery):
        return {"images": None, "captions": None, "fingerprint": None}
    captions = split.captions
    return {"images": captions.n_images, "captions": captions.n_texts, "fingerprint": split.fingerprint()}
