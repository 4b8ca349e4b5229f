"""What a run directory says about itself: `icclip.json`."""

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
from icclip.runs.checkpoints import CHECKPOINT

RECORD = "icclip.json"
FORMAT = 1
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy", "pillow")


def write_record(directory: Path, content: Mapping[str, Any]) -> None:
    """Replace `icclip.json`."""
    atomic_write_json(directory / RECORD, content)


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide the numbers."""
    installed = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"icclip": __version__, "python": platform.python_version(), **installed}


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out tokens given through `--set`."""
    kept = {name: value for name, value in config["training_args"].items() if "token" not in name}
    return {**config, "training_args": kept}


def run_config(checkpoint: str) -> Mapping[str, Any]:
    """The training configuration, as plain values, of a run directory or of the run a `checkpoint-N` is from.

    Returns:
        What the run's `icclip.json` says; {} for anything that is not a run.

    Raises:
        CheckpointError: that file cannot be read.
    """
    directory = Path(checkpoint)
    for path in (directory / RECORD, directory.parent / RECORD):
        if path.is_file() and (path.parent == directory or directory.name.startswith(f"{CHECKPOINT}-")):
            return _config_in(path)
    return {}


def _config_in(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    config = record.get("config") if isinstance(record, Mapping) else None
    return config if isinstance(config, Mapping) else {}
