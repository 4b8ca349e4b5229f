"""What a run directory says about itself: `icclip.json`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from icclip import __version__
from icclip.config import TrainConfig
from icclip.data.split import caption_lists, fingerprint
from icclip.files import atomic_write_json
from icclip.models.loaded import LoadedModel

RECORD = "icclip.json"
FORMAT = 1
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy", "pillow")


def record(config: TrainConfig, loaded: LoadedModel, splits: Mapping[str, Any]) -> dict[str, Any]:
    """All that it takes to know, and to repeat, what was done; no name of the machine or its user."""
    return {
        "format": FORMAT,
        "status": "running",
        "config": without_secrets(config.to_mapping()),
        "versions": versions(),
        "data": {"splits": {name: about_split(split) for name, split in splits.items()}},
        "model": loaded.describe(),
        "text_policy": dataclasses.asdict(loaded.text_policy),
    }


def write_record(directory: Path, content: Mapping[str, Any]) -> None:
    """Replace `icclip.json`."""
    atomic_write_json(directory / RECORD, content)


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide the numbers."""
    installed = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"icclip": __version__, "python": platform.python_version(), **installed}


def about_split(split: Any) -> dict[str, Any]:
    """Size and fingerprint; nothing is known of a stream."""
    if not isinstance(split, Dataset):
        return {"images": None, "captions": None, "fingerprint": None}
    captions = sum(map(len, caption_lists(split)))
    return {"images": len(split), "captions": captions, "fingerprint": fingerprint(split)}


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out tokens given through `--set`."""
    kept = {name: value for name, value in config["training_args"].items() if "token" not in name}
    return {**config, "training_args": kept}
