"""Texts that an index without captions is trained and measured with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icclip.errors import UsageError

THINGS = (
    "dog", "cat", "horse", "bird", "fish", "child", "woman", "man", "crowd", "team", "bicycle", "car", "train", "boat",
    "aeroplane", "bridge", "house", "street", "city", "mountain", "river", "beach", "forest", "garden", "flower", "tree",
    "snow", "sunset", "storm", "field", "table", "chair", "kitchen", "bedroom", "office", "shop", "book", "screen",
    "phone", "letter", "map", "diagram", "painting", "statue", "toy", "ball", "guitar", "cup", "bottle", "plate of food",
    "cake", "fruit", "shoe", "hat", "dress", "watch", "glass", "tool", "machine", "sign",
)  # fmt: skip
PATTERNS = (
    "a photo of a {}", "{}", "a close-up of a {}", "a {} outdoors", "a small {} beside a large one", "two people and a {}",
    "a red {}", "a black and white picture of a {}", "a {} in the rain", "a {} on the left of the picture",
)  # fmt: skip


def phrases() -> list[str]:
    """What people type, for want of anything better: 600 short texts."""
    return [pattern.format(thing) for thing in THINGS for pattern in PATTERNS]


def texts_in(path: Path) -> list[str]:
    """The non-empty lines of a UTF-8 file. Raises UsageError."""
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the texts in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: save it as UTF-8, one text per line") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UsageError(f"{path} has no texts: write one per line")
    return found
