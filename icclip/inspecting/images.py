"""Inspect the images of a split one by one."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from icclip.data.cores import cores
from icclip.data.images import decode_image
from icclip.data.split import encoded
from icclip.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

AT_ONCE = 256
"""Number of rows that are read together."""


@dataclass(slots=True)
class Look:
    """The properties of one image."""

    digest: bytes = b""
    """SHA-256 of its file; empty if the file cannot be read."""
    size: tuple[int, int] | None = None
    mode: str = ""
    format: str = ""
    error: str = ""


@dataclass(slots=True)
class ImageFindings:
    """The properties of all images of a split."""

    digests: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def add(self, look: Look) -> None:
        """Count one image."""
        self.digests.append(look.digest)
        if look.error:
            self.unreadable.append(look.error)
        elif look.size is not None:
            self.sizes.append(look.size)
            self.modes[look.mode] += 1
            self.formats[look.format] += 1

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; widths and heights as smallest, median and largest."""
        sizes = np.array(self.sizes or [(0, 0)])
        copies = len(self.digests) - len(set(self.digests))
        return {
            "width": smallest_median_largest(sizes[:, 0]),
            "height": smallest_median_largest(sizes[:, 1]),
            "modes": dict(self.modes.most_common()),
            "formats": dict(self.formats.most_common()),
            "identical_images": copies - max(0, self.digests.count(b"") - 1),
            "unreadable": len(self.unreadable),
            "unreadable_images": self.unreadable,
        }


def smallest_median_largest(values: np.ndarray) -> dict[str, float]:
    """Smallest, median and largest. Raises ValueError for none."""
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def look_at_images(split: Dataset, name: str, advance: Callable[[int], None]) -> ImageFindings:
    """Decode every image of a split; several threads share the work.

    Args:
        split: a split with the column `image`, not decoded.
        name: the name of the split, for messages.
        advance: called with the number of images done.
    """
    findings, rows = ImageFindings(), split.select_columns(["image"])
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(rows), AT_ONCE):
            cells: Sequence[Mapping[str, Any] | None] = rows[start : start + AT_ONCE]["image"][:]
            names = [f"{name} row {row}" for row in range(start, start + len(cells))]
            for look in pool.map(look_at, cells, names):
                findings.add(look)
            advance(len(cells))
    return findings


def look_at(cell: Mapping[str, Any] | None, where: str) -> Look:
    """Read and decode one image; a problem is recorded instead of raised."""
    look = Look()
    path = cell["path"] if cell else None
    where = f"{where} ({path})" if path else where
    try:
        content = encoded(cell, where)
        look.digest = hashlib.sha256(content).digest()
        decode_image(content, where)
        with Image.open(io.BytesIO(content)) as image:
            look.size, look.mode, look.format = image.size, image.mode, image.format or ""
    except DataError as error:
        look.error = str(error)
    return look
