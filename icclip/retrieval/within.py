"""Retrieval within one modality: images by images, and texts by texts.

Two images answer each other if a text is right for both, and two texts if they are right for one image. What a query
is compared with are all others of its kind; it is left out itself, with its copies, because finding those is no
achievement. As between the modalities, cosines are exact and ties count against the right answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from icclip.retrieval import bootstrap
from icclip.retrieval.blocks import MIB, block_bytes, rows_of, spans
from icclip.retrieval.counting import Progress, no_progress, unit_on_grid
from icclip.retrieval.metrics import CUTOFFS, direction_metrics
from icclip.retrieval.ranking import refuse_broken
from icclip.retrieval.relevance import Kinds, Relevance

DIRECTIONS = ("i2i", "t2t")
_BYTES = 32 * MIB


@dataclass(frozen=True, slots=True)
class Partners:
    """Which kinds of one modality answer each other."""

    kinds: Kinds
    offsets: np.ndarray
    """int64 [kinds + 1]: what each is related to in the other modality."""
    members: np.ndarray
    """int64 [pairs]: kinds of the other modality."""
    back_offsets: np.ndarray
    """int64 [other kinds + 1]"""
    back_members: np.ndarray
    """int64 [pairs]: kinds of this modality."""

    @classmethod
    def of(cls, relevance: Relevance, direction: str) -> Self:
        """Of the images of a split (`i2i`) or of its texts (`t2t`)."""
        order = np.argsort(relevance.members, kind="stable")
        counts = np.bincount(relevance.members, minlength=len(relevance.texts))
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        images = relevance.offsets, relevance.members
        texts = offsets, relevance.image_of_pair[order]
        if direction == "i2i":
            return cls(relevance.images, *images, *texts)
        return cls(relevance.texts, *texts, *images)

    def of_kind(self, kind: int) -> np.ndarray:
        """int64: the other kinds that answer this one."""
        related = self.members[self.offsets[kind] : self.offsets[kind + 1]]
        parts = [self.back_members[self.back_offsets[one] : self.back_offsets[one + 1]] for one in related.tolist()]
        found = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        others: np.ndarray = found[found != kind]
        return others

    def queries(self) -> np.ndarray:
        """int64: the kinds that have an answer, ascending."""
        sizes = np.diff(self.back_offsets)
        several = np.flatnonzero(np.add.reduceat(np.append(sizes[self.members] > 1, False), self.offsets[:-1]))
        # For a kind without members, reduceat gives what stands at the place of the next one.
        there: np.ndarray = several[np.diff(self.offsets)[several] > 0]
        return there


def rank_within(
    embeddings: np.ndarray, partners: Partners, *, block: int | None = None, progress: Progress = no_progress
) -> tuple[np.ndarray, np.ndarray]:
    """Where the best answer to each query stands.

    Args:
        embeddings: float [rows, dim] of one modality; of copies, the first one's counts.
        partners: which answer each other.
        block: queries in a block of cosines; None: what suits the machine. It never changes the result.
        progress: shows how much is done.

    Returns:
        The kinds that have an answer, int64 [q], and the pessimistic rank of the best one, from 1, int64 [q].
    """
    kinds, queries = partners.kinds, partners.queries()
    unit = unit_on_grid(embeddings[kinds.first])
    ranks = np.empty(len(queries), np.int64)
    size = block or rows_of(block_bytes(_BYTES), len(kinds), 8)
    with progress("ranking within", len(queries)) as advance:
        for rows in spans(len(queries), size):
            own = queries[rows]
            for place, scores in zip(range(rows.start, rows.stop), unit[own] @ unit.T, strict=True):
                ranks[place] = _rank(scores, int(queries[place]), partners)
            advance(len(own))
    return queries, ranks


def _rank(scores: np.ndarray, kind: int, partners: Partners) -> int:
    """1 and the number of rows of wrong kinds that score at least as high as the best right one."""
    right = partners.of_kind(kind)
    best = scores[right].max()
    wrong = scores >= best
    wrong[right] = wrong[kind] = False
    return 1 + int(partners.kinds.sizes[wrong].sum())


def within_metrics(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    relevance: Relevance,
    *,
    resamples: int = 1000,
    seed: int = 42,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Recall, median and mean rank of images by images (`i2i_...`) and of texts by texts (`t2t_...`).

    Args:
        image_embeddings: float [n_images, dim].
        text_embeddings: float [n_texts, dim].
        relevance: the right answers of the split.
        resamples: of the bootstrap, which draws images, each with its captions; 0 leaves the intervals out.
        seed: seed of the resamples.
        progress: shows how much is done.

    Returns:
        The metrics under the keys of `retrieval_metrics`, `i2i_queries` and `t2t_queries`, and `confidence_95`; a
        direction without queries is left out.

    Raises:
        CheckpointError: the embeddings are not finite.
    """
    refuse_broken(image_embeddings, text_embeddings)
    found: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for direction, embeddings, owners in (
        ("i2i", image_embeddings, relevance.images.of_row),
        ("t2t", text_embeddings, relevance.images.of_row[relevance.captions.image_of_text]),
    ):
        partners = Partners.of(relevance, direction)
        queries, ranks = rank_within(embeddings, partners, progress=progress)
        if not len(queries):
            continue
        # Copies are as many queries as there are rows.
        rows = np.flatnonzero(np.isin(partners.kinds.of_row, queries))
        of_row = ranks[np.searchsorted(queries, partners.kinds.of_row[rows])]
        found |= {**direction_metrics(direction, of_row), f"{direction}_queries": len(rows)}
        if resamples:
            drawn = _drawn(of_row, owners[rows], len(relevance.images), resamples, seed)
            intervals |= {f"{direction}_R@{k}": bootstrap.between(drawn[:, column]) for column, k in enumerate(CUTOFFS)}
    return found | ({bootstrap.KEY: intervals} if intervals else {})


def _drawn(ranks: np.ndarray, owners: np.ndarray, kinds: int, resamples: int, seed: int) -> np.ndarray:
    """R@K of every resample, float64 [resamples, 3]; NaN where it holds no query."""
    own = np.zeros((kinds, len(CUTOFFS) + 1), np.int64)
    np.add.at(own, owners, bootstrap.hits_at(ranks))
    totals = np.concatenate(list(_totals(own, resamples, seed)))
    with np.errstate(invalid="ignore"):
        found: np.ndarray = totals[:, :-1] / totals[:, -1:]
    return found


def _totals(own: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    for images in bootstrap.draws(len(own), resamples, seed):
        yield images @ own
