"""Names for published files, without the directories of this machine."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def public_name(name: str) -> str:
    """A checkpoint's or dataset's name without directories of this machine.

    `/home/me/runs/best` becomes `best`, `flickr8k@/data/f8k` becomes `flickr8k@f8k`, `a/b/c.jsonl` becomes
    `c.jsonl`; a hub id (`openai/clip-vit-base-patch16`) and a plain name stay as they are.
    """
    if "@" in name:
        plugin, _, path = name.partition("@")
        if plugin and not _is_path(plugin):
            return f"{plugin}@{_base(path) if _is_path(path) else path}"
    return _base(name) if _is_path(name) else name


def _is_path(name: str) -> bool:
    if name.startswith(("/", "./", "../", "~", "\\")) or _DRIVE.match(name) or "\\" in name:
        return True
    return "/" in name and (not _HUB_ID.fullmatch(name) or Path(name).exists())


def _base(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]+", path) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "data"
