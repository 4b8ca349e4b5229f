"""The gate: the checkpoint in torch and the bundle in onnxruntime, on the same real images and captions.

Each side does everything itself, from the decoded image and the raw text on. What comes out is
compared three times: embeddings (raw and centred cosines, single components), rankings (answers that
changed) and retrieval (recall). A precision passes where every number keeps to its threshold.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.console import Reporter
from icclip.data.captions import CaptionMap
from icclip.errors import CheckpointError, DataError, GateError
from icclip.evaluation.agreement import RankingAgreement, TowerAgreement, cosines, ranking_agreement, tower_agreement
from icclip.evaluation.metrics import CUTOFFS, DIRECTIONS, retrieval_metrics
from icclip.evaluation.ranking import RetrievalRanks, rank
from icclip.runtime.manifest import Tower
from icclip.runtime.parity_record import (
    ParityRecord,
    PrecisionParity,
    Thresholds,
    captions_fingerprint,
    sampled_rows,
)
from icclip.runtime.providers import PROVIDERS, Provider
from icclip.specs import Encoder
from icclip_export.thresholds import CENTRED_WARNING

if TYPE_CHECKING:
    from PIL.Image import Image

    from icclip.runtime import Encoder as BundleEncoder

ENOUGH_IMAGES = 1000
"""Fewer tell whether the encoders agree, but too little of what retrieval costs: a smoke test."""
BATCH = 32
SHOWN_CAPTION = 40
CHANCE = 2.576
"""Standard deviations that chance exceeds once in a hundred times."""

_QUIET = Reporter(silent=True)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """A number and what it is held to."""

    name: str
    """`vision.cosine`, `t2i.R@1`, ..."""
    value: float
    limit: float
    at_least: bool
    """Else its absolute value may be `limit` at most."""
    where: str = ""
    """The inputs that it comes from."""

    @property
    def passed(self) -> bool:
        """Whether the number keeps to its limit; NaN does not."""
        return bool(self.value >= self.limit if self.at_least else abs(self.value) <= self.limit)

    @property
    def line(self) -> str:
        """For the report: what, how far, where."""
        needs = "at least" if self.at_least else "at most"
        at = f", at {self.where}" if self.where else ""
        return f"{self.name} is {number(self.value)}, needs {needs} {number(self.limit)}{at}"

    def to_mapping(self) -> dict[str, Any]:
        """For parity.json."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def number(value: float) -> str:
    """A cosine with all the digits that count, a small difference by its magnitude."""
    if value and abs(value) < 1e-2:  # noqa: PLR2004  below it, leading zeros would hide the digits
        return f"{value:.1e}"
    return f"{value:.7f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Compared:
    """The images and captions that both sides encode, and what the split calls them."""

    images: Sequence[Image]
    captions: CaptionMap
    rows: np.ndarray
    """int64 [n_images]: their rows in the split."""

    @classmethod
    def of(cls, images: Sequence[Image], captions: CaptionMap, sample: int, seed: int) -> Compared:
        """All of a split, or a seeded sample of it.

        Raises:
            DataError: there is no image.
        """
        if not captions.n_images:
            raise DataError("the split holds no image: choose another with --split")
        rows = sampled_rows(captions.n_images, sample, seed)
        if len(rows) == captions.n_images:
            return cls(images, captions, rows)
        own = [captions.texts[captions.offsets[row] : captions.offsets[row + 1]] for row in rows]
        return cls(Rows(images, rows), CaptionMap.from_lists(own), rows)

    def image_name(self, index: int) -> str:
        """The image's row in the split."""
        return f"image {self.rows[index]}"

    def text_name(self, index: int) -> str:
        """A caption by its place, its image and its beginning."""
        image = int(self.captions.image_of_text[index])
        start = textwrap.shorten(self.captions.texts[index], SHOWN_CAPTION, placeholder="...")
        return f"caption {index - self.captions.offsets[image]} of {self.image_name(image)} {start!r}"


@dataclass(frozen=True)
class Rows(Sequence["Image"]):
    """Some images of a sequence, decoded when asked for."""

    images: Sequence[Image]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.images[int(self.rows[index])]


@dataclass(frozen=True)
class Embeddings:
    """What an encoder makes of a split: float32, unit rows."""

    images: np.ndarray
    """[n_images, dim]"""
    texts: np.ndarray
    """[n_texts, dim]"""

    def metrics(self, captions: CaptionMap) -> dict[str, float]:
        """Their retrieval metrics."""
        return retrieval_metrics(self.ranks(captions))

    def ranks(self, captions: CaptionMap) -> RetrievalRanks:
        """Where the right answers stand."""
        return rank(self.images, self.texts, captions)


def run_gate(
    reference: Encoder,
    open_candidate: Callable[[str], BundleEncoder],
    images: Sequence[Image],
    captions: CaptionMap,
    *,
    precisions: Sequence[str],
    thresholds: Mapping[str, Thresholds],
    reporter: Reporter = _QUIET,
    dataset: str = "",
    split: str = "",
    provider: Provider | None = None,
    sample: int = ENOUGH_IMAGES,
    seed: int = 42,
) -> ParityRecord:
    """Hold every precision of a bundle to its thresholds.

    Args:
        reference: the source checkpoint.
        open_candidate: opens the bundle in a precision; what it raises as CheckpointError is a failure of the gate.
        images: of a split.
        captions: of the same images.
        precisions: those to check.
        thresholds: by precision.
        reporter: hears of what passes but is doubtful.
        dataset: for the record.
        split: for the record.
        provider: the one that has to run; None: whichever the candidate chose.
        sample: images compared where the split has more.
        seed: of the sample.

    Raises:
        DataError: the split is empty, or an image cannot be decoded.
        CheckpointError: the checkpoint itself gives embeddings that cannot be compared.
        UsageError: the provider cannot be had.
    """
    data = Compared.of(images, captions, sample, seed)
    known = encode(reference, data)
    results = tuple(
        check_precision(
            known, open_candidate, data, precision, limits=thresholds[precision], provider=provider, reporter=reporter
        )
        for precision in precisions
    )
    return ParityRecord(
        dataset=dataset,
        split=split,
        n_images=data.captions.n_images,
        n_texts=data.captions.n_texts,
        seed=seed,
        smoke=data.captions.n_images < ENOUGH_IMAGES,
        fingerprint=captions_fingerprint(data.captions),
        reference=known.metrics(data.captions),
        results=results,
    )


def raise_if_failed(record: ParityRecord) -> None:
    """Raises GateError naming every precision that failed and its first failure."""
    failed = [result for result in record.results if not result.passed]
    if failed:
        raise GateError("; ".join(f"{_title(result)}: {_summary(result.failures)}" for result in failed))


def encode(encoder: Encoder, data: Compared) -> Embeddings:
    """Both towers over all the data."""
    return Embeddings(
        encoder.encode_images(data.images, batch_size=BATCH),
        encoder.encode_texts(data.captions.texts, batch_size=BATCH),
    )


def check_precision(
    known: Embeddings,
    open_candidate: Callable[[str], BundleEncoder],
    data: Compared,
    precision: str,
    *,
    limits: Thresholds,
    provider: Provider | None = None,
    reporter: Reporter = _QUIET,
) -> PrecisionParity:
    """One precision against the reference's embeddings `known`; see `run_gate`."""
    runs_on: str = provider or "unknown"
    try:
        encoder = open_candidate(precision)
        runs_on = asked = provider or encoder.choice.provider
        found = encode(encoder, data)
        _check_usable(known, found, data)
        small_batches = list(_small_batch_checks(encoder, known, data, limits))
    except CheckpointError as error:
        return PrecisionParity(
            precision=precision,
            provider=runs_on,
            passed=False,
            thresholds=limits,
            metrics={},
            measured={"checks": [{"name": "runs", "passed": False}]},
            failures=(f"does not run: {error}",),
        )
    towers, rankings = _agreements(known, found)
    ranks = found.ranks(data.captions)
    _doubt(precision, towers, reporter)
    checks = [
        *_provider_checks(encoder, asked),
        *_tower_checks("vision", towers["vision"], limits, data.image_name),
        *_tower_checks("text", towers["text"], limits, data.text_name),
        *small_batches,
        *_ranking_checks(rankings, limits),
        *_recall_checks(known.ranks(data.captions), ranks, limits),
    ]
    return PrecisionParity(
        precision=precision,
        provider=asked,
        passed=all(check.passed for check in checks),
        thresholds=limits,
        metrics=retrieval_metrics(ranks),
        measured={
            "checks": [check.to_mapping() for check in checks],
            "towers": {name: dataclasses.asdict(tower) for name, tower in towers.items()},
            "rankings": {name: dataclasses.asdict(ranking) for name, ranking in rankings.items()},
        },
        failures=tuple(check.line for check in checks if not check.passed),
    )


def _check_usable(known: Embeddings, found: Embeddings, data: Compared) -> None:
    if (known.images.shape, known.texts.shape) != (found.images.shape, found.texts.shape):
        raise CheckpointError(
            f"its embeddings have {found.images.shape[1]} and {found.texts.shape[1]} values, "
            f"the checkpoint's {known.images.shape[1]}"
        )
    for rows, called in ((found.images, data.image_name), (found.texts, data.text_name)):
        broken = ~np.isfinite(rows).all(axis=1)
        if broken.any():
            raise CheckpointError(
                f"{broken.sum()} of {len(rows)} embeddings are not finite, first of {called(int(broken.argmax()))}"
            )


# What is checked ----------------------------------------------------------------------------------


def _agreements(known: Embeddings, found: Embeddings) -> tuple[dict[str, TowerAgreement], dict[str, RankingAgreement]]:
    towers = {
        "vision": tower_agreement(known.images, found.images),
        "text": tower_agreement(known.texts, found.texts),
    }
    rankings = {
        "i2t": ranking_agreement((known.images, known.texts), (found.images, found.texts)),
        "t2i": ranking_agreement((known.texts, known.images), (found.texts, found.images)),
    }
    return towers, rankings


def _provider_checks(encoder: BundleEncoder, asked: Provider) -> Iterator[Check]:
    """What ran, in the sessions' own word: onnxruntime falls back to the CPU without saying so."""
    towers: tuple[Tower, ...] = ("vision", "text")
    for tower in towers:
        ran = encoder.session(tower).session.get_providers()[0]
        right = float(ran == PROVIDERS[asked])
        yield Check(f"{tower}.provider", right, 1.0, at_least=True, where=f"{ran} instead of {PROVIDERS[asked]}")


def _small_batch_checks(encoder: Encoder, known: Embeddings, data: Compared, limits: Thresholds) -> Iterator[Check]:
    """One at a time, and padded by a text that fills the whole length: the same embeddings again."""
    images = [data.images[index] for index in range(min(BATCH, data.captions.n_images))]
    alone = encoder.encode_images(images, batch_size=1)
    yield _lowest("vision.alone", known.images[: len(images)], alone, limits, data.image_name)
    texts = list(data.captions.texts[: BATCH - 1])
    alone = encoder.encode_texts(texts, batch_size=1)
    yield _lowest("text.alone", known.texts[: len(texts)], alone, limits, data.text_name)
    longest = " ".join(data.captions.texts[:BATCH] * BATCH)
    padded = encoder.encode_texts([*texts, longest], batch_size=BATCH)[:-1]
    yield _lowest("text.padded", known.texts[: len(texts)], padded, limits, data.text_name)


def _lowest(name: str, known: np.ndarray, found: np.ndarray, limits: Thresholds, called: Callable[[int], str]) -> Check:
    own = np.nan_to_num(cosines(known, found), nan=0.0)
    return Check(name, float(own.min()), limits.min_cosine, at_least=True, where=called(int(own.argmin())))


def _tower_checks(
    name: str, found: TowerAgreement, limits: Thresholds, called: Callable[[int], str]
) -> Iterator[Check]:
    where = "; ".join(called(index) for index in found.worst)
    yield Check(f"{name}.cosine", found.min_cosine, limits.min_cosine, at_least=True, where=where)
    if limits.mean_cosine is not None:
        yield Check(f"{name}.mean_cosine", found.mean_cosine, limits.mean_cosine, at_least=True)
    if limits.centred_min_cosine is not None and found.centred_min_cosine is not None:
        where = called(found.centred_worst or 0)
        yield Check(
            f"{name}.centred_cosine", found.centred_min_cosine, limits.centred_min_cosine, at_least=True, where=where
        )
    if limits.embedding_abs is not None:
        yield Check(f"{name}.difference", found.embedding_abs, limits.embedding_abs, at_least=False)


def _ranking_checks(found: Mapping[str, RankingAgreement], limits: Thresholds) -> Iterator[Check]:
    if limits.similarity_abs is not None:
        yield Check("similarity", found["i2t"].similarity_abs, limits.similarity_abs, at_least=False)
    if limits.top10_overlap is not None:
        for direction in DIRECTIONS:
            yield Check(f"{direction}.top10", found[direction].overlap, limits.top10_overlap, at_least=True)


def _recall_checks(before: RetrievalRanks, now: RetrievalRanks, limits: Thresholds) -> Iterator[Check]:
    """The change of every R@K, as a fraction of the queries."""
    allowed = dict(zip(CUTOFFS, (limits.drop_r1, limits.drop_r5, limits.drop_r10), strict=True))
    smoke = before.captions.n_images < ENOUGH_IMAGES
    for direction in DIRECTIONS:
        ranks: tuple[np.ndarray, np.ndarray] = getattr(before, direction), getattr(now, direction)
        for cutoff, limit in allowed.items():
            had, has = (own <= cutoff for own in ranks)
            change = float(has.mean() - had.mean())
            tolerance = recall_tolerance(limit, len(had), int((had != has).sum()), smoke=smoke)
            yield Check(f"{direction}.R@{cutoff}", change, tolerance, at_least=False)


def recall_tolerance(limit: float, queries: int, changed: int, *, smoke: bool) -> float:
    """How far a recall may move: by `limit`, and always by one query, the smallest step there is.

    In a smoke test also by what chance makes of the `changed` queries that won or lost their place
    (McNemar's test at 1 %): with 100 images two answers that were tied are already two points.
    """
    chance = CHANCE * math.sqrt(changed) / queries if smoke else 0.0
    return max(limit, 1 / queries, chance) + _ROUNDING


def _doubt(precision: str, towers: Mapping[str, TowerAgreement], reporter: Reporter) -> None:
    bar = CENTRED_WARNING.get(precision, -1.0)
    for name, tower in towers.items():
        if tower.centred_min_cosine is not None and tower.centred_min_cosine < bar:
            reporter.warn(
                f"{precision}: the {name} tower's lowest centred cosine is {number(tower.centred_min_cosine)}, under {bar}"
            )


def _title(result: PrecisionParity) -> str:
    return f"{result.precision} on {result.provider}"


def _summary(failures: Sequence[str]) -> str:
    more = f" (and {len(failures) - 1} more, see parity.json)" if len(failures) > 1 else ""
    return failures[0] + more
