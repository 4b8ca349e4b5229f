"""Confidence intervals of retrieval metrics by resampling images.

The captions of one image tend to be answered alike, so resampling captions one by one would make the
intervals too narrow. Therefore an image is drawn together with all its captions (a cluster bootstrap; Field and
Welsh, "Bootstrapping clustered data", 2007), and byte-identical images that are one answer are drawn as
one. A caption that several images share is one query however often it stands in the split. Its rows
belong to it as well as to their images, and neither grouping contains the other; joining all images that
are connected by captions would often leave one single group. So shared captions are drawn too, and a row
counts as often as its image times as often as its caption (the pigeonhole bootstrap; Owen, Annals of
Applied Statistics 1, 2007), which is slightly on the safe side.

Ranks stay those of the full gallery: the intervals describe other queries of the same kind, not a gallery
of another size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from icclip.retrieval.metrics import CUTOFFS, summaries
from icclip.retrieval.ranking import RetrievalRanks

LEVEL = 0.95
KEY = "confidence_95"
"""The key under which the metrics hold the intervals."""

_NUMBERS_AT_ONCE = 4_000_000


def confidence_intervals(ranks: RetrievalRanks, *, resamples: int = 1000, seed: int = 42) -> dict[str, list[float]]:
    """Compute 95 % percentile intervals of the six R@K, `mR@1/5/10` and `rsum`.

    Args:
        ranks: the ranks of the whole split.
        resamples: number of resamples; each draws as many images as the split has, with replacement.
        seed: seed of the resampling; the same seed gives the same intervals.

    Returns:
        Metric name -> [low, high], in the metric's own unit.
    """
    hits, shared = hits_by_image(ranks), _SharedCaptions.of(ranks)
    captions = draws(shared.n_kinds, resamples, [seed, 1], rows=_at_once(len(hits))) if shared.n_kinds else None
    totals = []
    for weights in draws(len(hits), resamples, seed):
        total = weights @ hits
        if captions is not None:
            total += shared.sums(weights, next(captions))
        totals.append(total)
    values = _recalls(np.concatenate(totals))
    values |= summaries(values)
    bounds = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {key: np.nanquantile(value, bounds).tolist() for key, value in values.items()}


def draws(n_images: int, resamples: int, seed: int | list[int], *, rows: int | None = None) -> Iterator[np.ndarray]:
    """How often each image is drawn, in blocks of int64 [r, n_images]; every row sums to n_images.

    There are `resamples` rows in all. Two runs on one split that use the same seed are resampled alike, so
    they can be compared pairwise. A block has at most `rows` rows; None allows as many as fit into memory.
    """
    generator = np.random.default_rng(seed)
    rows = rows or _at_once(n_images)
    for start in range(0, resamples, rows):
        yield generator.multinomial(n_images, np.full(n_images, 1 / n_images), size=min(rows, resamples - start))


def _at_once(n_images: int) -> int:
    return max(1, _NUMBERS_AT_ONCE // n_images)


def hits_by_image(ranks: RetrievalRanks) -> np.ndarray:
    """int64 [kinds of images, 8]: queries by an image answered at 1, 5, 10, and their number; by its own captions.

    Captions that several images share are left to `_SharedCaptions`.
    """
    relevance = ranks.relevance
    i2t, t2i = ranks.i2t_answers, ranks.t2i_answers
    hits = np.zeros((len(relevance.images), 2 * _COLUMNS), np.int64)
    np.add.at(hits[:, :_COLUMNS], relevance.images.of_row[i2t.queries], _hits(ranks.i2t))
    own = ~_is_shared(ranks)[t2i.queries]
    owner = relevance.images.of_row[relevance.captions.image_of_text[t2i.queries]]
    np.add.at(hits[:, _COLUMNS:], owner[own], _hits(ranks.t2i)[own])
    return hits


_COLUMNS = len(CUTOFFS) + 1


def _hits(ranks: np.ndarray) -> np.ndarray:
    """int64 [queries, 4]: whether each is answered at 1, 5, 10; and 1."""
    return np.column_stack([*(ranks <= k for k in CUTOFFS), np.ones(len(ranks), bool)]).astype(np.int64)


def _is_shared(ranks: RetrievalRanks) -> np.ndarray:
    """Whether, bool [n_texts], copies of a caption stand at several images and are one answer."""
    relevance = ranks.relevance
    owner = relevance.images.of_row[relevance.captions.image_of_text]
    distinct = np.unique(np.column_stack([relevance.texts.of_row, owner]), axis=0)
    images = np.bincount(distinct[:, 0], minlength=len(relevance.texts))
    shared: np.ndarray = images[relevance.texts.of_row] > 1
    return shared


@dataclass(frozen=True, slots=True)
class _SharedCaptions:
    """The text queries whose caption several images share."""

    owner: np.ndarray
    """int64 [queries]: kind of image."""
    kind: np.ndarray
    """int64 [queries]: which of the shared captions, from 0."""
    hits: np.ndarray
    """int64 [queries, 4]"""
    n_kinds: int

    @classmethod
    def of(cls, ranks: RetrievalRanks) -> Self:
        queries, relevance = ranks.t2i_answers.queries, ranks.relevance
        own = _is_shared(ranks)[queries]
        kinds, kind = np.unique(relevance.texts.of_row[queries[own]], return_inverse=True)
        owner = relevance.images.of_row[relevance.captions.image_of_text[queries[own]]]
        return cls(owner, kind, _hits(ranks.t2i)[own], len(kinds))

    def sums(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """int64 [r, 8]: what they add; from how often images [r, kinds] and captions [r, kinds] are drawn."""
        added = np.zeros((len(images), 2 * _COLUMNS), np.int64)
        for resample, (image, caption) in enumerate(zip(images, captions, strict=True)):
            added[resample, _COLUMNS:] = (image[self.owner] * caption[self.kind]) @ self.hits
        return added


def _recalls(drawn: np.ndarray) -> dict[str, Any]:
    """R@K of every resample, float64 [r] each; `drawn` are sums over it, [r, 8]."""
    starts = {"i2t": 0, "t2i": _COLUMNS}
    # If few queries are judged, a resample may hold none of them by chance.
    numbers = {key: np.where(own := drawn[:, start + len(CUTOFFS)], own, np.nan) for key, start in starts.items()}
    return {
        f"{direction}_R@{k}": drawn[:, start + column] / numbers[direction]
        for column, k in enumerate(CUTOFFS)
        for direction, start in starts.items()
    }
