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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from icclip.retrieval.blocks import MIB, block_bytes, rows_of
from icclip.retrieval.metrics import CUTOFFS, summaries
from icclip.retrieval.ranking import RetrievalRanks

LEVEL = 0.95
KEY = "confidence_95"
"""The key under which the metrics hold the intervals."""

_DRAWN = 32 * MIB
"""Bytes of resampled counts that are held at a time."""


def confidence_intervals(ranks: RetrievalRanks, *, resamples: int = 1000, seed: int = 42) -> dict[str, list[float]]:
    """Compute 95 % percentile intervals of the six R@K, `mR@1/5/10` and `rsum`.

    Args:
        ranks: the ranks of the whole split.
        resamples: number of resamples; each draws as many images as the split has, with replacement.
        seed: seed of the resampling; the same seed gives the same intervals.

    Returns:
        Metric name -> [low, high], in the metric's own unit.
    """
    (values,) = resampled([Hits.of(ranks)], resamples, seed)
    return {key: between(value) for key, value in values.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much a metric of one model differs from that of another on the same split."""

    value: float
    low: float
    """The lower end of the 95 % interval."""
    high: float


def differences(before: Hits, now: Hits, *, resamples: int = 1000, seed: int = 42) -> dict[str, Difference]:
    """`now` minus `before` for every metric of `confidence_intervals`; each image is drawn for both alike.

    Raises:
        ValueError: they are not of the same split.
    """
    if not before.same_split(now):
        raise ValueError("the two are not of the same split")
    had, has = (_recalls_and_sums(hits.total()[None]) for hits in (before, now))
    drawn_before, drawn_now = resampled([before, now], resamples, seed)
    found = {}
    for key in had:
        low, high = between(drawn_now[key] - drawn_before[key])
        found[key] = Difference(float((has[key] - had[key])[0]), low, high)
    return found


def resampled(many: Sequence[Hits], resamples: int, seed: int) -> list[dict[str, np.ndarray]]:
    """For each of the `many` on one split: metric -> its value in every resample, float64 [resamples]."""
    kinds, shared = len(many[0].own), many[0].shared.n_kinds
    captions = draws(shared, resamples, [seed, 1], rows=_at_once(kinds)) if shared else None
    totals: list[list[np.ndarray]] = [[] for _ in many]
    for images in draws(kinds, resamples, seed):
        drawn = None if captions is None else next(captions)
        for own, hits in zip(totals, many, strict=True):
            own.append(hits.sums(images, drawn))
    return [_recalls_and_sums(np.concatenate(own)) for own in totals]


def _recalls_and_sums(totals: np.ndarray) -> dict[str, np.ndarray]:
    values = _recalls(totals)
    return values | summaries(values)


def between(values: np.ndarray) -> list[float]:
    """The 95 % percentile interval, [low, high], of a metric's values in all resamples; NaN are left out."""
    bounds = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.nanquantile(values, bounds).tolist()
    return [low, high]


def query_intervals(
    ranks: RetrievalRanks, values: Mapping[str, np.ndarray], *, resamples: int = 1000, seed: int = 42
) -> dict[str, list[float]]:
    """95 % intervals of means over queries: metric -> [low, high]; the arguments are those of `resampled_queries`."""
    drawn = resampled_queries(ranks, values, resamples=resamples, seed=seed)
    return {key: between(own) for key, own in drawn.items()}


def resampled_queries(
    ranks: RetrievalRanks, values: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Resample means over queries; the same images and shared captions are drawn as for recall.

    Args:
        ranks: the ranks of the whole split.
        values: metric -> its value for every query, float64 [queries] in the order of `i2t_answers.queries` or of
            `t2i_answers.queries`, as the metric's name begins with `i2t_` or `t2i_`.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        Metric name -> its value in every resample, float64 [resamples].

    Raises:
        ValueError: a metric's name begins otherwise, or it has another number of values than there are queries.
    """
    sums = {key: _Sums.of(ranks, key, own) for key, own in values.items()}
    shared = SharedCaptions.of(ranks)
    captions = draws(shared.n_kinds, resamples, [seed, 1], rows=_at_once(len(ranks.relevance.images)))
    drawn: dict[str, list[np.ndarray]] = {key: [] for key in sums}
    for images in draws(len(ranks.relevance.images), resamples, seed):
        often = next(captions) if shared.n_kinds else None
        for key, own in sums.items():
            drawn[key].append(own.mean(images, often, shared))
    return {key: np.concatenate(own) for key, own in drawn.items()}


@dataclass(frozen=True, slots=True)
class _Sums:
    """A metric's values, added for each kind of image, and those of shared captions by themselves."""

    own: np.ndarray
    """float64 [kinds of images, 2]: sum and number of values."""
    shared: np.ndarray | None
    """float64 [queries with a shared caption, 2]: value and 1; None for image queries."""

    @classmethod
    def of(cls, ranks: RetrievalRanks, key: str, values: np.ndarray) -> Self:
        relevance, texts = ranks.relevance, key.startswith("t2i_")
        queries = (ranks.t2i_answers if texts else ranks.i2t_answers).queries
        if not key.startswith(("i2t_", "t2i_")) or len(values) != len(queries):
            raise ValueError(f"{key!r} has {len(values)} values: name it i2t_... or t2i_..., with one for each query")
        alone = np.zeros(len(queries), bool) if not texts else is_shared(ranks)[queries]
        rows = relevance.captions.image_of_text[queries] if texts else queries
        pairs = np.column_stack([values, np.ones(len(values))])
        own = np.zeros((len(relevance.images), 2))
        np.add.at(own, relevance.images.of_row[rows][~alone], pairs[~alone])
        return cls(own, pairs[alone] if texts else None)

    def mean(self, images: np.ndarray, captions: np.ndarray | None, shared: SharedCaptions) -> np.ndarray:
        """float64 [r]: the mean in every resample; NaN where it holds no query."""
        total = images @ self.own
        if captions is not None and self.shared is not None:
            for resample, (image, caption) in enumerate(zip(images, captions, strict=True)):
                total[resample] += (image[shared.owner] * caption[shared.kind]) @ self.shared
        with np.errstate(invalid="ignore"):
            found: np.ndarray = total[:, 0] / total[:, 1]
        return found


@dataclass(frozen=True, slots=True)
class Hits:
    """Which queries are answered at 1, 5 and 10: what the metrics with intervals are made of."""

    own: np.ndarray
    """int64 [kinds of images, 8]: `hits_by_image`"""
    shared: SharedCaptions

    @classmethod
    def of(cls, ranks: RetrievalRanks) -> Self:
        """Those of one model on one split."""
        return cls(hits_by_image(ranks), SharedCaptions.of(ranks))

    def same_split(self, other: Hits) -> bool:
        """Whether the two have the same numbers of queries at each image, and the same shared captions."""
        mine, theirs = self.shared, other.shared
        counts = slice(len(CUTOFFS), None, _COLUMNS)
        return (
            np.array_equal(self.own[:, counts], other.own[:, counts])
            and np.array_equal(mine.owner, theirs.owner)
            and np.array_equal(mine.kind, theirs.kind)
        )

    def sums(self, images: np.ndarray, captions: np.ndarray | None) -> np.ndarray:
        """int64 [r, 8]; from how often images [r, kinds] and shared captions [r, kinds] are drawn."""
        total: np.ndarray = images @ self.own
        return total if captions is None else total + self.shared.sums(images, captions)

    def total(self) -> np.ndarray:
        """int64 [8]: over the split as it is."""
        total: np.ndarray = self.own.sum(axis=0)
        total[_COLUMNS:] += self.shared.hits.sum(axis=0)
        return total


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
    return rows_of(block_bytes(_DRAWN), n_images, np.dtype(np.int64).itemsize)


def hits_by_image(ranks: RetrievalRanks) -> np.ndarray:
    """int64 [kinds of images, 8]: queries by an image answered at 1, 5, 10, and their number; by its own captions.

    Captions that several images share are left to `SharedCaptions`.
    """
    relevance = ranks.relevance
    i2t, t2i = ranks.i2t_answers, ranks.t2i_answers
    hits = np.zeros((len(relevance.images), 2 * _COLUMNS), np.int64)
    np.add.at(hits[:, :_COLUMNS], relevance.images.of_row[i2t.queries], hits_at(ranks.i2t))
    own = ~is_shared(ranks)[t2i.queries]
    owner = relevance.images.of_row[relevance.captions.image_of_text[t2i.queries]]
    np.add.at(hits[:, _COLUMNS:], owner[own], hits_at(ranks.t2i)[own])
    return hits


_COLUMNS = len(CUTOFFS) + 1


def hits_at(ranks: np.ndarray) -> np.ndarray:
    """int64 [queries, 4]: whether each is answered at 1, 5, 10; and 1."""
    return np.column_stack([*(ranks <= k for k in CUTOFFS), np.ones(len(ranks), bool)]).astype(np.int64)


def is_shared(ranks: RetrievalRanks) -> np.ndarray:
    """Whether, bool [n_texts], copies of a caption stand at several images and are one answer."""
    relevance = ranks.relevance
    owner = relevance.images.of_row[relevance.captions.image_of_text]
    distinct = np.unique(np.column_stack([relevance.texts.of_row, owner]), axis=0)
    images = np.bincount(distinct[:, 0], minlength=len(relevance.texts))
    shared: np.ndarray = images[relevance.texts.of_row] > 1
    return shared


@dataclass(frozen=True, slots=True)
class SharedCaptions:
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
        """Those of one model on one split."""
        queries, relevance = ranks.t2i_answers.queries, ranks.relevance
        own = is_shared(ranks)[queries]
        kinds, kind = np.unique(relevance.texts.of_row[queries[own]], return_inverse=True)
        owner = relevance.images.of_row[relevance.captions.image_of_text[queries[own]]]
        return cls(owner, kind, hits_at(ranks.t2i)[own], len(kinds))

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
