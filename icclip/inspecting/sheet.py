"""Draw a contact sheet with some images of each split and their first captions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from icclip.console import harmless
from icclip.data.split import decode_cell
from icclip.errors import DataError
from icclip.files import atomic_write_bytes

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS, ROWS = 6, 3
"""The maximum number of images from each split."""
TILE, GAP, LINE, LINES = 160, 12, 13, 3
"""In pixels: the side of an image, the space between images and the height of a line; then the lines of a caption."""
CHARACTERS = 28
"""The number of characters in a line under a tile."""
PAPER, INK, BAD = "white", "black", "#c8352b"


def write_sheet(path: Path, splits: Mapping[str, Dataset]) -> None:
    """Draw images taken at even distances from each split; one that cannot be read becomes a red frame.

    Raises:
        UsageError: the file cannot be written.
    """
    parts = [_part(name, split) for name, split in splits.items()]
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    atomic_write_bytes(path, buffer.getvalue())


def _part(name: str, split: Dataset) -> Image.Image:
    chosen = np.unique(np.linspace(0, len(split) - 1, min(COLUMNS * ROWS, len(split))).astype(int))
    high = TILE + LINES * LINE + GAP
    part = Image.new("RGB", (GAP + COLUMNS * (TILE + GAP), 2 * GAP + LINE + -(-len(chosen) // COLUMNS) * high), PAPER)
    draw = ImageDraw.Draw(part)
    draw.text((GAP, GAP), f"{name}: {len(split):,} images", INK, ImageFont.load_default(LINE))
    for number, row in enumerate(chosen):
        left, top = GAP + number % COLUMNS * (TILE + GAP), 2 * GAP + LINE + number // COLUMNS * high
        _tile(part, draw, split[int(row)], (left, top))
    return part


def _tile(part: Image.Image, draw: ImageDraw.ImageDraw, row: Mapping[str, Any], corner: tuple[int, int]) -> None:
    left, top = corner
    try:
        image = ImageOps.contain(decode_cell(row["image"], ""), (TILE, TILE))
        part.paste(image, (left + (TILE - image.width) // 2, top + (TILE - image.height) // 2))
    except DataError:
        draw.rectangle((left, top, left + TILE, top + TILE), outline=BAD, width=3)
    lines = textwrap.wrap(harmless(row["captions"][0][: CHARACTERS * LINES * 2]), CHARACTERS)[:LINES]
    draw.multiline_text((left, top + TILE), "\n".join(lines), INK, ImageFont.load_default(LINE - 2), spacing=2)
