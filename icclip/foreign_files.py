"""The door for files of models and bundles that come from somewhere else: their type, their size and their depth.

What is behind it is a value of bounded size: no pipe that never ends, no gigabytes of JSON, no nesting that
exhausts the stack of whoever walks through it.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 20
"""The largest JSON file that is read; configurations and records take kilobytes."""
MAX_TOKENIZER_BYTES = 128 << 20
"""The largest tokenizer.json; that of Gemma, with 256,000 tokens, has 34 MB."""
DEEPEST = 64
"""Tables and lists within each other; configurations have about six."""
LARGEST_EXPANSION = 32
"""Characters that a tokenizer's normalizer may make of one; none in use makes more than a few."""


def check_regular(path: Path, most: int | None = None) -> None:
    """Look at a file, links followed, without opening it.

    Raises:
        OSError: it is missing, or is not a regular file: a pipe or a device would never end.
        ValueError: it has more than `most` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "is not a regular file")
    if most is not None and status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {most:,}")


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """A UTF-8 file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        ValueError: it has more than `most` bytes, or is not UTF-8.
    """
    check_regular(path, most)
    return path.read_text(encoding="utf-8")


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: as `read_text`.
        ValueError: as `read_text`; or it is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(read_text(path, most))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if depth(value) > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return value


def depth(value: Any) -> int:
    """How many tables and lists lie within each other."""
    found, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        found += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return found


def reason(error: Exception, length: int = 200) -> str:
    """Why a file cannot be read, in one line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[:length]}..."


def expansion(normalizer: Any) -> float:
    """At most how many characters a tokenizer's normalizer makes of one.

    Args:
        normalizer: as tokenizer.json has it; None for one that has none.
    """
    steps = list(_steps(normalizer))
    factor = math.prod(_of_step(step) for step in steps)
    return max(1.0, factor)


def _steps(normalizer: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [normalizer]
    while waiting:
        step = waiting.pop()
        if isinstance(step, Mapping):
            inner = step.get("normalizers")
            if isinstance(inner, list):
                waiting += inner
            else:
                yield step


def _of_step(step: Mapping[str, Any]) -> float:
    content = step.get("content")
    if not isinstance(content, str):
        return 1.0
    pattern = step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    return max(1.0, len(content) / max(1, len(text) if isinstance(text, str) else 1))
