"""What `icclip.json` says about a run when it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from icclip.config import TrainConfig
from icclip.data.split import caption_lists, fingerprint
from icclip.models.loaded import LoadedModel
from icclip.runs.record import FORMAT, versions, without_secrets


def record(config: TrainConfig, loaded: LoadedModel, splits: Mapping[str, Any]) -> dict[str, Any]:
    """All that it takes to know, and to repeat, what was done; no name of the machine or its user."""
    return {
        "format": FORMAT,
        "status": "running",
        "config": without_secrets(config.to_mapping()),
        "versions": versions(),
        "data": {"splits": {name: about_split(split) for name, split in splits.items()}},
        "model": loaded.describe(),
        "text_policy": dataclasses.asdict(loaded.feeder.text_policy),
    }


def about_split(split: Any) -> dict[str, Any]:
    """Size and fingerprint; nothing is known of a stream."""
    if not isinstance(split, Dataset):
        return {"images": None, "captions": None, "fingerprint": None}
    captions = sum(map(len, caption_lists(split)))
    return {"images": len(split), "captions": captions, "fingerprint": fingerprint(split)}
