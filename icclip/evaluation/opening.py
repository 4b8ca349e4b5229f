"""From what the user calls a checkpoint to something that encodes."""

from __future__ import annotations

from icclip.config import EvalConfig, ModelConfig
from icclip.console import Reporter
from icclip.registry import Registry
from icclip.specs import Encoder


def open_encoder(registry: Registry, config: EvalConfig, reporter: Reporter) -> Encoder:
    """Open a run directory, a transformers directory or a hub id.

    Raises:
        UsageError: it is not there, or cannot be used as it is.
    """
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
