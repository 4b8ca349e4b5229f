"""The record that a run directory keeps of itself: `icclip.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip import __version__
from icclip.errors import CheckpointError
from icclip.files import atomic_write_json

RECORD = "icclip.json"
FORMAT = 1
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy", "pillow")


def write_record(directory: Path, content: Mapping[str, Any]) -> None:
    """Replace `icclip.json`, completely or not at all."""
    atomic_write_json(directory / RECORD, content)


def versions() -> dict[str, str]:
    """The versions of Python, icclip and the libraries that decide the numbers."""
    installed = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"icclip": __version__, "python": platform.python_version(), **installed}


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the tokens that were given through `--set`."""
    kept = {name: value for name, value in config["training_args"].items() if "token" not in name}
    return {**config, "training_args": kept}


def read_record(path: Path) -> Mapping[str, Any]:
    """The content of an `icclip.json`; empty where the file holds JSON that is not an object.

    Raises:
        CheckpointError: the file cannot be read as JSON.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return record if isinstance(record, Mapping) else {}
