"""Open what the user names as a checkpoint, so that it can encode."""

from __future__ import annotations

from pathlib import Path

from icclip.bundles.manifest import library_of
from icclip.config import EncoderConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.hub import bundle_or_record
from icclip.plugins.registry import Registry
from icclip.plugins.specs import Encoder, ExportTargetSpec, OpenRequest


def open_encoder(registry: Registry, config: EncoderConfig, reporter: Reporter) -> Encoder:
    """Open a checkpoint of any kind.

    Raises:
        UsageError: the checkpoint does not exist or cannot be used, or an option is for another kind of checkpoint.
    """
    path = bundle_or_record(config.checkpoint, config.revision) or Path(config.checkpoint)
    target = registry.target_of(path, reporter.warn)
    if target is not None:
        return _open_exported(target, path, config, reporter)
    if library := library_of(path):
        raise UsageError(
            f"{config.checkpoint} is a bundle that runs in {library}, for which no export target is installed"
        )
    if config.provider or config.threads:
        raise UsageError(f"{config.checkpoint} is not a bundle: leave out --provider and --threads, or export it first")
    model = ModelConfig(name=config.checkpoint, revision=config.revision, trust_remote_code=config.trust_remote_code)
    return open_in_torch(registry, model, config, reporter)


def open_in_torch(registry: Registry, model: ModelConfig, config: EncoderConfig, reporter: Reporter) -> Encoder:
    """Open a model that runs in PyTorch.

    Args:
        registry: knows the models.
        model: names it.
        config: says where and how it runs; its checkpoint does not count.
        reporter: shows the progress.

    Raises:
        UsageError: the model does not exist or cannot be used.
    """
    from icclip.models.allocator import keep_freed_memory
    from icclip.models.encoder import TorchEncoder
    from icclip.models.opening import open_model

    keep_freed_memory()
    return TorchEncoder(
        open_model(registry, model),
        device=config.device,
        precision=config.autocast,
        workers=config.workers,
        reporter=reporter,
    )


def _open_exported(target: ExportTargetSpec, path: Path, config: EncoderConfig, reporter: Reporter) -> Encoder:
    here = path == Path(config.checkpoint)
    if config.device or (config.revision and here):
        raise UsageError(f"{config.checkpoint} is a bundle: give --provider, and leave out --device and --revision")
    return target.open(
        OpenRequest(
            path=path,
            precision=config.precision,
            provider=config.provider,
            threads=config.threads,
            reporter=reporter,
        )
    )
