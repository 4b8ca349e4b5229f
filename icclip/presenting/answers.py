"""The best and the worst answers of a model, with small pictures of their images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from icclip.report.page.subject import Retrieval, Tile

if TYPE_CHECKING:
    from icclip.retrieval.queries import QueryRanks
    from icclip.retrieval.relevance import Relevance
    from icclip.runs.ranks import SavedRanks

SIDE = 160
QUALITY = 72
ALT = 120


@dataclass(frozen=True, slots=True)
class Answers:
    """Makes them."""

    images: Sequence[Image.Image]
    relevance: Relevance

    def of(self, ranks: SavedRanks, count: int) -> list[Retrieval]:
        """`count` of the best and of the worst in both directions."""
        found = []
        for best in (False, True):
            found += [self._t2i(ranks.t2i, place, best=best) for place in chosen(ranks.t2i, count, best=best)]
            found += [self._i2t(ranks.i2t, place, best=best) for place in chosen(ranks.i2t, count, best=best)]
        return found

    def _t2i(self, queries: QueryRanks, place: int, *, best: bool) -> Retrieval:
        text = int(queries.query[place])
        right = set(self.relevance.images_of(text).tolist())
        answers = [self._tile(row, right=row in right) for row in queries.first[place].tolist()]
        own = self._tile(int(self.relevance.captions.image_of_text[text]))
        return Retrieval("t2i", best, int(queries.rank[place]), self.relevance.captions.texts[text], own, answers)

    def _i2t(self, queries: QueryRanks, place: int, *, best: bool) -> Retrieval:
        image, texts = int(queries.query[place]), self.relevance.captions.texts
        right = self.relevance.texts_of(image).tolist()
        answers = [(texts[row], row in right) for row in queries.first[place].tolist()]
        return Retrieval("i2t", best, int(queries.rank[place]), self._tile(image), texts[right[0]], answers)

    def _tile(self, row: int, *, right: bool | None = None) -> Tile:
        captions = self.relevance.captions
        alt = captions.texts[int(captions.offsets[row])][:ALT]
        return Tile(thumbnail(self.images[row]), alt, "", right)


def chosen(queries: QueryRanks, count: int, *, best: bool) -> Iterator[int]:
    """Positions of queries: the highest cosines among the first ranks, or the worst ranks; an image comes once."""
    order = np.lexsort((-queries.cosine, queries.rank)) if best else np.lexsort((queries.cosine, -queries.rank))
    seen: set[int] = set()
    for place in order.tolist():
        if len(seen) == count:
            return
        if (image := int(queries.image[place])) not in seen:
            seen.add(image)
            yield place


def thumbnail(image: Image.Image) -> str:
    """A `data:` URI with a small JPEG."""
    file = io.BytesIO()
    ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)).save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
