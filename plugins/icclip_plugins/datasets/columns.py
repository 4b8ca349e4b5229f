"""Usual names of image and caption columns, and how they are found in a source."""

from __future__ import annotations

import re
from collections.abc import Iterable

from icclip.errors import DataError

IMAGE_ALIASES = ("image", "image_path", "filepath", "path")
CAPTION_ALIASES = ("text", "caption", "captions", "prompt", "sentences")
IMAGE_NAMES = (*IMAGE_ALIASES, "file_name", "filename", "image_name", "img", "image_file", "url", "image_url", "jpg")
"""Of files that list images: `file_name` is what datasets' imagefolder calls it, `url` what img2dataset does."""
CAPTION_NAMES = (*CAPTION_ALIASES, "title", "comment", "description")
NUMBERED_CAPTION = re.compile(r"captions?_?\d+")


def given_column(name: str | None, features: Iterable[str], option: str, where: str) -> str | None:
    """Return `name`. Raises DataError if it is given but not among `features`."""
    if name is not None and name not in features:
        raise DataError(f"{where}: {option} {name}: no such column; the columns are {', '.join(features)}")
    return name


def image_column(features: Iterable[str]) -> str | None:
    """Find the column with one of the usual names for images, in upper or lower case."""
    return next(iter(_named(IMAGE_NAMES, features)), None)


def caption_columns(features: Iterable[str]) -> tuple[str, ...]:
    """Find the caption columns by their usual names: one, or `caption_0`, `caption_1`, ...; empty if there is none."""
    features = list(features)
    numbered = sorted((n for n in features if NUMBERED_CAPTION.fullmatch(n.lower())), key=lambda n: (len(n), n))
    return _named(CAPTION_NAMES, features)[:1] or tuple(numbered)


def _named(aliases: Iterable[str], features: Iterable[str]) -> tuple[str, ...]:
    by_lower: dict[str, str] = {}
    for name in features:
        by_lower.setdefault(name.lower(), name)
    return tuple(by_lower[alias] for alias in aliases if alias in by_lower)
