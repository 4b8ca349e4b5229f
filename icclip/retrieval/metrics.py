"""Retrieval metrics from ranks, under the keys of the seed project.

R@K: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", 2015;
rsum: Faghri et al., "VSE++", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.errors import PluginError
from icclip.retrieval.ranking import RetrievalRanks

if TYPE_CHECKING:
    from icclip.plugins.specs import MetricSpec

CUTOFFS = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")
SEED_KEYS = (
    *("i2t_R@1", "i2t_R@5", "i2t_R@10", "i2t_MedR", "i2t_MeanR"),
    *("t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_MedR", "t2i_MeanR"),
    *("avg_best_cosine", "n_images", "n_texts"),
)
"""The keys of the seed project's `test_metric.json`, in its order."""


def retrieval_metrics(ranks: RetrievalRanks, specs: Sequence[MetricSpec] = ()) -> dict[str, float]:
    """Compute all metrics of one retrieval run.

    First the 13 keys of the seed project, all floats: `i2t_` (image queries) and `t2i_` (text queries)
    `R@1/5/10`, fractions in 0..1 of all queries whose best positive ranks that high; `MedR`, the lower
    median rank; `MeanR`; `avg_best_cosine`, the mean over images of the best cosine with a right
    text; `n_images`, `n_texts`. Then `mR@1/5/10`, the mean of both directions (0..1); `rsum`, the sum
    of the six R@K in percent (0..600, as papers print it); then whatever `specs` compute; then, if ties
    make a difference, `..._optimistic` values that resolve them in favour of the positive.

    Raises:
        PluginError: a metric uses a key that is already taken, or returns something that is not a finite number.
    """
    metrics = {**direction_metrics("i2t", ranks.i2t), **direction_metrics("t2i", ranks.t2i)}
    metrics["avg_best_cosine"] = float(ranks.best_cosines.mean(dtype=np.float64))
    metrics["n_images"] = float(ranks.captions.n_images)
    metrics["n_texts"] = float(ranks.captions.n_texts)
    metrics |= _queries(ranks)
    metrics |= summaries(metrics)
    for spec in specs:
        metrics |= _checked(spec, spec.compute(ranks), metrics)
    return metrics | _optimistic(ranks, metrics)


def values_by_query(ranks: RetrievalRanks, specs: Sequence[MetricSpec]) -> dict[str, np.ndarray]:
    """The values by query of all metrics that give them.

    Raises:
        PluginError: a metric gives another number of values than there are queries, or its names fit no direction.
    """
    found: dict[str, np.ndarray] = {}
    for spec in specs:
        for key, values in ({} if spec.by_query is None else spec.by_query(ranks)).items():
            expected = {"i2t_": ranks.i2t, "t2i_": ranks.t2i}.get(key[:4])
            if expected is None or np.shape(values) != expected.shape:
                raise PluginError(
                    f"metric {spec.name!r} returned {np.shape(values)} values by query for {key!r}: name it i2t_... or "
                    "t2i_..., with one value for each query of that direction"
                )
            found[key] = np.asarray(values, np.float64)
    return found


def _queries(ranks: RetrievalRanks) -> dict[str, float]:
    """The number of queries, reported if judgements leave some images or texts without a right answer."""
    there = {"n_image_queries": len(ranks.i2t), "n_text_queries": len(ranks.t2i)}
    rows = (ranks.captions.n_images, ranks.captions.n_texts)
    return {key: float(own) for (key, own), total in zip(there.items(), rows, strict=True) if own != total}


def summaries(recalls: Mapping[str, Any]) -> dict[str, Any]:
    """`mR@1/5/10` and `rsum` from the six recalls; numbers or arrays of numbers."""
    means = {f"mR@{k}": (recalls[f"i2t_R@{k}"] + recalls[f"t2i_R@{k}"]) / 2 for k in CUTOFFS}
    return {**means, "rsum": 100 * sum(recalls[f"{direction}_R@{k}"] for direction in DIRECTIONS for k in CUTOFFS)}


def direction_metrics(direction: str, ranks: np.ndarray) -> dict[str, float]:
    """`R@1/5/10` (0..1), `MedR` and `MeanR` under names that begin with the direction; `ranks`: int64 [queries], from 1."""
    recalls = {f"{direction}_R@{k}": float((ranks <= k).mean()) for k in CUTOFFS}
    return {**recalls, f"{direction}_MedR": _lower_median(ranks), f"{direction}_MeanR": float(ranks.mean())}


def _lower_median(ranks: np.ndarray) -> float:
    """The middle value, and of two middle values the lower: a rank that some query has."""
    middle = (len(ranks) - 1) // 2
    return float(np.partition(ranks, middle)[middle])


def _optimistic(ranks: RetrievalRanks, metrics: Mapping[str, float]) -> dict[str, float]:
    values = {**direction_metrics("i2t", ranks.i2t_optimistic), **direction_metrics("t2i", ranks.t2i_optimistic)}
    values["rsum"] = summaries(values)["rsum"]
    return {f"{key}_optimistic": value for key, value in values.items() if value != metrics[key]}


def _checked(spec: MetricSpec, values: Any, taken: Iterable[str]) -> dict[str, float]:
    """Check what a plugin's metric returned before it joins the others."""
    if not isinstance(values, Mapping):
        raise PluginError(f"metric {spec.name!r} returned {type(values).__name__}: return a mapping of name to float")
    for key, value in values.items():
        if key in taken:
            raise PluginError(f"metric {spec.name!r} returned {key!r}, which is already taken: choose another key")
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise PluginError(f"metric {spec.name!r} returned {value!r} for {key!r}: return a finite number")
    return {key: float(value) for key, value in values.items()}
