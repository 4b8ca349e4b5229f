"""Draw a contact sheet with some images of each split and their first captions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from icclip.console import counted, harmless
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
PAPER, INK, FRAME, BAD = "white", "black", "#d0d0d0", "#c8352b"
THIN = 3
"""The least side of an image on the sheet in pixels, where its own proportions would leave less."""
UNREADABLE = "cannot be read"


def write_sheet(path: Path, splits: Mapping[str, Dataset]) -> None:
    """Draw images taken at even distances from each split, framed in grey; one that cannot be read is framed in red.

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
    draw.text((GAP, GAP), f"{name}: {counted(len(split), 'image')}", INK, ImageFont.load_default(LINE))
    for number, row in enumerate(chosen):
        left, top = GAP + number % COLUMNS * (TILE + GAP), 2 * GAP + LINE + number // COLUMNS * high
        _tile(part, draw, split[int(row)], (left, top))
    return part


def _tile(part: Image.Image, draw: ImageDraw.ImageDraw, row: Mapping[str, Any], corner: tuple[int, int]) -> None:
    left, top = corner
    corners = (left - 1, top - 1, left + TILE, top + TILE)
    # Without a frame, one that is white or a few pixels wide is hard to see.
    draw.rectangle(corners, outline=FRAME)
    try:
        image = _fitted(decode_cell(row["image"], ""))
        part.paste(image, (left + (TILE - image.width) // 2, top + (TILE - image.height) // 2))
    except DataError:
        draw.rectangle(corners, outline=BAD, width=3)
        draw.text((left + TILE // 2, top + TILE // 2), UNREADABLE, BAD, ImageFont.load_default(LINE), anchor="mm")
    lines = textwrap.wrap(harmless(row["captions"][0][: CHARACTERS * LINES * 2]), CHARACTERS)[:LINES]
    draw.multiline_text((left, top + TILE), "\n".join(lines), INK, ImageFont.load_default(LINE - 2), spacing=2)


def _fitted(image: Image.Image) -> Image.Image:
    shrink = TILE / max(image.size)
    width, height = (max(THIN, round(side * shrink)) for side in image.size)
    return image.resize((width, height))
