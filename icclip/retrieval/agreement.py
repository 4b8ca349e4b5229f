"""How far one encoder's embeddings are from another's, and whether the difference reaches retrieval.

Everything compares a candidate with a reference, row by row, in float64, because the differences that
matter for float32 encoders are smaller than the rounding errors of float32 sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from icclip.retrieval.blocks import PRODUCTS, block_bytes, rows_of, spans

NEAR_TIE = 1e-3
"""Two answers whose reference similarities are this close are tied for every practical purpose."""
WORST = 5
TOP = 10

_DIRECTION_FLOOR = 1e-6
"""A float32 unit vector is exact to about 1e-7, so the direction of one this close to the mean is noise."""
_EQUAL = 1e-6


@dataclass(frozen=True, slots=True)
class TowerAgreement:
    """How one tower's embeddings compare with the reference's."""

    min_cosine: float
    mean_cosine: float
    centred_min_cosine: float | None
    """Cosines after the reference's mean was subtracted from both; None if nothing but the mean is left."""
    centred_mean_cosine: float | None
    embedding_abs: float
    """Largest difference of any component."""
    spread: float
    """Mean length of the centred reference embeddings, 0..1; near 0, all inputs look alike to the model."""
    worst: tuple[int, ...]
    """The rows with the lowest cosines, the lowest first."""
    worst_cosines: tuple[float, ...]
    centred_worst: int | None
    """The row with the lowest centred cosine."""


@dataclass(frozen=True, slots=True)
class Flips:
    """Queries whose first answer changed."""

    count: int
    near_ties: int
    """Number of these queries whose two answers are within NEAR_TIE of each other in the reference."""
    largest_gap: float
    """Largest gap between the reference's similarities of the two answers."""
    worst: int | None
    """The query with the largest gap."""


@dataclass(frozen=True, slots=True)
class RankingAgreement:
    """How the answers to the queries of one direction compare with the reference's."""

    similarity_abs: float
    """Largest difference of any similarity."""
    overlap: float
    """Mean fraction of the reference's first ten answers that are also among the candidate's."""
    flips: Flips


def cosines(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Row by row: [n, dim] twice -> float64 [n]; NaN where a row has no direction."""
    reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    products = np.einsum("nd,nd->n", reference, candidate)
    found: np.ndarray = np.divide(products, lengths, out=np.full(len(products), np.nan), where=lengths > 0)
    return found


def centred_cosines(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Cosines after subtracting the reference's mean from both: [n, dim] twice -> float64 [n].

    Embeddings of one tower share a large common part, and all the information is in the rest; raw
    cosines hide what happens to it. Rows that consist of the common part alone give NaN.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    centred = reference - mean
    found = cosines(centred, candidate - mean)
    known = np.linalg.norm(centred, axis=1) > _DIRECTION_FLOOR
    # A known direction that has become the mean itself has lost everything.
    return np.where(known, np.nan_to_num(found, nan=0.0), np.nan)


def tower_agreement(reference: np.ndarray, candidate: np.ndarray, *, worst: int = WORST) -> TowerAgreement:
    """Compare embeddings, float [n, dim], finite, n at least 1.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"embeddings of shape {candidate.shape} against {reference.shape}")
    own = np.nan_to_num(cosines(reference, candidate), nan=0.0)
    centred = centred_cosines(reference, candidate)
    known = not np.isnan(centred).all()
    order = np.argsort(own, kind="stable")[:worst]
    return TowerAgreement(
        min_cosine=float(own.min()),
        mean_cosine=float(own.mean()),
        centred_min_cosine=float(np.nanmin(centred)) if known else None,
        centred_mean_cosine=float(np.nanmean(centred)) if known else None,
        embedding_abs=float(np.abs(reference.astype(np.float64) - candidate).max()),
        spread=float(np.linalg.norm(reference - reference.mean(axis=0, dtype=np.float64), axis=1).mean()),
        worst=tuple(order.tolist()),
        worst_cosines=tuple(own[order].tolist()),
        centred_worst=int(np.nanargmin(centred)) if known else None,
    )


def ranking_agreement(
    reference: tuple[np.ndarray, np.ndarray],
    candidate: tuple[np.ndarray, np.ndarray],
    *,
    top: int = TOP,
    block: int | None = None,
) -> RankingAgreement:
    """Compare the answers that queries find; of answers tied within 1e-6, either one counts.

    Args:
        reference: the reference's queries [n, dim] and answers [m, dim], as unit rows.
        candidate: the candidate's queries and answers, of the same shapes.
        top: number of answers that `overlap` looks at, or all of them if there are fewer.
        block: number of queries per block, which changes the memory needed and never the result; None
            chooses it by the memory of this machine.
    """
    largest, overlaps, gaps = 0.0, [], []
    block = block or rows_of(block_bytes(PRODUCTS), len(reference[1]), np.dtype(np.float64).itemsize)
    for rows in spans(len(reference[0]), block):
        ours = reference[0][rows].astype(np.float64) @ reference[1].T
        theirs = candidate[0][rows].astype(np.float64) @ candidate[1].T
        largest = max(largest, float(np.abs(ours - theirs).max()))
        overlaps.append(_overlap(ours, theirs, min(top, ours.shape[1])))
        gaps.append(ours.max(axis=1) - ours[np.arange(len(ours)), theirs.argmax(axis=1)])
    return RankingAgreement(largest, float(np.concatenate(overlaps).mean()), _flips(np.concatenate(gaps)))


def _overlap(ours: np.ndarray, theirs: np.ndarray, top: int) -> np.ndarray:
    """Similarities [n, m] twice -> float64 [n]: the candidate's first answers that the reference has as high."""
    chosen = np.argpartition(-theirs, top - 1, axis=1)[:, :top]
    bar = np.partition(ours, -top, axis=1)[:, -top]
    shares: np.ndarray = (np.take_along_axis(ours, chosen, axis=1) >= bar[:, None] - _EQUAL).mean(axis=1)
    return shares


def _flips(gaps: np.ndarray) -> Flips:
    """`gaps` float64 [n]: reference similarity of its own first answer, less that of the candidate's."""
    changed = gaps > _EQUAL
    count = int(changed.sum())
    return Flips(
        count=count,
        near_ties=int((changed & (gaps <= NEAR_TIE)).sum()),
        largest_gap=float(gaps.max()) if count else 0.0,
        worst=int(gaps.argmax()) if count else None,
    )
