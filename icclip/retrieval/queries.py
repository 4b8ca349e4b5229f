"""What is kept of a ranking, query by query: enough to compare two models later without encoding again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from icclip.retrieval.blocks import block_bytes, rows_of, spans
from icclip.retrieval.bootstrap import Hits, SharedCaptions, hits_at, is_shared
from icclip.retrieval.ranking import Answers, RetrievalRanks

FIRST = 5
"""The answers that are kept for each query."""
BINS = 80
"""Of the distributions of cosines, from -1 to 1."""

_BYTES = 16 * 2**20
_SAMPLE = 500


@dataclass(frozen=True, slots=True)
class QueryRanks:
    """Where the best answer to each query of one direction stands, and which queries are drawn together."""

    query: np.ndarray
    """int64 [q]: rows of the split, ascending."""
    image: np.ndarray
    """int64 [q]: the kind of image that the query belongs to."""
    caption: np.ndarray
    """int64 [q]: the number of a caption that several images share, from 0; -1 for all other queries."""
    rank: np.ndarray
    """int64 [q]: pessimistic, from 1."""
    optimistic: np.ndarray
    """int64 [q]"""
    cosine: np.ndarray
    """float32 [q]: with the best right answer."""
    first: np.ndarray
    """int32 [q, k]: rows of the answers that came first, the best first; k is 0 where they were not kept."""

    def __len__(self) -> int:
        return len(self.query)


def query_ranks(
    ranks: RetrievalRanks, first: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[QueryRanks, QueryRanks]:
    """Both directions, image queries first; `first` are the `first_answers` of all images and of all texts."""
    relevance, shared = ranks.relevance, is_shared(ranks)
    i2t, t2i = ranks.i2t_answers, ranks.t2i_answers
    kinds = np.full(len(relevance.texts.of_row), -1, np.int64)
    _, kinds[t2i.queries[shared[t2i.queries]]] = np.unique(
        relevance.texts.of_row[t2i.queries[shared[t2i.queries]]], return_inverse=True
    )
    nobody = np.full(len(i2t.queries), -1, np.int64)
    owners = relevance.images.of_row[relevance.captions.image_of_text]
    return (
        _kept(i2t, relevance.images.of_row[i2t.queries], nobody, None if first is None else first[0]),
        _kept(t2i, owners[t2i.queries], kinds[t2i.queries], None if first is None else first[1]),
    )


def _kept(answers: Answers, image: np.ndarray, caption: np.ndarray, first: np.ndarray | None) -> QueryRanks:
    kept = np.empty((len(answers.queries), 0), np.int32) if first is None else first[answers.queries]
    return QueryRanks(
        answers.queries, image, caption, answers.ranks, answers.optimistic, answers.best_cosines, kept
    )  # fmt: skip


def hits_of(i2t: QueryRanks, t2i: QueryRanks, kinds: int) -> Hits:
    """As `Hits.of` the ranking that they were kept of; `kinds` is its number of kinds of images."""
    own = t2i.caption < 0
    counts = [np.zeros((kinds, hits_at(queries.rank[:1]).shape[1]), np.int64) for queries in (i2t, t2i)]
    np.add.at(counts[0], i2t.image, hits_at(i2t.rank))
    np.add.at(counts[1], t2i.image[own], hits_at(t2i.rank[own]))
    shared = SharedCaptions(
        t2i.image[~own], t2i.caption[~own], hits_at(t2i.rank[~own]), int(t2i.caption.max(initial=-1)) + 1
    )
    return Hits(np.concatenate(counts, axis=1), shared)


def first_answers(queries: np.ndarray, candidates: np.ndarray, best: int = FIRST) -> np.ndarray:
    """The rows of the candidates with the highest products, the best first: int32 [q, best], or as many as there are.

    Args:
        queries: float32 [q, dim].
        candidates: float32 [c, dim].
        best: how many are wanted.
    """
    best = min(best, len(candidates))
    size = rows_of(block_bytes(_BYTES), len(candidates), 4)
    return np.concatenate(list(_first(queries, candidates, best, size)))


def _first(queries: np.ndarray, candidates: np.ndarray, best: int, size: int) -> Iterator[np.ndarray]:
    for rows in spans(len(queries), size):
        scores = queries[rows] @ candidates.T
        found = np.argpartition(-scores, best - 1, axis=1)[:, :best]
        order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
        yield np.take_along_axis(found, order, axis=1).astype(np.int32)


def cosine_counts(images: np.ndarray, texts: np.ndarray, ranks: RetrievalRanks) -> dict[str, list[int]]:
    """How often cosines fall into each of BINS equal bins from -1 to 1: `positives`, and `negatives` of a sample.

    Args:
        images: float32 [n_images, dim], unit rows.
        texts: float32 [n_texts, dim], likewise.
        ranks: of them.
    """
    rows = np.linspace(0, len(images) - 1, min(len(images), _SAMPLE)).astype(int)
    negatives = np.zeros(BINS, np.int64)
    for row in rows.tolist():
        scores = texts @ images[row]
        scores = np.delete(scores, ranks.relevance.texts_of(row))
        negatives += _histogram(scores)
    positives = _histogram(ranks.i2t_answers.cosines)
    return {"positives": positives.tolist(), "negatives": negatives.tolist()}


def _histogram(cosines: np.ndarray) -> np.ndarray:
    counts: np.ndarray = np.histogram(np.clip(cosines, -1, 1), BINS, (-1, 1))[0]
    return counts
