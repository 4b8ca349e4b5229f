"""Metrics that look at every positive, not only at the best one.

Relevance is binary: an image's own captions, and a caption's own image. A positive stands after the
negatives that it is tied with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import MetricSpec

if TYPE_CHECKING:
    import numpy as np

    from icclip.retrieval.ranking import RetrievalRanks

CUTOFF = 10


@hookimpl
def icclip_metrics() -> list[MetricSpec]:
    """What is reported beside recall."""
    return [
        MetricSpec(name="map", summary="mean average precision over all positives", compute=mean_average_precision),
        MetricSpec(name="ndcg-at-10", summary="normalised discounted cumulative gain of the first ten", compute=ndcg),
    ]


def mean_average_precision(ranks: RetrievalRanks) -> dict[str, float]:
    """Mean over queries of the mean, over a query's positives, of the precision at the positive's place.

    The r-th of an image's captions, at place p, contributes r / p; a caption has one image, so that its
    average precision is 1 / rank.
    """
    precisions = (ranks.places + 1) / ranks.i2t_positions
    return {"i2t_mAP": float(_mean_per_image(precisions, ranks).mean()), "t2i_mAP": float((1 / ranks.t2i).mean())}


def ndcg(ranks: RetrievalRanks) -> dict[str, float]:
    """Mean over queries of DCG@10 / best possible DCG@10, with gain 1 / log2(1 + place).

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002.
    """
    import numpy as np

    gained = np.add.reduceat(_gain(ranks.i2t_positions), ranks.captions.offsets[:-1])
    possible = np.add.reduceat(_gain(ranks.places + 1), ranks.captions.offsets[:-1])
    return {"i2t_nDCG@10": float((gained / possible).mean()), "t2i_nDCG@10": float(_gain(ranks.t2i).mean())}


def _gain(places: np.ndarray) -> np.ndarray:
    """float64, the shape of `places` (int64, from 1)."""
    import numpy as np

    gains: np.ndarray = np.where(places <= CUTOFF, 1 / np.log2(1 + places), 0.0)
    return gains


def _mean_per_image(values: np.ndarray, ranks: RetrievalRanks) -> np.ndarray:
    """float64 [n_images] from float64 [n_texts]."""
    import numpy as np

    means: np.ndarray = np.add.reduceat(values, ranks.captions.offsets[:-1]) / np.diff(ranks.captions.offsets)
    return means
