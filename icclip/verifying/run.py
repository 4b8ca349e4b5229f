"""Check that a bundle still is what passed the gate: its hashes, its golden inputs and, with a dataset, its retrieval."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.golden import Golden, read_golden
from icclip.bundles.manifest import Manifest, file_problem, is_bundle, read_manifest
from icclip.bundles.parity_record import (
    ParityRecord,
    PrecisionParity,
    Thresholds,
    captions_fingerprint,
    measured_batch,
    read_parity,
    sampled_rows,
)
from icclip.config import VerifyConfig
from icclip.console import Reporter
from icclip.data.gallery import Gallery, load_gallery
from icclip.data.images import decode_image
from icclip.errors import CheckpointError, GateError, UnknownNameError, UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder, ExportTargetSpec, OpenRequest
from icclip.report.checks import checks_table
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import rank

if TYPE_CHECKING:
    from rich.console import RenderableType

_LEAST_SCORE = 1e-30
"""Scores below this cannot be told from zero in float32."""
_SAME_SCORE = 1e-4
"""Tolerance of the logarithm of a score, given the precision of float32."""


@dataclass(frozen=True, slots=True)
class BundleCheck:
    """One thing that was checked, and whether it passed."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of all checks."""

    bundle: Path
    checks: tuple[BundleCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        return {"bundle": str(self.bundle), "passed": self.passed, "checks": checks}

    def renderables(self) -> Iterable[RenderableType]:
        """A row for each check."""
        return [checks_table(self.to_mapping()["checks"], str(self.bundle))]

    def verdict(self) -> None:
        """Raise GateError if any check failed; the message names the first one and their number."""
        failed = [check for check in self.checks if not check.passed]
        if failed:
            more = f" ({len(failed)} of {len(self.checks)} checks failed)" if len(failed) > 1 else ""
            raise GateError(f"{self.bundle} does not verify: {failed[0].name}: {failed[0].detail}{more}")


def verify_bundle(
    bundle: Path,
    *,
    registry: Registry,
    precisions: Sequence[str] = (),
    provider: str | None = None,
    threads: int | None = None,
    data: Gallery | None = None,
    reporter: Reporter,
) -> Verification:
    """Check a bundle on this machine.

    Args:
        bundle: the directory that an export target wrote.
        registry: knows the export targets.
        precisions: the precisions to check; if empty, all of them.
        provider: see `OpenRequest`.
        threads: see `OpenRequest`.
        data: if given, retrieval is measured on it as well and compared with parity.json.
        reporter: shows progress and the provider that runs.

    Raises:
        CheckpointError: no export target wrote it, or it never went through the gate.
        UsageError: the precision or provider is not available, or `data` differs from what the gate measured.
    """
    target = _target(registry, bundle, reporter)
    manifest = read_manifest(bundle) if is_bundle(bundle) else None
    chosen = _chosen(bundle, manifest, target, precisions)
    checks = [] if manifest is None else list(_check_hashes(bundle, manifest, reporter))
    # A bundle with damaged files is not worth running.
    if all(check.passed for check in checks):
        parity, golden = read_parity(bundle), read_golden(bundle)
        request = OpenRequest(
            path=bundle, provider=provider, threads=threads, hashed=manifest is not None, reporter=reporter
        )
        if data is not None:
            _refuse_other_data(parity, data)
        for precision in chosen:
            gated = parity.result(precision)
            if gated is None:
                checks.append(BundleCheck(f"{precision}: gate", False, "parity.json has no result for this precision"))
                continue
            failures = "; ".join(gated.failures) or "passed"
            checks.append(BundleCheck(f"{precision}: gate", gated.passed, failures))
            encoder = target.open(dataclasses.replace(request, precision=precision))
            request = dataclasses.replace(request, reporter=_AlreadyTold(json=reporter.json, silent=reporter.silent))
            checks += _check_encoder(encoder, gated, golden, data)
    return Verification(bundle, tuple(checks))


class _AlreadyTold(Reporter):
    """Shows progress, and leaves out what the first encoder has said of its provider: it is true of all of them."""

    def note(self, message: str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""


def _target(registry: Registry, bundle: Path, reporter: Reporter) -> ExportTargetSpec:
    """The export target that wrote the bundle. Raises CheckpointError if none did."""
    target = registry.target_of(bundle, reporter.warn)
    if target is None:
        # Its error says why the directory is not a bundle.
        read_manifest(bundle)
        raise CheckpointError(f"no export target recognises {bundle}: give what `icclip export` wrote")
    return target


def _chosen(
    bundle: Path, manifest: Manifest | None, target: ExportTargetSpec, wanted: Sequence[str]
) -> tuple[str, ...]:
    """The precisions to check. Raises UnknownNameError for one that the bundle lacks."""
    held = [result.precision for result in read_parity(bundle).results] if manifest is None else manifest.precisions
    for precision in wanted:
        if precision not in held:
            raise UnknownNameError("precision", precision, held, f"of {bundle} (target {target.name})")
    return tuple(wanted or held)


def verify(config: VerifyConfig, registry: Registry, reporter: Reporter) -> Verification:
    """Check a bundle as the configuration says; see `verify_bundle`."""
    return verify_bundle(
        config.bundle,
        registry=registry,
        precisions=config.precisions,
        provider=config.encoder.provider,
        threads=config.encoder.threads,
        data=_gate_data(config, registry, reporter),
        reporter=reporter,
    )


def _gate_data(config: VerifyConfig, registry: Registry, reporter: Reporter) -> Gallery | None:
    """The split, or the sample of it, that the gate measured; None if no dataset is given.

    Raises:
        UsageError: the dataset or split is unknown or cannot be read.
    """
    if config.data is None:
        return None
    parity = read_parity(config.bundle)
    return load_gallery(
        registry,
        config.data,
        config.split or parity.split,
        reporter,
        rows=lambda total: sampled_rows(total, parity.n_images, parity.seed),
    )


def _check_hashes(bundle: Path, manifest: Manifest, reporter: Reporter) -> Iterator[BundleCheck]:
    # Opening the manifest has compared its digest; without a digest, its hashes prove nothing.
    no_digest = "icclip.json has no digest, so changes to it cannot be detected: export again"
    problems: list[str | None] = []
    with reporter.progress("hashing", len(manifest.files)) as advance:
        for name in manifest.files:
            problems.append(file_problem(bundle, manifest, name))
            advance(1)
    found = [problem for problem in (None if manifest.digest else no_digest, *problems) if problem]
    if not found:
        yield BundleCheck("files", True, f"{len(problems)} files match icclip.json")
    for problem in found:
        yield BundleCheck("files", False, problem)


def _check_encoder(
    encoder: Encoder, gated: PrecisionParity, golden: Golden, data: Gallery | None
) -> Iterator[BundleCheck]:
    where = f"{gated.precision} on {getattr(encoder, 'provider', gated.provider)}"
    try:
        yield from _check_golden(encoder, gated.thresholds, golden, where)
        yield from _check_scores(encoder, golden, where)
        if data is not None:
            yield from _check_retrieval(encoder, gated, data, where)
    except CheckpointError as error:
        yield BundleCheck(f"{where}: runs", False, str(error))


def _check_golden(encoder: Encoder, thresholds: Thresholds, golden: Golden, where: str) -> Iterator[BundleCheck]:
    # Encoded one by one, as in the gate, so that nothing depends on the other inputs of a batch.
    images = encoder.encode_images([decode_image(path, str(path)) for path in golden.images], batch_size=1)
    yield _compared(
        f"{where}: golden images", images, golden.image_embeddings, thresholds, [p.name for p in golden.images]
    )
    texts = encoder.encode_texts(golden.texts, batch_size=1)
    yield _compared(f"{where}: golden texts", texts, golden.text_embeddings, thresholds, list(golden.texts))


def _check_scores(encoder: Encoder, golden: Golden, where: str) -> Iterator[BundleCheck]:
    """Check the temperature, the bias and the kind of loss, which embeddings do not show."""
    rank_texts = getattr(encoder, "rank", None)
    widths = golden.image_embeddings.shape[1], golden.text_embeddings.shape[1]
    # Embeddings of different widths are reported by a check of their own.
    if rank_texts is None or widths[0] != widths[1]:
        return
    if golden.scores is None:
        missing = "golden/ holds no scores of the checkpoint, so another temperature cannot be seen: export again"
        yield BundleCheck(f"{where}: golden scores", False, missing)
        return
    known, texts = golden.scores, list(golden.texts)
    image = decode_image(golden.images[0], str(golden.images[0]))
    cosines = encoder.encode_texts(texts) @ encoder.encode_images([image])[0]
    moved = float(np.abs(cosines - golden.text_embeddings @ golden.image_embeddings[0]).max())
    with np.errstate(divide="ignore"):
        found = np.log(np.maximum(rank_texts(image, texts).astype(np.float64), _LEAST_SCORE))
    apart = np.abs(found - np.maximum(known.log_scores, np.log(_LEAST_SCORE)))
    # The logarithm of softmax and of sigmoid changes by at most twice the change of their arguments.
    allowed = 2 * known.factor * moved + _SAME_SCORE
    worst = int(apart.argmax())
    detail = (
        f"scores of {golden.images[0].name} differ from the checkpoint's by a factor of up to {np.exp(apart[worst]):.6g} "
        f"(at most {np.exp(allowed):.6g}) at {texts[worst][:40]!r}"
    )
    yield BundleCheck(f"{where}: golden scores", bool(apart[worst] <= allowed), detail)


def _compared(
    name: str, ours: np.ndarray, reference: np.ndarray, thresholds: Thresholds, inputs: Sequence[str]
) -> BundleCheck:
    if ours.shape != reference.shape:
        return BundleCheck(name, False, f"embeddings of shape {ours.shape}, the checkpoint gave {reference.shape}")
    cosines = np.einsum("nd,nd->n", ours, reference, dtype=np.float64)
    worst = int(cosines.argmin())
    apart = float(np.abs(ours - reference).max())
    far = thresholds.embedding_abs is not None and apart > thresholds.embedding_abs
    detail = (
        f"lowest cosine with the checkpoint {cosines[worst]:.7f} (needs {thresholds.min_cosine:.7f}) "
        f"at {inputs[worst][:40]!r}, largest difference {apart:.1e}"
    )
    return BundleCheck(name, bool(cosines[worst] >= thresholds.min_cosine) and not far, detail)


def _check_retrieval(encoder: Encoder, gated: PrecisionParity, data: Gallery, where: str) -> Iterator[BundleCheck]:
    """Check that each recall is what the gate measured, within the limits that the gate allowed."""
    batch = measured_batch(encoder)
    images = encoder.encode_images(data.images, batch_size=batch)
    texts = encoder.encode_texts(data.captions.texts, batch_size=batch)
    metrics = retrieval_metrics(rank(images, texts, data.relevance()))
    for key, allowed in gated.recall_limits.items():
        before, now = float(gated.metrics[key]), metrics[key]
        detail = f"{100 * now:.2f} %, the gate measured {100 * before:.2f} %, may differ by {100 * allowed:.2f}"
        yield BundleCheck(f"{where}: {key} on {data.label}", abs(now - before) <= allowed, detail)


def _refuse_other_data(parity: ParityRecord, data: Gallery) -> None:
    size = (data.captions.n_images, data.captions.n_texts)
    other = parity.fingerprint is not None and captions_fingerprint(data.captions) != parity.fingerprint
    if size != (parity.n_images, parity.n_texts) or other:
        raise UsageError(
            f"{data.label} ({size[0]} images, {size[1]} captions) is not what parity.json was measured on: "
            f"{parity.dataset}, split {parity.split} ({parity.n_images} images, {parity.n_texts} captions); use that data"
        )
