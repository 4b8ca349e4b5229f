"""The gate: the checkpoint in torch and the bundle in onnxruntime, on the same real images and captions.

Each side does everything itself, from the decoded image and the raw text on. The results are
compared three times: embeddings (raw and centred cosines, single components), rankings (answers that
changed) and retrieval (recall). A precision passes if every number is within its limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.parity_record import ParityRecord, PrecisionParity, Thresholds, captions_fingerprint
from icclip.console import Reporter
from icclip.errors import CheckpointError
from icclip.retrieval.agreement import RankingAgreement, TowerAgreement, ranking_agreement, tower_agreement
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.relevance import Relevance
from icclip.runtime.cpu import integer_kind
from icclip.runtime.providers import Provider
from icclip_export.gate.checks import (
    ENOUGH_IMAGES,
    Requirement,
    number,
    provider_checks,
    ranking_checks,
    recall_checks,
    scoring_checks,
    small_batch_checks,
    tower_checks,
)
from icclip_export.gate.comparison import Compared, Embeddings, Reference, Scoring
from icclip_export.gate.probes import probe_checks
from icclip_export.precisions import precision as find_precision

if TYPE_CHECKING:
    from icclip.runtime import Encoder as BundleEncoder

_QUIET = Reporter(silent=True)


def check_precision(
    reference: Reference,
    open_candidate: Callable[[str], BundleEncoder],
    precision: str,
    *,
    limits: Thresholds,
    provider: Provider | None = None,
    reporter: Reporter = _QUIET,
) -> PrecisionParity:
    """Hold one precision of a bundle to its limits.

    Args:
        reference: the data, and the checkpoint's embeddings of it.
        open_candidate: a function that opens the bundle in a precision; if it raises CheckpointError, the gate fails.
        precision: the precision to open.
        limits: the limits of the precision.
        provider: the provider that must run; None accepts the one that the candidate chooses.
        reporter: shows warnings about results that pass but are doubtful.

    Raises:
        DataError: an image cannot be decoded.
        UsageError: the provider is not available.
    """
    runs_on: str = provider or "unknown"
    try:
        encoder = open_candidate(precision)
        runs_on = asked = provider or encoder.choice.provider
        found = Embeddings.of(encoder, reference.data)
        _check_usable(reference.embeddings, found, reference.data)
        small_batches, moved = small_batch_checks(encoder, reference.embeddings, reference.data, limits)
        probed, probes = _probed(encoder, reference, limits)
    except CheckpointError as error:
        return _does_not_run(precision, runs_on, limits, error)
    towers, rankings = _agreements(reference.embeddings, found, reference.data.relevance)
    _doubt(precision, towers, reporter)
    ranks = found.ranks(reference.data.relevance)
    recall = list(recall_checks(reference.ranks, ranks, limits))
    checks = [
        *provider_checks(encoder, asked),
        *scoring_checks(reference.scoring, Scoring.of_manifest(encoder.manifest)),
        *tower_checks("vision", towers["vision"], limits, reference.data.image_name),
        *tower_checks("text", towers["text"], limits, reference.data.text_name),
        *small_batches,
        *probed,
        *ranking_checks(rankings, limits),
        *recall,
    ]
    return PrecisionParity(
        precision=precision,
        provider=asked,
        passed=all(check.passed for check in checks),
        thresholds=limits,
        metrics=retrieval_metrics(ranks),
        recall_limits={check.name.replace(".", "_"): check.limit for check in recall},
        measured={
            "checks": [check.to_mapping() for check in checks],
            "towers": {name: dataclasses.asdict(tower) for name, tower in towers.items()},
            "rankings": {name: dataclasses.asdict(ranking) for name, ranking in rankings.items()},
            "neighbours": moved,
            "probes": probes,
            # In int8, other CPUs compute with other kernels.
            "cpu": integer_kind(),
        },
        failures=tuple(check.line for check in checks if not check.passed),
    )


def _does_not_run(precision: str, provider: str, limits: Thresholds, error: CheckpointError) -> PrecisionParity:
    return PrecisionParity(
        precision=precision,
        provider=provider,
        passed=False,
        thresholds=limits,
        metrics={},
        measured={"checks": [{"name": "runs", "passed": False}]},
        failures=(f"does not run: {error}",),
    )


def parity_record(
    reference: Reference, results: Iterable[PrecisionParity], *, dataset: str, split: str, seed: int
) -> ParityRecord:
    """Make the record of what was compared, with the result of every precision."""
    captions = reference.data.captions
    return ParityRecord(
        dataset=dataset,
        split=split,
        n_images=captions.n_images,
        n_texts=captions.n_texts,
        seed=seed,
        smoke=captions.n_images < ENOUGH_IMAGES,
        fingerprint=captions_fingerprint(captions),
        relevance=reference.data.relevance.protocol,
        reference=retrieval_metrics(reference.ranks),
        results=tuple(results),
    )


def _probed(
    encoder: BundleEncoder, reference: Reference, limits: Thresholds
) -> tuple[list[Requirement], dict[str, Any]]:
    return ([], {}) if reference.probes is None else probe_checks(encoder, reference.probes, limits)


def _check_usable(known: Embeddings, found: Embeddings, data: Compared) -> None:
    if (known.images.shape, known.texts.shape) != (found.images.shape, found.texts.shape):
        raise CheckpointError(
            f"its embeddings have {found.images.shape[1]} and {found.texts.shape[1]} values, "
            f"but the checkpoint's have {known.images.shape[1]}"
        )
    for rows, called in ((found.images, data.image_name), (found.texts, data.text_name)):
        broken = ~np.isfinite(rows).all(axis=1)
        if broken.any():
            raise CheckpointError(
                f"{broken.sum()} of {len(rows)} embeddings are not finite; the first is that of {called(int(broken.argmax()))}"
            )


def _agreements(
    known: Embeddings, found: Embeddings, relevance: Relevance
) -> tuple[dict[str, TowerAgreement], dict[str, RankingAgreement]]:
    """Compare embeddings and rankings; copies are ranked once, so that ten answers are ten different ones."""
    towers = {
        "vision": tower_agreement(known.images, found.images),
        "text": tower_agreement(known.texts, found.texts),
    }
    images, texts = relevance.images.first, relevance.texts.first
    before, now = ((own.images[images], own.texts[texts]) for own in (known, found))
    rankings = {"i2t": ranking_agreement(before, now), "t2i": ranking_agreement(before[::-1], now[::-1])}
    return towers, rankings


def _doubt(precision: str, towers: Mapping[str, TowerAgreement], reporter: Reporter) -> None:
    bar = find_precision(precision).doubtful_below
    if bar is None:
        return
    for name, tower in towers.items():
        if tower.centred_min_cosine is not None and tower.centred_min_cosine < bar:
            reporter.warn(
                f"{precision}: the {name} tower's lowest centred cosine is {number(tower.centred_min_cosine)}, under {bar}"
            )
