"""The numbers that a bundle is judged by, each with its limit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.manifest import Tower
from icclip.bundles.parity_record import BATCH, Thresholds, measured_batch
from icclip.plugins.specs import Encoder
from icclip.retrieval.agreement import RankingAgreement, TowerAgreement, cosines
from icclip.retrieval.metrics import CUTOFFS, DIRECTIONS
from icclip.retrieval.ranking import RetrievalRanks
from icclip.runtime.providers import Provider
from icclip_export.gate.comparison import Compared, Embeddings, Scoring

if TYPE_CHECKING:
    from icclip.runtime import Encoder as BundleEncoder

ENOUGH_IMAGES = 1000
"""With fewer images, the gate is only a smoke test: it tells whether the encoders agree, but little about retrieval."""
CHANCE = 2.576
"""Standard deviations that chance exceeds once in a hundred times."""

LONGEST = 100_000
"""Number of characters of the text that fills the whole length; the runtime limits the length of texts."""

_ROUNDING = 1e-9
_SAME = 1e-6


@dataclass(frozen=True)
class Requirement:
    """A number and its limit."""

    name: str
    """The name of the number, such as `vision.cosine` or `t2i.R@1`."""
    value: float
    limit: float
    at_least: bool
    """Whether the number must be at least `limit`; otherwise its absolute value must be at most `limit`."""
    where: str = ""
    """The inputs that the number comes from."""

    @property
    def passed(self) -> bool:
        """Whether the number keeps to its limit; NaN does not."""
        return bool(self.value >= self.limit if self.at_least else abs(self.value) <= self.limit)

    @property
    def line(self) -> str:
        """One line for the report: the name, the number, its limit and its inputs."""
        needs = "at least" if self.at_least else "at most"
        at = f", at {self.where}" if self.where else ""
        return f"{self.name} is {number(self.value)}, needs {needs} {number(self.limit)}{at}"

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for parity.json."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def number(value: float) -> str:
    """Format a cosine with all digits that matter, and a small difference by its magnitude."""
    if value and abs(value) < 1e-2:  # noqa: PLR2004  below it, leading zeros would hide the digits
        return f"{value:.1e}"
    return f"{value:.7f}".rstrip("0").rstrip(".")


def provider_checks(encoder: BundleEncoder, asked: Provider) -> Iterator[Requirement]:
    """Require the provider that was asked for, because onnxruntime silently falls back to the CPU."""
    towers: tuple[Tower, ...] = ("vision", "text")
    for tower in towers:
        session = encoder.session(tower)
        ran = f"{session.provider} instead of {asked}" if session.provider != asked else session.elsewhere()
        yield Requirement(f"{tower}.provider", float(ran is None), 1.0, at_least=True, where=ran or "")


def scoring_checks(before: Scoring, now: Scoring) -> Iterator[Requirement]:
    """Require the checkpoint's own temperature, bias and function for turning cosines into scores."""
    right = float(now.loss == before.loss)
    yield Requirement("scoring.loss", right, 1.0, at_least=True, where=f"{now.loss} instead of {before.loss}")
    for name in ("logit_scale", "logit_bias"):
        had, has = (getattr(own, name) or 0.0 for own in (before, now))
        yield Requirement(f"scoring.{name}", has - had, _SAME, at_least=False)


def small_batch_checks(
    encoder: Encoder, known: Embeddings, data: Compared, limits: Thresholds
) -> tuple[list[Requirement], dict[str, Any]]:
    """One at a time, beside others, and padded by a text that fills the whole length: the same embeddings again.

    Returns:
        What is required, and how far neighbours move a row of either tower, as it is served and in a batch.
    """
    images = [data.images[index] for index in range(min(BATCH, data.captions.n_images))]
    texts = list(data.captions.texts[: BATCH - 1])
    towers = {
        "vision": _alone_and_together(encoder, lambda size: encoder.encode_images(images, batch_size=size)),
        "text": _alone_and_together(encoder, lambda size: encoder.encode_texts(texts, batch_size=size)),
    }
    checks: list[Requirement] = []
    called = {"vision": data.image_name, "text": data.text_name}
    for tower, (alone, served, _) in towers.items():
        own = (known.images if tower == "vision" else known.texts)[: len(alone)]
        checks.append(_lowest(f"{tower}.alone", own, alone, limits, called[tower]))
        checks += _neighbours(f"{tower}.neighbours", _moved(alone, served), limits, called[tower])
    longest = " ".join(data.captions.texts[:BATCH] * BATCH)[:LONGEST]
    padded = encoder.encode_texts([*texts, longest], batch_size=BATCH)[:-1]
    checks.append(_lowest("text.padded", known.texts[: len(texts)], padded, limits, data.text_name))
    moved = {
        tower: {"as_served": float(_moved(alone, served).max()), "in_a_batch": float(_moved(alone, batch).max())}
        for tower, (alone, served, batch) in towers.items()
    }
    return checks, moved


def _alone_and_together(
    encoder: Encoder, encode: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same rows with a run for each, as they are served, and BATCH at a time."""
    usual = measured_batch(encoder)
    batch = encode(BATCH)
    return encode(1), batch if usual == BATCH else encode(usual), batch


def _lowest(
    name: str, known: np.ndarray, found: np.ndarray, limits: Thresholds, called: Callable[[int], str]
) -> Requirement:
    own = np.nan_to_num(cosines(known, found), nan=0.0)
    return Requirement(name, float(own.min()), limits.min_cosine, at_least=True, where=called(int(own.argmin())))


def _moved(alone: np.ndarray, together: np.ndarray) -> np.ndarray:
    """Largest difference of a component, by row."""
    moved: np.ndarray = np.abs(np.nan_to_num(alone - together, nan=np.inf)).max(axis=1)
    return moved


def _neighbours(
    name: str, moved: np.ndarray, limits: Thresholds, called: Callable[[int], str]
) -> Iterator[Requirement]:
    """Limit how much an embedding depends on the other inputs of its batch, as the encoder is served."""
    if limits.neighbours is not None:
        where = called(int(moved.argmax()))
        yield Requirement(name, float(moved.max()), limits.neighbours, at_least=False, where=where)


def tower_checks(
    name: str, found: TowerAgreement, limits: Thresholds, called: Callable[[int], str]
) -> Iterator[Requirement]:
    """Every requirement on a tower's embeddings; those on a single input name it."""
    values = {
        "cosine": (found.min_cosine, limits.min_cosine, "; ".join(called(index) for index in found.worst)),
        "mean_cosine": (found.mean_cosine, limits.mean_cosine, ""),
        "centred_cosine": (found.centred_min_cosine, limits.centred_min_cosine, called(found.centred_worst or 0)),
        "centred_mean_cosine": (found.centred_mean_cosine, limits.centred_mean_cosine, ""),
    }
    for kind, (value, limit, where) in values.items():
        if value is not None and limit is not None:
            yield Requirement(f"{name}.{kind}", value, limit, at_least=True, where=where)
    if limits.embedding_abs is not None:
        yield Requirement(f"{name}.difference", found.embedding_abs, limits.embedding_abs, at_least=False)


def ranking_checks(found: Mapping[str, RankingAgreement], limits: Thresholds) -> Iterator[Requirement]:
    """Requirements on the similarities and on the first answers to every query."""
    if limits.similarity_abs is not None:
        yield Requirement("similarity", found["i2t"].similarity_abs, limits.similarity_abs, at_least=False)
    if limits.top10_overlap is not None:
        for direction in DIRECTIONS:
            yield Requirement(f"{direction}.top10", found[direction].overlap, limits.top10_overlap, at_least=True)


def recall_checks(before: RetrievalRanks, now: RetrievalRanks, limits: Thresholds) -> Iterator[Requirement]:
    """Limit the change of every R@K, as a fraction of the queries."""
    allowed = dict(zip(CUTOFFS, (limits.drop_r1, limits.drop_r5, limits.drop_r10), strict=True))
    smoke = before.captions.n_images < ENOUGH_IMAGES
    for direction in DIRECTIONS:
        ranks: tuple[np.ndarray, np.ndarray] = getattr(before, direction), getattr(now, direction)
        for cutoff, limit in allowed.items():
            had, has = (own <= cutoff for own in ranks)
            change = float(has.mean() - had.mean())
            tolerance = recall_tolerance(limit, len(had), int((had != has).sum()), smoke=smoke)
            yield Requirement(f"{direction}.R@{cutoff}", change, tolerance, at_least=False)


def recall_tolerance(limit: float, queries: int, changed: int, *, smoke: bool) -> float:
    """How far a recall may change: by `limit`, and at least by one query, which is the smallest possible change.

    In a smoke test, it may also change by as much as chance explains, given the `changed` queries that won or lost
    (McNemar's test at 1 %), because with 100 images, two answers that were tied are already two points.
    """
    chance = CHANCE * math.sqrt(changed) / queries if smoke else 0.0
    return max(limit, 1 / queries, chance) + _ROUNDING
