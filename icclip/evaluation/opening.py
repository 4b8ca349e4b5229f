"""From what the user calls a checkpoint to something that encodes."""

from __future__ import annotations

from pathlib import Path

from icclip.config import EvalConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.registry import Registry
from icclip.runtime.manifest import is_bundle
from icclip.specs import Encoder


def open_encoder(registry: Registry, config: EvalConfig, reporter: Reporter) -> Encoder:
    """Open a run directory, a transformers directory, a hub id or an exported bundle.

    Raises:
        UsageError: it is not there, cannot be used as it is, or an option is for the other kind.
    """
    if is_bundle(Path(config.checkpoint)):
        return _open_bundle(config, reporter)
    if config.bundle_precision or config.provider:
        raise UsageError(f"{config.checkpoint} is no bundle: leave out --precision and --provider, or export it first")
    from icclip.models.encoder import TorchEncoder
    from icclip.models.opening import open_model

    model = ModelConfig(name=config.checkpoint, revision=config.revision, trust_remote_code=config.trust_remote_code)
    return TorchEncoder(
        open_model(registry, model),
        device=config.device,
        precision=config.precision,
        workers=config.workers,
        reporter=reporter,
    )


def _open_bundle(config: EvalConfig, reporter: Reporter) -> Encoder:
    from icclip.runtime import Encoder as BundleEncoder

    if config.precision != "fp32" or config.device:
        raise UsageError(
            f"{config.checkpoint} is a bundle: give --precision and --provider, not --fp16, --bf16, --device"
        )
    return BundleEncoder.open(
        config.checkpoint, config.bundle_precision, config.provider, tf32=False, reporter=reporter
    )
