"""Whether two models differ on a split, with the images as witnesses.

The five captions of an image are answered alike, so an image counts once: the test exchanges the two models'
answers to all queries of an image together, at random (a paired sign-flip test; Fisher, "The Design of
Experiments", 1935; Smucker, Allan and Carterette, CIKM 2007, for retrieval). A caption that several images
share counts at the image that its row belongs to. Of several comparisons, p-values are corrected by Holm's
method (Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from icclip.retrieval.bootstrap import Difference, Hits, differences
from icclip.retrieval.metrics import CUTOFFS, DIRECTIONS, summaries

FLIPS = 10_000
LEVEL = 0.05
_DETECTED = 1.959964 + 0.841621
"""Standard errors: a two-sided test at the 5 % level finds a difference of this size in 80 % of all splits."""
_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """By how much a metric of one model differs from that of another, and what that is worth."""

    before: float
    now: float
    difference: float
    low: float
    """The lower end of the 95 % interval."""
    high: float
    p: float
    """Of the paired sign-flip test by image; corrected where there are several comparisons."""
    detectable: float
    """The smallest difference that a split like this one shows in four of five cases."""

    @property
    def significant(self) -> bool:
        """Whether the two differ at the 5 % level."""
        return self.p < LEVEL


def compare(before: Hits, now: Hits, *, resamples: int = 1000, flips: int = FLIPS, seed: int = 42) -> dict[str, Change]:
    """Compare two models on one split: metric -> change, for the six R@K, `mR@1/5/10` and `rsum`.

    Args:
        before: which queries the first model answers.
        now: which queries the second one answers.
        resamples: of the bootstrap behind the intervals, which draws whole images for both models alike.
        flips: of the test.
        seed: of both.

    Raises:
        ValueError: they are not of the same split.
    """
    intervals = differences(before, now, resamples=resamples, seed=seed)
    return changes(by_image(before), by_image(now), intervals, flips=flips, seed=seed)


def changes(
    had: Mapping[str, np.ndarray],
    has: Mapping[str, np.ndarray],
    intervals: Mapping[str, Difference],
    *,
    flips: int = FLIPS,
    seed: int = 42,
) -> dict[str, Change]:
    """Metric -> change, from what each image adds to each metric of either model.

    Args:
        had: metric -> float64 [images], whose sum is the first model's value.
        has: the same of the second model.
        intervals: metric -> the difference and its interval.
        flips: of the test.
        seed: of the test.
    """
    gains = {key: has[key] - had[key] for key in had}
    p = sign_flip(np.column_stack(list(gains.values())), flips, seed)
    return {
        key: Change(
            before=float(had[key].sum()),
            now=float(has[key].sum()),
            difference=intervals[key].value,
            low=intervals[key].low,
            high=intervals[key].high,
            p=float(own),
            detectable=_DETECTED * math.sqrt(float(np.square(gains[key]).sum())),
        )
        for key, own in zip(gains, p, strict=True)
    }


def by_image(hits: Hits) -> dict[str, np.ndarray]:
    """What each kind of image adds to each metric, float64 [kinds]; the sum is the metric."""
    parts, columns = hits.own.astype(np.float64), len(CUTOFFS) + 1
    np.add.at(parts[:, columns:], hits.shared.owner, hits.shared.hits)
    found: dict[str, np.ndarray] = {}
    for place, direction in enumerate(DIRECTIONS):
        own = parts[:, place * columns : (place + 1) * columns]
        queries = own[:, -1].sum() or np.nan
        found |= {f"{direction}_R@{k}": own[:, column] / queries for column, k in enumerate(CUTOFFS)}
    return found | summaries(found)


def sign_flip(gains: np.ndarray, flips: int = FLIPS, seed: int = 42) -> np.ndarray:
    """Two-sided p-values, float64 [m], of gains by image, float64 [images, m], whose signs mean nothing if the models are equal."""
    moved = gains[(gains != 0).any(axis=1)]
    observed = np.abs(moved.sum(axis=0))
    as_extreme = np.zeros(gains.shape[1], np.int64)
    generator, rows = np.random.default_rng(seed), max(1, _AT_ONCE // max(1, len(moved)))
    for start in range(0, flips, rows):
        signs = generator.integers(0, 2, (min(rows, flips - start), len(moved)), np.int8) * 2.0 - 1.0
        # Sums of the same numbers in another order differ in the last digits.
        as_extreme += (np.abs(signs @ moved) >= observed - 1e-9).sum(axis=0)
    p: np.ndarray = (1 + as_extreme) / (1 + flips)
    return p


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for being several, in their order."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return corrected.tolist()


def corrected(comparisons: Sequence[Mapping[str, Change]]) -> list[dict[str, Change]]:
    """The comparisons of several models with one, each metric's p-values corrected by Holm's method."""
    found: list[dict[str, Change]] = [{} for _ in comparisons]
    for key in comparisons[0] if comparisons else ():
        values = holm([one[key].p for one in comparisons])
        for own, one, p in zip(found, comparisons, values, strict=True):
            own[key] = replace(one[key], p=p)
    return found
