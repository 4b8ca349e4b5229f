"""A picture of what a model finds: one row a query, its best images, right and wrong ones framed."""

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
"""Pixels: an image's side, the space between them, a frame's width, a line of text."""
PAPER, INK, RIGHT, WRONG = "white", "black", "#2a9d3a", "#c8352b"


@dataclass(frozen=True, slots=True)
class Answer:
    """An image that was found."""

    image: Image.Image
    cosine: float
    right: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A caption, and the images that came first, best first."""

    text: str
    answers: tuple[Answer, ...]


def search(
    encoder: Encoder, images: Sequence[Image.Image], relevance: Relevance, *, queries: int = 6, best: int = 5
) -> list[Query]:
    """Ask for images with captions spread evenly over the distinct ones of a split.

    Args:
        encoder: gives unit vectors.
        images: as many as `relevance` has, in its order.
        relevance: the captions, and the right answers to them.
        queries: the maximum number of captions to ask for.
        best: images kept for each.
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
    """Draw the queries below each other: RGB, as wide as the longest row."""
    columns = max(len(query.answers) for query in queries)
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
    # Said in words too: red and green look alike to many.
    draw.text((left, top + TILE + 1), f"{'right' if answer.right else 'wrong'} {answer.cosine:.2f}", colour, font)
