"""Reading a bundle's JSON carefully, because a bundle comes from somewhere else and is not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icclip.errors import CheckpointError, shorten
from icclip.foreign_files import read_json


def read_table(path: Path, missing: str) -> dict[str, Any]:
    """Read a JSON object; `missing` begins the message if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        values = read_json(path)
    except OSError as error:
        raise CheckpointError(f"{missing} ({error.strerror}); make one with `icclip export`") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({shorten(str(error))}): export the checkpoint again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a table of values: export the checkpoint again")
    return values
