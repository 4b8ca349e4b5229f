"""Metrics as the mean over disjoint folds of a split.

Papers on COCO report two galleries: all 5,000 test images, and the mean over five folds of 1,000 images, each with the
captions of its own images alone (Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image
Descriptions", 2015). A fold is a run of consecutive images in the order of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.retrieval import bootstrap
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.counting import Multiply, multiply_here
from icclip.retrieval.metrics import retrieval_metrics, values_by_query
from icclip.retrieval.ranking import RetrievalRanks, rank
from icclip.retrieval.relevance import Relevance

if TYPE_CHECKING:
    from icclip.plugins.specs import MetricSpec


def fold_metrics(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    relevance: Relevance,
    folds: int,
    *,
    metrics: Sequence[MetricSpec] = (),
    resamples: int = 1000,
    seed: int = 42,
    multiply: Multiply = multiply_here,
) -> dict[str, Any]:
    """The mean over folds of every metric, and its 95 % intervals.

    Args:
        image_embeddings: float [n_images, dim].
        text_embeddings: float [n_texts, dim].
        relevance: the right answers of the split, by the protocol `text` or `pair`.
        folds: how many folds there are; it divides the number of images.
        metrics: metrics of plugins, computed in addition.
        resamples: of the bootstrap, which draws the images of each fold by themselves; 0 leaves the intervals out.
        seed: seed of the resamples.
        multiply: as for `icclip.retrieval.ranking.rank`.

    Returns:
        `count`, and `mean`: the metrics that all folds have, with `n_images` and `n_texts` per fold, and `confidence_95`.

    Raises:
        ValueError: the folds would not have the same size.
    """
    if relevance.captions.n_images % folds:
        raise ValueError(f"{relevance.captions.n_images} images do not make {folds} folds of the same size")
    ranked = [
        rank(image_embeddings[images], text_embeddings[texts], own, multiply=multiply)
        for images, texts, own in parts(relevance, folds)
    ]
    found = [retrieval_metrics(ranks, metrics) for ranks in ranked]
    shared = [key for key in found[0] if all(key in one for one in found) and not key.endswith("_optimistic")]
    mean: dict[str, Any] = {key: float(np.mean([one[key] for one in found])) for key in shared}
    if resamples:
        mean[bootstrap.KEY] = _intervals(ranked, metrics, resamples, seed)
    return {"count": folds, "mean": mean}


def parts(relevance: Relevance, folds: int) -> Iterator[tuple[slice, slice, Relevance]]:
    """The rows of images, the rows of texts, and the right answers of each fold."""
    captions, size = relevance.captions, relevance.captions.n_images // folds
    for start in range(0, captions.n_images, size):
        images = slice(start, start + size)
        first, last = (int(captions.offsets[place]) for place in (start, start + size))
        own = CaptionMap(captions.texts[first:last], captions.offsets[start : start + size + 1] - first)
        keys = relevance.images.of_row[images].tolist()
        yield images, slice(first, last), Relevance.of(own, "text" if relevance.protocol == "text" else "pair", keys)


def _intervals(
    ranked: Sequence[RetrievalRanks], metrics: Sequence[MetricSpec], resamples: int, seed: int
) -> dict[str, list[float]]:
    """Each fold is resampled by itself, so that a resample has as many images of each fold as the split."""
    drawn = [
        {
            **bootstrap.resampled([bootstrap.Hits.of(ranks)], resamples, seed + number)[0],
            **bootstrap.resampled_queries(
                ranks, values_by_query(ranks, metrics), resamples=resamples, seed=seed + number
            ),
        }
        for number, ranks in enumerate(ranked)
    ]
    return {key: bootstrap.between(np.mean([one[key] for one in drawn], axis=0)) for key in drawn[0]}
