"""Confidence intervals of retrieval metrics by resampling images.

The captions of one image are answered alike, so that resampling captions one by one would make the
intervals too narrow: an image is drawn together with all its captions (a cluster bootstrap; Field and
Welsh, "Bootstrapping clustered data", 2007). Ranks stay those of the full gallery: the intervals
speak of other queries of the same kind, not of a gallery of another size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from icclip.retrieval.metrics import CUTOFFS, summaries
from icclip.retrieval.ranking import RetrievalRanks

LEVEL = 0.95
KEY = "confidence_95"
"""The key of the intervals among the metrics."""

_NUMBERS_AT_ONCE = 4_000_000


def confidence_intervals(ranks: RetrievalRanks, *, resamples: int = 1000, seed: int = 42) -> dict[str, list[float]]:
    """95 % percentile intervals of the six R@K, `mR@1/5/10` and `rsum`.

    Args:
        ranks: of the whole split.
        resamples: how often n_images images are drawn, with replacement.
        seed: of the drawing; the same seed gives the same intervals.

    Returns:
        Metric name -> [low, high], in the metric's own unit.
    """
    hits = _hits_by_image(ranks)
    drawn = np.concatenate([weights @ hits for weights in draws(len(hits), resamples, seed)])
    values = _recalls(drawn, ranks.captions.n_images)
    values |= summaries(values)
    bounds = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {key: np.quantile(value, bounds).tolist() for key, value in values.items()}


def draws(n_images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn: int64 [r, n_images] with rows of sum n_images, `resamples` rows in all.

    Two runs on one split that use the same seed are resampled alike, and can be compared pairwise.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _NUMBERS_AT_ONCE // n_images)
    for start in range(0, resamples, rows):
        yield generator.multinomial(n_images, np.full(n_images, 1 / n_images), size=min(rows, resamples - start))


def _hits_by_image(ranks: RetrievalRanks) -> np.ndarray:
    """int64 [n_images, 7]: i2t hits at 1, 5, 10; hits of its captions at 1, 5, 10; number of captions."""
    starts = ranks.captions.offsets[:-1]
    columns = [ranks.i2t <= k for k in CUTOFFS]
    columns += [np.add.reduceat((ranks.t2i <= k).astype(np.int64), starts) for k in CUTOFFS]
    return np.column_stack([*columns, np.diff(ranks.captions.offsets)]).astype(np.int64)


def _recalls(drawn: np.ndarray, n_images: int) -> dict[str, Any]:
    """R@K of every resample, float64 [r] each; `drawn` are the sums of `_hits_by_image` over it, [r, 7]."""
    recalls: dict[str, Any] = {}
    for column, k in enumerate(CUTOFFS):
        recalls[f"i2t_R@{k}"] = drawn[:, column] / n_images
        recalls[f"t2i_R@{k}"] = drawn[:, len(CUTOFFS) + column] / drawn[:, -1]
    return recalls
