"""Zero-shot classification from embeddings: each image goes to the class whose prompts are nearest.

A class is the mean of the unit embeddings of its prompts, scaled to length 1 again (a prompt ensemble; Radford et
al., "Learning transferable visual models from natural language supervision", 2021, section 3.1.4). As in retrieval,
cosines are exact and ties count against the right class, so a collapsed model scores 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from icclip.retrieval.blocks import MIB, block_bytes, rows_of, spans
from icclip.retrieval.bootstrap import Difference, between
from icclip.retrieval.comparison import FLIPS, Change, changes
from icclip.retrieval.counting import Progress, no_progress, unit_on_grid
from icclip.retrieval.ranking import refuse_broken

CUTOFFS = (1, 5)
KEYS = ("top1", "top5", "mean_per_class")
"""The metrics, each a share from 0 to 1."""

_BYTES = 16 * MIB
_DRAWN = 32 * MIB
_LEVELS = len(CUTOFFS) + 1


@dataclass(frozen=True, slots=True)
class ClassRanks:
    """Where the right class of each image stands among all classes."""

    n_classes: int
    labels: np.ndarray
    """int64 [images]: the right class."""
    ranks: np.ndarray
    """int64 [images]: pessimistic, from 1: a class that scores the same as the right one comes before it."""
    optimistic: np.ndarray
    """int64 [images]: the same with ties in favour of the right class."""
    predicted: np.ndarray
    """int64 [images]: the class that comes first, which is the right one only at rank 1."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def levels(self) -> np.ndarray:
        """int64 [images]: 2 if the right class comes first, 1 if it is among the first five, 0 otherwise."""
        found: np.ndarray = sum((self.ranks <= k).astype(np.int64) for k in CUTOFFS)  # type: ignore[assignment]
        return found


@dataclass(frozen=True, slots=True)
class ClassResult:
    """How the images of one class were classified."""

    number: int
    images: int
    top1: float
    """The share, from 0 to 1, of its images that were recognised."""
    taken_for: int | None
    """The other class that most of its images were taken for; None if all were recognised."""
    share: float
    """The share of its images that were taken for that class."""


def prompt_means(texts: np.ndarray, prompts: int) -> np.ndarray:
    """One unit vector for each class: the mean of the unit embeddings of its prompts, scaled to length 1.

    Args:
        texts: float [classes * prompts, dim], all prompts of a class together.
        prompts: number of prompts per class.

    Returns:
        float64 [classes, dim]; where the prompts cancel out, the row is 0.
    """
    means = _unit(texts.astype(np.float64)).reshape(-1, prompts, texts.shape[1]).mean(axis=1)
    return _unit(means)


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return found


def classify(
    images: np.ndarray,
    texts: np.ndarray,
    labels: np.ndarray,
    *,
    prompts: int = 1,
    block: int | None = None,
    progress: Progress = no_progress,
) -> ClassRanks:
    """Rank all classes for every image by exact cosines.

    Args:
        images: float [images, dim]; rows are scaled to length 1.
        texts: float [classes * prompts, dim]: the prompts, those of a class together.
        labels: int64 [images]: the right class of each image.
        prompts: number of prompts per class.
        block: images in a block of cosines; None: what suits the machine. It never changes the result.
        progress: shows how much is done.

    Raises:
        CheckpointError: the embeddings are not finite, or their widths differ.
    """
    refuse_broken(images, texts)
    classes = prompt_means(texts, prompts)
    exact = unit_on_grid(classes).T
    ranks, optimistic, predicted = (np.empty(len(images), np.int64) for _ in range(3))
    with progress("classifying", len(images)) as advance:
        for rows in spans(len(images), block or rows_of(block_bytes(_BYTES), len(classes), 8)):
            scores, own = unit_on_grid(images[rows]) @ exact, labels[rows]
            places = np.arange(len(own))
            right = scores[places, own]
            ranks[rows] = (scores >= right[:, None]).sum(axis=1)
            optimistic[rows] = (scores > right[:, None]).sum(axis=1) + 1
            # A little lower than it is, the right class wins only where nothing else scores the same.
            scores[places, own] = np.nextafter(right, -np.inf)
            predicted[rows] = scores.argmax(axis=1)
            advance(len(own))
    return ClassRanks(len(classes), np.asarray(labels, np.int64), ranks, optimistic, predicted)


# Metrics ----------------------------------------------------------------------------------------


def class_metrics(found: ClassRanks) -> dict[str, float]:
    """`top1`, `top5` and `mean_per_class` (the mean over classes of each one's top-1), all from 0 to 1."""
    return {key: float(gains.sum()) for key, gains in by_image(found).items()}


def by_image(found: ClassRanks) -> dict[str, np.ndarray]:
    """What each image adds to each metric, float64 [images]; the sum is the metric."""
    sizes = np.bincount(found.labels, minlength=found.n_classes)
    first, five = ((found.ranks <= k).astype(np.float64) for k in CUTOFFS)
    per_class = first / sizes[found.labels] / np.count_nonzero(sizes)
    return dict(zip(KEYS, (first / len(found), five / len(found), per_class), strict=True))


def class_results(found: ClassRanks) -> list[ClassResult]:
    """Every class that has images, the worst recognised first; equal ones in their order."""
    results = [_of_class(found, number) for number in np.unique(found.labels).tolist()]
    return sorted(results, key=lambda one: one.top1)


def _of_class(found: ClassRanks, number: int) -> ClassResult:
    predicted = found.predicted[found.labels == number]
    counts = np.bincount(predicted, minlength=found.n_classes)
    right, counts[number] = int(counts[number]), 0
    most = int(counts.argmax())
    share = float(counts[most]) / len(predicted)
    return ClassResult(number, len(predicted), right / len(predicted), most if share else None, share)


# Intervals --------------------------------------------------------------------------------------


def class_intervals(found: ClassRanks, *, resamples: int = 1000, seed: int = 42) -> dict[str, list[float]]:
    """95 % percentile intervals of the three metrics; a resample draws as many images as there are, with replacement."""
    (values,) = _resampled([found], resamples, seed)
    return {key: between(value) for key, value in values.items()}


def class_changes(
    before: ClassRanks, now: ClassRanks, *, resamples: int = 1000, flips: int = FLIPS, seed: int = 42
) -> dict[str, Change]:
    """Compare two models on the same images: metric -> change, paired image by image.

    Args:
        before: what the first model found.
        now: what the second one found.
        resamples: of the bootstrap behind the intervals, which draws an image for both models alike.
        flips: of the sign-flip test.
        seed: of both.

    Raises:
        ValueError: the images or the classes differ.
    """
    if before.n_classes != now.n_classes or not np.array_equal(before.labels, now.labels):
        raise ValueError("the two are not of the same images and classes")
    had, has = by_image(before), by_image(now)
    drawn = _resampled([before, now], resamples, seed)
    intervals = {
        key: Difference(float((has[key] - had[key]).sum()), *between(drawn[1][key] - drawn[0][key])) for key in KEYS
    }
    return changes(had, has, intervals, flips=flips, seed=seed)


def _resampled(many: Sequence[ClassRanks], resamples: int, seed: int) -> list[dict[str, np.ndarray]]:
    """For each of the `many` on the same images: metric -> its value in every resample, float64 [resamples].

    Images that all models answered alike, and that are of one class, are interchangeable. Only the numbers of such
    images are drawn, which is the same as drawing images, and far less work.
    """
    codes = many[0].labels
    for one in many:
        codes = codes * _LEVELS + one.levels
    kinds, counts = np.unique(codes, return_counts=True)
    label, levels = kinds, list[np.ndarray]()
    for _ in many:
        label, level = np.divmod(label, _LEVELS)
        levels.insert(0, level)
    totals: list[list[np.ndarray]] = [[] for _ in many]
    for drawn in _draws(counts, resamples, seed):
        for own, level in zip(totals, levels, strict=True):
            own.append(_values(drawn, label, level))
    return [dict(zip(KEYS, np.concatenate(own, axis=1), strict=True)) for own in totals]


def _draws(counts: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How many images of each kind are drawn, in blocks of int64 [r, kinds]."""
    generator, total = np.random.default_rng(seed), int(counts.sum())
    rows = rows_of(block_bytes(_DRAWN), len(counts), np.dtype(np.int64).itemsize)
    for start in range(0, resamples, rows):
        yield generator.multinomial(total, counts / total, size=min(rows, resamples - start))


def _values(drawn: np.ndarray, label: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The three metrics of every resample, float64 [3, r]; `label` is ascending."""
    total = drawn.sum(axis=1)
    first, five = (drawn[:, level >= wanted].sum(axis=1) / total for wanted in (_LEVELS - 1, 1))
    starts = np.flatnonzero(np.diff(label, prepend=-1))
    sizes = np.add.reduceat(drawn, starts, axis=1)
    right = np.add.reduceat(drawn * (level == _LEVELS - 1), starts, axis=1)
    # A small class may be missing from a resample by chance; the mean is then that of the others.
    there = sizes > 0
    recalls = np.divide(right, sizes, out=np.zeros(sizes.shape), where=there)
    return np.stack([first, five, recalls.sum(axis=1) / there.sum(axis=1)])
