"""Does the index find what exact search finds? Measured with text and with image queries.

A quantizer that was trained on images alone answers image queries well and text queries badly: texts lie elsewhere
in the space. So both kinds of queries are measured, each with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icclip.retrieval.bootstrap import LEVEL, draws
from icclip.searching.engine import Engine, Vectors, best_of, blocks_of

K = 10
CUTOFFS = (1, 5, 10)
RESAMPLES = 1000
TIE = 1e-6
"""Cosines that are this near count as equal: which of two copies is found first means nothing."""


@dataclass(frozen=True)
class Queries:
    """What an index is measured with."""

    texts: np.ndarray
    """float32 [t, dim]"""
    text_owner: np.ndarray
    """int64 [t]: the group of each text for the intervals: its image, or the text itself."""
    relevant: tuple[np.ndarray, ...] | None
    """int64 for each text: the rows that are right; None where there are no captions."""
    images: np.ndarray
    """int64 [i]: rows whose images are looked for; each finds itself, which does not count."""
    origin: str
    """Where the texts come from."""


@dataclass(frozen=True)
class Exact:
    """What exact search finds, made once and compared with every kind that is tried."""

    texts: tuple[np.ndarray, np.ndarray]
    """cosines float32 [t, k], rows int64 [t, k]"""
    images: tuple[np.ndarray, np.ndarray]
    """The same of the images, without the image itself."""

    @classmethod
    def of(cls, vectors: Vectors, queries: Queries) -> Exact:
        """By comparing every query with every vector, in blocks."""
        k = min(K, len(vectors))
        images = np.asarray(vectors[queries.images], np.float32)
        own = best_of(images, min(k + 1, len(vectors)), blocks_of(vectors))
        return cls(best_of(queries.texts, k, blocks_of(vectors)), without_itself(own, queries.images))


def without_itself(found: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take each query's own row out of what it found, or the last where it was not found."""
    cosines, found_rows = found
    if not found_rows.size:
        return found
    is_own = found_rows == rows[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    kept = ~is_own
    shape = (len(rows), found_rows.shape[1] - 1)
    return cosines[kept].reshape(shape), found_rows[kept].reshape(shape)


def measure(engine: Engine, vectors: Vectors, queries: Queries, exact: Exact, seed: int) -> dict[str, Any]:
    """Recall against exact search, and R@K against the captions where there are any.

    Args:
        engine: the index.
        vectors: float32 [n, dim]: what was put into it.
        queries: texts and images.
        exact: what exact search finds.
        seed: of the intervals.

    Returns:
        plain values for the record: `text` and `image` with `recall@1`, `recall@10`, each `[value, low, high]`, and
        for texts `R@1`, `R@5`, `R@10` of the index and `exact_R@...`.
    """
    k = exact.texts[1].shape[1]
    _, texts = engine.search(queries.texts, k)
    own = np.asarray(vectors[queries.images], np.float32)
    images = without_itself(engine.search(own, exact.images[1].shape[1] + 1), queries.images)[1]
    text = _recalls(queries.texts, texts, vectors, exact.texts, (queries.text_owner, seed))
    if queries.relevant is not None:
        text |= _hits("R", texts, queries.relevant, queries.text_owner, seed)
        text |= _hits("exact_R", exact.texts[1], queries.relevant, queries.text_owner, seed)
    return {
        "k": K,
        "texts": queries.origin,
        "text": {"queries": len(texts), **text},
        "image": {"queries": len(images), **_recalls(own, images, vectors, exact.images, (queries.images, seed))},
    }


def lowest_recall(measured: Mapping[str, Any]) -> float:
    """The smaller recall@10 of text and image queries; queries that do not exist do not count."""
    return min((measured[kind]["recall@10"][0] for kind in ("text", "image") if measured[kind]["queries"]), default=1.0)


def failures(measured: Mapping[str, Any], threshold: float) -> list[str]:
    """A line for each kind of query whose recall is too low."""
    found = []
    for kind in ("text", "image"):
        value, low, high = measured[kind]["recall@10"]
        if measured[kind]["queries"] and value < threshold:
            found.append(
                f"{kind} queries find {100 * value:.1f} % of what exact search finds ({100 * low:.1f} to {100 * high:.1f}), "
                f"less than {100 * threshold:g} %"
            )
    return found


def _recalls(
    queries: np.ndarray,
    found: np.ndarray,
    vectors: Vectors,
    exact: tuple[np.ndarray, np.ndarray],
    drawn: tuple[np.ndarray, int],
) -> dict[str, list[float]]:
    """recall@1 and recall@10: the share of the exact answers that were found, by their cosines."""
    cosines = np.full(found.shape, -np.inf, np.float32)
    held = found >= 0
    query, _ = np.nonzero(held)
    cosines[held] = np.einsum("nd,nd->n", queries[query], np.asarray(vectors[found[held]], np.float32))
    shares = {}
    for k in (1, K):
        last = exact[0][:, : min(k, exact[0].shape[1])]
        if not last.shape[1]:
            return {f"recall@{one}": [1.0, 1.0, 1.0] for one in (1, K)}
        good = (cosines[:, : last.shape[1]] >= last[:, -1:] - TIE).mean(axis=1)
        shares[f"recall@{k}"] = interval(good, *drawn)
    return shares


def _hits(
    name: str, found: np.ndarray, relevant: Sequence[np.ndarray], owner: np.ndarray, seed: int
) -> dict[str, list[float]]:
    return {
        f"{name}@{k}": interval(
            np.array([np.isin(own[:k], right).any() for own, right in zip(found, relevant, strict=True)], float),
            owner,
            seed,
        )
        for k in CUTOFFS
    }


def interval(values: np.ndarray, groups: np.ndarray, seed: int) -> list[float]:
    """[mean, low, high]: a 95 % percentile interval, by drawing groups with replacement.

    Args:
        values: float [n].
        groups: int64 [n]: values of one group are drawn together.
        seed: of the drawing.
    """
    if not len(values):
        return [1.0, 1.0, 1.0]
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    drawn = np.concatenate([(w @ sums) / np.maximum(w @ counts, 1) for w in draws(len(sums), RESAMPLES, seed)])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(values.mean()), float(low), float(high)]
