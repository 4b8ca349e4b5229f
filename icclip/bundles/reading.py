"""Reading a bundle's JSON carefully, because a bundle comes from somewhere else and is not trusted."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from icclip.errors import CheckpointError

MAX_BYTES = 16 << 20
"""The size in bytes of the largest JSON file that is read; manifests and parity records take kilobytes."""


def read_text(path: Path) -> str:
    """Read a small UTF-8 file.

    Raises:
        OSError: the file cannot be read, or it is a pipe or a device, which might never end.
        ValueError: the file is larger than MAX_BYTES, or it is not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "is not a regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
    return path.read_text(encoding="utf-8")


def read_table(path: Path, missing: str) -> dict[str, Any]:
    """Read a JSON object; `missing` begins the message if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or does not hold a JSON object.
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
    """Shorten text to one line of at most `length` characters by leaving out its middle."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    half = (length - len(" ... ")) // 2
    return f"{line[:half]} ... {line[-half:]}"
