"""How often `icclip compare` calls equal models different, and how often it finds a true difference of two points.

    python -m benchmarks.compare_calibration

A pair of models is simulated on 1,000 images with five captions each. Whether a query is answered depends on the
image (captions of an image are answered alike), on the query, and on the model: the first two are the same for both
models, so that their answers agree as those of real models do. Writes compare_calibration.json beside itself.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import NormalDist

import numpy as np

from icclip.retrieval.bootstrap import Hits, SharedCaptions
from icclip.retrieval.comparison import compare

RESULT = Path(__file__).with_suffix(".json")
IMAGES, CAPTIONS = 1000, 5
SHARED, OWN, MODEL = 0.5, 0.3, 0.2
"""Shares of the variance of a query's difficulty: of its image, of the query itself, and of the model."""
RECALLS = (0.55, 0.80, 0.88)
"""R@1, R@5 and R@10 of the first model."""
NOTHING_SHARED = SharedCaptions(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4), np.int64), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=2000)
    options = parser.parse_args()
    result = {
        "images": IMAGES,
        "captions_per_image": CAPTIONS,
        "pairs": options.pairs,
        "called_different_at_5_percent": called(options.pairs, options.flips, 0.0),
        "found_of_a_true_difference_of_2_points_in_every_recall": called(options.pairs // 4, options.flips, 0.02),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def called(pairs: int, flips: int, gain: float) -> dict[str, float]:
    """For each metric, the share of pairs whose difference is called significant; `gain` is the second model's."""
    found: Counter[str] = Counter()
    for seed in range(pairs):
        changes = compare(
            *pair(np.random.default_rng([seed, int(1000 * gain)]), gain), resamples=1, flips=flips, seed=seed
        )
        found.update({key: int(change.significant) for key, change in changes.items()})
    return {key: count / pairs for key, count in found.items()}


def pair(rng: np.random.Generator, gain: float) -> tuple[Hits, Hits]:
    """The answers of two models to the same queries."""
    image = rng.standard_normal((IMAGES, 1)) * np.sqrt(SHARED)
    queries = image + rng.standard_normal((IMAGES, CAPTIONS + 1)) * np.sqrt(OWN)
    return hits(rng, queries, 0.0), hits(rng, queries, gain)


def hits(rng: np.random.Generator, queries: np.ndarray, gain: float) -> Hits:
    """One model's: a query is answered at K where its ease is above the threshold that gives R@K."""
    ease = queries + rng.standard_normal(queries.shape) * np.sqrt(MODEL)
    answered = [(ease > NormalDist().inv_cdf(1 - recall - gain)).astype(np.int64) for recall in RECALLS]
    i2t = [one[:, 0] for one in answered]
    t2i = [one[:, 1:].sum(axis=1) for one in answered]
    counts = np.ones(IMAGES, np.int64)
    return Hits(np.column_stack([*i2t, counts, *t2i, CAPTIONS * counts]), NOTHING_SHARED)


if __name__ == "__main__":
    main()
