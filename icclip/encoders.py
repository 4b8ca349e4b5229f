"""From what the user calls a checkpoint to something that encodes."""

from __future__ import annotations

from pathlib import Path

from icclip.config import EncoderConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder, ExportTargetSpec, OpenRequest


def open_encoder(registry: Registry, request: EncoderConfig, reporter: Reporter) -> Encoder:
    """Open whatever kind of checkpoint it is.

    Raises:
        UsageError: it is not there, cannot be used as it is, or an option is for the other kind.
    """
    target = registry.target_of(Path(request.checkpoint), reporter.warn)
    if target is not None:
        return _open_exported(target, request, reporter)
    if request.provider or request.threads:
        raise UsageError(
            f"{request.checkpoint} is not a bundle: leave out --provider and --threads, or export it first"
        )
    from icclip.models.encoder import TorchEncoder
    from icclip.models.opening import open_model

    model = ModelConfig(name=request.checkpoint, revision=request.revision, trust_remote_code=request.trust_remote_code)
    return TorchEncoder(
        open_model(registry, model),
        device=request.device,
        precision=request.autocast,
        workers=request.workers,
        reporter=reporter,
    )


def _open_exported(target: ExportTargetSpec, request: EncoderConfig, reporter: Reporter) -> Encoder:
    if request.device or request.revision:
        raise UsageError(f"{request.checkpoint} is a bundle: give --provider, and leave out --device and --revision")
    return target.open(
        OpenRequest(
            path=Path(request.checkpoint),
            precision=request.precision,
            provider=request.provider,
            threads=request.threads,
            reporter=reporter,
        )
    )
