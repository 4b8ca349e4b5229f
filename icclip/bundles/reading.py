"""How a bundle's JSON is read: a bundle comes from somewhere else, and is trusted with nothing."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from icclip.errors import CheckpointError

MAX_BYTES = 16 << 20
"""The largest JSON file that is read; manifests and parity records take kilobytes."""


def read_text(path: Path) -> str:
    """A small UTF-8 file.

    Raises:
        OSError: it cannot be read, or is not a regular file: a pipe or a device would never end.
        ValueError: it is larger than MAX_BYTES, or not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "is not a regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
    return path.read_text(encoding="utf-8")


def read_table(path: Path, missing: str) -> dict[str, Any]:
    """A JSON object; `missing` begins the message where there is no such file.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    try:
        values = json.loads(read_text(path))
    except OSError as error:
        raise CheckpointError(f"{missing} ({error.strerror}); make one with `icclip export`") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deeply: export the checkpoint again") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({shorten(str(error))}): export the checkpoint again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a table of values: export the checkpoint again")
    return values


def shorten(text: str, length: int = 300) -> str:
    """One line of at most `length` characters; what does not fit is cut out of the middle."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    half = (length - len(" ... ")) // 2
    return f"{line[:half]} ... {line[-half:]}"
