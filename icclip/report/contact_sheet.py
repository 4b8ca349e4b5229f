"""A picture of what a model finds: one row per query with its best images, framed by right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from icclip.plugins.specs import Encoder
    from icclip.retrieval.relevance import Relevance

TILE, GAP, FRAME, LINE = 112, 12, 4, 16
"""In pixels: the side of an image, the space between images, the width of a frame, and the height of a line."""
PAPER, INK, RIGHT, WRONG = "white", "black", "#2a9d3a", "#c8352b"


@dataclass(frozen=True, slots=True)
class Answer:
    """An image that was found."""

    image: Image.Image
    cosine: float
    right: bool
    note: str = ""
    """Written below it; empty: whether it is right, and the cosine."""


@dataclass(frozen=True, slots=True)
class Query:
    """A caption, and the images that came first, best first."""

    text: str
    answers: tuple[Answer, ...]


def search(
    encoder: Encoder, images: Sequence[Image.Image], relevance: Relevance, *, queries: int = 6, best: int = 5
) -> list[Query]:
    """Search for images with captions taken at even distances from the distinct ones of a split.

    Args:
        encoder: the encoder, which returns unit vectors.
        images: the images, in the order of `relevance`.
        relevance: the captions, and the right answers to them.
        queries: the maximum number of captions to search with.
        best: number of images to keep for each caption.
    """
    texts, distinct = relevance.captions.texts, relevance.texts.first
    chosen = distinct[np.linspace(0, len(distinct) - 1, min(queries, len(distinct))).astype(int)].tolist()
    cosines = encoder.encode_texts([texts[text] for text in chosen]) @ encoder.encode_images(images).T
    found = []
    for text, row in zip(chosen, cosines, strict=True):
        right = set(relevance.images_of(text).tolist())
        first = np.argsort(-row)[:best].tolist()
        found.append(Query(texts[text], tuple(Answer(images[i], float(row[i]), i in right) for i in first)))
    return found


def contact_sheet(queries: Sequence[Query], title: str) -> Image.Image:
    """Draw the queries below each other; returns an RGB image as wide as the longest row."""
    columns = max((len(query.answers) for query in queries), default=1)
    row_height = LINE + GAP // 2 + TILE + LINE + GAP
    font = ImageFont.load_default(LINE - 3)
    words = [title, *(query.text for query in queries)]
    width = 2 * GAP + max(columns * (TILE + GAP) - GAP, *(int(font.getlength(one)) for one in words))
    sheet = Image.new("RGB", (width, 2 * GAP + LINE + len(queries) * row_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, font)
    for number, query in enumerate(queries):
        top = 2 * GAP + LINE + number * row_height
        draw.text((GAP, top), query.text, INK, font)
        for column, answer in enumerate(query.answers):
            _draw_answer(sheet, draw, font, answer, (GAP + column * (TILE + GAP), top + LINE + GAP // 2))
    return sheet


def _draw_answer(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    answer: Answer,
    corner: tuple[int, int],
) -> None:
    left, top = corner
    inside = (TILE - 2 * FRAME, TILE - 2 * FRAME)
    colour = RIGHT if answer.right else WRONG
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), colour)
    sheet.paste(ImageOps.pad(answer.image, inside, color=PAPER), (left + FRAME, top + FRAME))
    # Right and wrong are also written out, because red and green look alike to many people.
    note = answer.note or f"{'right' if answer.right else 'wrong'} {answer.cosine:.2f}"
    draw.text((left, top + TILE + 1), note, colour, font)
