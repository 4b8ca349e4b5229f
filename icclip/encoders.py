"""From what the user calls a checkpoint to something that encodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config import EvalConfig, ModelConfig, Precision
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder, ExportTargetSpec, OpenRequest
from icclip.runtime.providers import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRequest:
    """What to open and how to run it; the middle is for checkpoints alone, the end for bundles alone."""

    checkpoint: str
    """A run directory, a transformers directory, a hub id or an exported bundle."""

    revision: str | None = None
    device: str | None = None
    precision: Precision = "fp32"
    workers: int | None = None
    trust_remote_code: bool = False

    bundle_precision: str | None = None
    provider: Provider | None = None
    threads: int | None = None

    @classmethod
    def of(cls, config: EvalConfig) -> EncoderRequest:
        """What an evaluation opens."""
        return cls(
            checkpoint=config.checkpoint,
            revision=config.revision,
            device=config.device,
            precision=config.precision,
            workers=config.workers,
            trust_remote_code=config.trust_remote_code,
            bundle_precision=config.bundle_precision,
            provider=config.provider,
        )


def open_encoder(registry: Registry, request: EncoderRequest, reporter: Reporter) -> Encoder:
    """Open whatever kind of checkpoint it is.

    Raises:
        UsageError: it is not there, cannot be used as it is, or an option is for the other kind.
    """
    target = registry.target_of(Path(request.checkpoint), reporter.warn)
    if target is not None:
        return _open_exported(target, request, reporter)
    if request.bundle_precision or request.provider or request.threads:
        given = "--precision, --provider and --threads"
        raise UsageError(f"{request.checkpoint} is no bundle: leave out {given}, or export it first")
    from icclip.models.encoder import TorchEncoder
    from icclip.models.opening import open_model

    model = ModelConfig(name=request.checkpoint, revision=request.revision, trust_remote_code=request.trust_remote_code)
    return TorchEncoder(
        open_model(registry, model),
        device=request.device,
        precision=request.precision,
        workers=request.workers,
        reporter=reporter,
    )


def _open_exported(target: ExportTargetSpec, request: EncoderRequest, reporter: Reporter) -> Encoder:
    if request.precision != "fp32" or request.device:
        raise UsageError(
            f"{request.checkpoint} is a bundle: give --precision and --provider, not --fp16, --bf16, --device"
        )
    return target.open(
        OpenRequest(
            path=Path(request.checkpoint),
            precision=request.bundle_precision,
            provider=request.provider,
            threads=request.threads,
            reporter=reporter,
        )
    )
