"""The record that a run directory keeps of itself: `icclip.json`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icclip import __version__
from icclip.errors import CheckpointError, UsageError
from icclip.files import atomic_write_json
from icclip.foreign_files import read_json, reason
from icclip.naming import public_name

RECORD = "icclip.json"
LOCAL = "local.json"
"""The file with the paths of everything that the record names; it is never published."""
FORMAT = 1
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy", "pillow")


def write_record(directory: Path, content: Mapping[str, Any]) -> None:
    """Replace `icclip.json`, completely or not at all.

    The record is published with the model, so it names things without the directories of this machine. Their paths
    are in `local.json` beside it, which is not published.
    """
    paths: dict[str, dict[str, str]] = {}
    config = _published(content.get("config"), "", paths)
    public = {**content, "config": config} if "config" in content else dict(content)
    if paths or (directory / LOCAL).exists():
        atomic_write_json(directory / LOCAL, {"config": paths})
    atomic_write_json(directory / RECORD, _without_paths(public))


@contextlib.contextmanager
def never_running_for_ever(directory: Path, record: Mapping[str, Any], *, writes: bool = True) -> Iterator[None]:
    """Let the record say how a run ended that does not end well: `interrupted` by the user, or else `stopped`.

    Args:
        directory: of the run.
        record: what `icclip.json` holds while the run goes on.
        writes: whether this process is the one that writes it.
    """
    try:
        yield
    except BaseException as error:
        # What ended the run has often written more than this already.
        if writes and read_record(directory / RECORD).get("status") == record.get("status"):
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            # A disk that is full was the reason to end, and would now hide it.
            with contextlib.suppress(UsageError):
                write_record(directory, {**record, "status": status})
        raise


def _published(value: Any, where: str, paths: dict[str, dict[str, str]]) -> Any:
    """Replace paths in plain values by names, and collect the paths by their dotted keys."""
    if isinstance(value, Mapping):
        return {key: _published(item, f"{where}.{key}" if where else key, paths) for key, item in value.items()}
    if isinstance(value, str) and public_name(value) != value:
        paths[where] = {"name": public_name(value), "path": value}
        return public_name(value)
    return value


def _without_paths(content: Mapping[str, Any]) -> dict[str, Any]:
    """The record without any paths; outside the configuration, names are only for people, and nothing opens them."""
    return {key: value if key == "config" else _published(value, "", {}) for key, value in content.items()}


def versions() -> dict[str, str]:
    """The versions of Python, icclip and the libraries that decide the numbers."""
    installed = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"icclip": __version__, "python": platform.python_version(), **installed}


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the tokens that were given through `--set`."""
    kept = {name: value for name, value in config["training_args"].items() if "token" not in name}
    return {**config, "training_args": kept}


def read_record(path: Path) -> Mapping[str, Any]:
    """Read an `icclip.json`; empty if the file holds JSON that is not an object.

    Raises:
        CheckpointError: the file cannot be read as JSON.
    """
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    if not isinstance(record, Mapping):
        return {}
    return with_local_paths(record, path.parent / LOCAL)


def with_local_paths(record: Mapping[str, Any], local: Path) -> Mapping[str, Any]:
    """Put the paths back into a record, if `local.json` is still beside it.

    Raises:
        CheckpointError: `local.json` exists, but cannot be read as JSON.
    """
    try:
        paths = read_json(local).get("config", {})
    except FileNotFoundError:
        return record
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"cannot read {local}: {reason(error)}; delete it, and give paths on the command line"
        ) from error
    config = record.get("config")
    if not isinstance(config, Mapping) or not isinstance(paths, Mapping):
        return record
    return {**record, "config": _with_paths(config, paths, "")}


def _with_paths(values: Mapping[str, Any], paths: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        own = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            found[key] = _with_paths(value, paths, own)
        else:
            # Only if the name is still the same, because the record may have been edited since.
            path = paths.get(own)
            found[key] = path.get("path", value) if isinstance(path, Mapping) and path.get("name") == value else value
    return found
