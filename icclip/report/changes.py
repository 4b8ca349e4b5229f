"""A picture of the captions whose images moved most between two models."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icclip.report.contact_sheet import Answer, Query, contact_sheet
from icclip.retrieval.captions import CaptionMap

if TYPE_CHECKING:
    from PIL import Image

    from icclip.retrieval.queries import QueryRanks

MOST = 5
"""Captions shown of those that were won, and of those that were lost."""
SHOWN = 2
"""First answers shown of each model."""


def moved_most(before: QueryRanks, now: QueryRanks, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """Positions, int64, of the queries that gained most and of those that lost most, by the ratio of their ranks.

    From rank 2 to 1 counts as much as from 20 to 10: the first places are what users see.
    """
    gains = np.log(before.rank / now.rank)
    order = np.argsort(-gains, kind="stable")
    won, lost = order[:most], order[::-1][:most]
    return won[gains[won] > 0], lost[gains[lost] < 0]


def changes_sheet(
    images: Sequence[Image.Image], captions: CaptionMap, ranks: tuple[QueryRanks, QueryRanks], models: Sequence[str]
) -> Image.Image:
    """Draw, for each caption, its own image and what each model found first.

    Args:
        images: of the split.
        captions: of the split.
        ranks: text queries of the first model and of the second, on the same split.
        models: their names.
    """
    won, lost = moved_most(*ranks)
    queries = [
        Query(_title(captions, ranks, place, kind), tuple(_answers(images, captions, ranks, place)))
        for kind, places in (("won", won), ("lost", lost))
        for place in places.tolist()
    ]
    return contact_sheet(queries, f"from {models[0]} to {models[1]}: {len(won)} won most, {len(lost)} lost most")


def _title(captions: CaptionMap, ranks: tuple[QueryRanks, QueryRanks], place: int, kind: str) -> str:
    text = captions.texts[int(ranks[0].query[place])]
    return f"{kind}: rank {ranks[0].rank[place]:,} became {ranks[1].rank[place]:,}: {text}"


def _answers(
    images: Sequence[Image.Image], captions: CaptionMap, ranks: tuple[QueryRanks, QueryRanks], place: int
) -> Iterator[Answer]:
    own = int(captions.image_of_text[ranks[0].query[place]])
    yield Answer(images[own], 0.0, right=True, note="its image")
    for name, one in zip(("before", "now"), ranks, strict=True):
        for number, row in enumerate(one.first[place][:SHOWN].tolist(), 1):
            yield Answer(images[row], 0.0, right=row == own, note=f"{name}, {number}.")


def encoded_picture(picture: Image.Image, suffix: str) -> bytes:
    """As PNG, or as JPEG for `.jpg` and `.jpeg`."""
    file = io.BytesIO()
    picture.save(file, "PNG" if suffix.lower() == ".png" else "JPEG")
    return file.getvalue()
