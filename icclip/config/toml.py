"""Write a configuration as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

Path = tuple[str, ...]


def toml(values: Mapping[str, Any], comments: Mapping[Path, str] = MappingProxyType({})) -> str:
    """Write plain values in tables as TOML 1.0; None, which TOML lacks, becomes a comment.

    Args:
        values: the values, nested by table.
        comments: the comment above each key, by the names that lead to it.
    """
    return "\n".join(_lines(values, (), comments)) + "\n"


def _lines(values: Mapping[str, Any], path: Path, comments: Mapping[Path, str]) -> Iterator[str]:
    if path:
        yield f"\n[{'.'.join(map(_key, path))}]"
    for name, value in values.items():
        if (comment := comments.get((*path, name))) and not isinstance(value, Mapping):
            yield f"# {comment}"
        if value is None:
            yield f"# {_key(name)} = (not set)"
        elif not isinstance(value, Mapping):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*path, name), comments)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, list | tuple) else repr(value)


def _string(text: str) -> str:
    """Quote a string: TOML's escapes are those of JSON, except that JSON does not escape DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
