"""Where the right answers stand when a model ranks all texts for an image, and all images for a text.

The counts come from float32 cosines, and they do not depend on how the work was cut into blocks, on
the number of threads or on the BLAS library: rows are rounded to multiples of 2^-26, so that every
product and every partial sum of a cosine (at most 1 for unit rows) is a multiple of 2^-52 and fits the
53 bits of a float64. A sum that never rounds has one value in whatever order it is taken. The
rounding moves a cosine by about 1e-8, less than float32 summation would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icclip.errors import CheckpointError
from icclip.retrieval.captions import CaptionMap

BLOCK = 2048
"""Rows and columns of the similarities that are in memory at once: about 60 MB."""

_GRID = float(2**26)


@dataclass(frozen=True)
class RetrievalRanks:
    """How many wrong candidates stand before each right one, in both directions.

    Caption j and its image are each other's positives; the texts and images of other rows are
    negatives. The arrays are [n_texts], in the order of `captions.texts`; `..._ahead` counts the
    negatives that score at least as high as the positive (ties go against it), `..._above` those that
    score strictly higher.
    """

    captions: CaptionMap
    texts_ahead: np.ndarray
    """int64 [n_texts]: query = the caption's image, candidates = all texts."""
    texts_above: np.ndarray
    """int64 [n_texts]"""
    images_ahead: np.ndarray
    """int64 [n_texts]: query = the caption, candidates = all images."""
    images_above: np.ndarray
    """int64 [n_texts]"""
    cosines: np.ndarray
    """float32 [n_texts]: of each caption with its own image."""

    @cached_property
    def i2t(self) -> np.ndarray:
        """int64 [n_images]: pessimistic rank, from 1, of each image's best caption."""
        return self._per_image(np.minimum, 1 + self.texts_ahead)

    @cached_property
    def i2t_optimistic(self) -> np.ndarray:
        """int64 [n_images]: as `i2t`, with ties going to the caption."""
        return self._per_image(np.minimum, 1 + self.texts_above)

    @cached_property
    def t2i(self) -> np.ndarray:
        """int64 [n_texts]: pessimistic rank, from 1, of each caption's image."""
        ranks: np.ndarray = 1 + self.images_ahead
        return ranks

    @cached_property
    def t2i_optimistic(self) -> np.ndarray:
        """int64 [n_texts]: as `t2i`, with ties going to the image."""
        ranks: np.ndarray = 1 + self.images_above
        return ranks

    @cached_property
    def i2t_positions(self) -> np.ndarray:
        """int64 [n_texts]: the places that each image's captions take among all texts, ascending.

        A caption comes after the negatives tied with it; what order captions of one image take among
        themselves makes no difference.
        """
        by_image = np.lexsort((self.texts_ahead, self.captions.image_of_text))
        positions: np.ndarray = 1 + self.places + self.texts_ahead[by_image]
        return positions

    @cached_property
    def places(self) -> np.ndarray:
        """int64 [n_texts]: 0, 1, ... within the captions of each image."""
        starts = self.captions.offsets[:-1]
        places: np.ndarray = np.arange(self.captions.n_texts) - starts[self.captions.image_of_text]
        return places

    @cached_property
    def best_cosines(self) -> np.ndarray:
        """float32 [n_images]: the best cosine of each image with its own captions."""
        return self._per_image(np.maximum, self.cosines)

    def _per_image(self, reduce: np.ufunc, values: np.ndarray) -> np.ndarray:
        reduced: np.ndarray = reduce.reduceat(values, self.captions.offsets[:-1])
        return reduced


def rank(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, captions: CaptionMap, *, block: int = BLOCK
) -> RetrievalRanks:
    """Count the negatives before every positive, without holding all similarities at once.

    Args:
        image_embeddings: float [n_images, dim]; rows are brought to length 1 (a zero row stays zero).
        text_embeddings: float [n_texts, dim], likewise.
        captions: which texts belong to which image.
        block: rows and columns of a tile of similarities; changes memory and time, never the result.

    Raises:
        CheckpointError: embeddings that are not finite, or of different widths.
        ValueError: the numbers of rows are not those of `captions`.
    """
    _check(image_embeddings, text_embeddings, captions)
    images, texts = _unit_on_grid(image_embeddings), _unit_on_grid(text_embeddings)
    owner = captions.image_of_text
    cosines = _own_cosines(images, texts, owner, block)
    counts = np.zeros((4, captions.n_texts), dtype=np.int64)
    texts_ahead, texts_above, images_ahead, images_above = counts
    for rows in _spans(captions.n_images, block):
        mine = slice(*captions.offsets[[rows.start, rows.stop]])
        for columns in _spans(captions.n_texts, block):
            tile = (images[rows] @ texts[columns].T).astype(np.float32)
            images_ahead[columns] += np.count_nonzero(tile >= cosines[columns], axis=0)
            images_above[columns] += np.count_nonzero(tile > cosines[columns], axis=0)
            _count_texts(tile, owner[mine] - rows.start, cosines[mine], texts_ahead[mine], texts_above[mine])
    # Up to here the positives were counted as well: for a text its one image, for an image its captions.
    images_ahead -= 1
    _discount_own(cosines, captions, texts_ahead, texts_above)
    return RetrievalRanks(captions, texts_ahead, texts_above, images_ahead, images_above, cosines)


def _count_texts(
    tile: np.ndarray, row_of_text: np.ndarray, cosines: np.ndarray, ahead: np.ndarray, above: np.ndarray
) -> None:
    """Add, for each caption of the tile's images, the texts in the tile that reach its score."""
    for position, (row, cosine) in enumerate(zip(row_of_text, cosines, strict=True)):
        scores = tile[row]
        ahead[position] += np.count_nonzero(scores >= cosine)
        above[position] += np.count_nonzero(scores > cosine)


def _discount_own(cosines: np.ndarray, captions: CaptionMap, ahead: np.ndarray, above: np.ndarray) -> None:
    """Take an image's own captions out of the counts of its captions."""
    for start, stop in zip(captions.offsets[:-1], captions.offsets[1:], strict=True):
        own = cosines[start:stop]
        ahead[start:stop] -= (own[None, :] >= own[:, None]).sum(axis=1)
        above[start:stop] -= (own[None, :] > own[:, None]).sum(axis=1)


def _own_cosines(images: np.ndarray, texts: np.ndarray, owner: np.ndarray, block: int) -> np.ndarray:
    """float32 [n_texts]: each text with its image; equal to the tiles' entries since both are exact."""
    parts = [np.einsum("td,td->t", images[owner[span]], texts[span]) for span in _spans(len(texts), block)]
    return np.concatenate(parts).astype(np.float32)


def _unit_on_grid(embeddings: np.ndarray) -> np.ndarray:
    """float64 [n, dim]: rows of length 1, rounded to multiples of 2^-26 (see the module's docstring)."""
    rows = embeddings.astype(np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    np.divide(rows, lengths, out=rows, where=lengths > 0)
    rows *= _GRID
    return np.divide(np.rint(rows, out=rows), _GRID, out=rows)


def _spans(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _check(image_embeddings: np.ndarray, text_embeddings: np.ndarray, captions: CaptionMap) -> None:
    for kind, embeddings, expected in (
        ("image", image_embeddings, captions.n_images),
        ("text", text_embeddings, captions.n_texts),
    ):
        if embeddings.ndim != 2 or len(embeddings) != expected:  # noqa: PLR2004  rows and columns
            raise ValueError(f"{kind} embeddings have shape {embeddings.shape}: expected [{expected}, dim]")
        broken = ~np.isfinite(embeddings).all(axis=1)
        if broken.any():
            raise CheckpointError(
                f"the model gives NaN or infinity for {broken.sum()} of {expected} {kind}s, the first is number "
                f"{int(broken.argmax())}: its weights are damaged, or half precision overflowed (try fp32)"
            )
    width, other = image_embeddings.shape[1], text_embeddings.shape[1]
    if width != other:
        raise CheckpointError(
            f"image embeddings have {width} dimensions and text embeddings {other}: "
            "the two encoders are not of one model, or their projections are missing"
        )
