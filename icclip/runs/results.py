"""The files of metrics, and what these metrics are about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icclip.errors import UsageError
from icclip.files import atomic_write_json
from icclip.naming import public_name

IDENTITY = ("dataset", "split", "checkpoint", "relevance")
"""Keys of `about` that must agree between a file and what replaces it."""


def metric_path(directory: Path, split: str) -> Path:
    """The file for the metrics of a split, such as `test_metric.json`."""
    return directory / f"{split}_metric.json"


def write_metrics(path: Path, metrics: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics as JSON, completely or not at all, with `about` as the last key.

    Returns:
        `about` as it was written, with names instead of paths of this machine.

    Raises:
        UsageError: the file cannot be written, or it holds numbers of something else.
    """
    refuse_other_numbers(path, about)
    public = public_about(about)
    atomic_write_json(path, {**metrics, "about": public})
    return public


def public_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """`about` with names in the place of paths of this machine."""
    return {key: _told_apart(value) if key in IDENTITY else value for key, value in about.items()}


def read_metrics(path: Path) -> dict[str, Any]:
    """The metrics that `write_metrics` wrote; empty if there is no such file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: value for name, value in content.items() if name != "about"}


def refuse_other_numbers(path: Path, about: Mapping[str, Any]) -> None:
    """Protect the results of another dataset, split or checkpoint from being overwritten.

    A file that does not say what it is about (such as the seed project's) may be replaced.

    Raises:
        UsageError: `path` holds the metrics of something else.
    """
    there = _about(path)
    other = [
        f"{key} {there[key]}"
        for key in IDENTITY
        if key in there and _told_apart(there[key]) != _told_apart(about.get(key, there[key]))
    ]
    if other:
        raise UsageError(
            f"{path} holds the metrics of {', '.join(other)}: give another --output-dir, or remove that file"
        )


def _told_apart(value: Any) -> Any:
    """A name without the directories of this machine, with a few digits that distinguish it from others of the same name."""
    if not isinstance(value, str) or public_name(value) == value:
        return value
    return f"{public_name(value)} ({hashlib.sha256(value.encode()).hexdigest()[:8]})"


def _about(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read the earlier metrics {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} exists and is not JSON ({error}): remove it, or give another --output-dir") from error
    about = content.get("about", {}) if isinstance(content, dict) else {}
    return about if isinstance(about, Mapping) else {}
