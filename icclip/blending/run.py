"""Mix a fine-tuned model with the one it was trained from; the share is chosen on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import BlendConfig, DatasetConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.evaluating.request import dataset_identity, warn_of_leaks
from icclip.files import atomic_directory
from icclip.plugins.registry import Registry
from icclip.report.blend import blend_table
from icclip.runs.claim import claim_beside, claimed
from icclip.runs.directory import RunDirectory
from icclip.runs.record import write_record

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icclip.blending.mixture import Blend


SPLIT = "validation"
"""The split that the share is chosen on; never the test split, because a number used for a choice no longer measures it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendResult:
    """The mixture that was written, and how it was chosen."""

    output_dir: Path
    alpha: float
    """The share of the fine-tuned model."""
    rsums: Mapping[float, float]
    """Alpha -> rsum on the validation split; empty if there was nothing to choose."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tried = [{"alpha": alpha, "rsum": rsum} for alpha, rsum in self.rsums.items()]
        return {"output_dir": str(self.output_dir), "alpha": self.alpha, "validation": tried}

    def renderables(self) -> Iterable[RenderableType]:
        """A table with a row for each mixture that was measured."""
        return [blend_table(str(self.output_dir), self.rsums, self.alpha)]

    def verdict(self) -> None:
        """Blending always succeeds, because it has no threshold to miss."""


def blend(config: BlendConfig, registry: Registry, reporter: Reporter) -> BlendResult:
    """Write the best mixture of two models as a checkpoint that can be evaluated and exported.

    If mixtures have the same rsum, the one nearest to the other model is kept.

    Raises:
        UsageError: the output directory exists already, or a model or the data cannot be used.
        CheckpointError: the models differ in more than their weights.
    """
    with claimed(config.output_dir, claim_beside(config.output_dir), reporter.note):
        return _blend(config, registry, reporter)


def _blend(config: BlendConfig, registry: Registry, reporter: Reporter) -> BlendResult:
    from icclip.blending.mixture import Blend
    from icclip.models.opening import open_model

    _refuse_existing(config.output_dir)
    run = RunDirectory.open(config.checkpoint)
    encoder = config.encoder
    tuned = ModelConfig(
        name=encoder.checkpoint, revision=encoder.revision, trust_remote_code=config.other.trust_remote_code
    )
    mixture = Blend(open_model(registry, config.other), open_model(registry, tuned))
    rsums = _measure(mixture, config, run, registry, reporter)
    best = max(sorted(config.alphas), key=lambda alpha: rsums.get(alpha, 0.0))
    result = BlendResult(output_dir=config.output_dir, alpha=best, rsums=rsums)
    with atomic_directory(config.output_dir) as staging:
        mixture.at(best).save(staging)
        write_record(staging, _record(config, run, mixture, result, registry))
    reporter.note(f"wrote {config.output_dir}: {best:g} of {config.checkpoint}, the rest {config.other.name}")
    return result


def _refuse_existing(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} already exists: choose another --output-dir")


def _measure(
    mixture: Blend, config: BlendConfig, run: RunDirectory, registry: Registry, reporter: Reporter
) -> dict[float, float]:
    """Alpha -> rsum on the validation split; empty if there is no data."""
    if config.data is None:
        return {}
    from icclip.data.gallery import load_gallery
    from icclip.evaluating.run import evaluate_split
    from icclip.models.encoder import TorchEncoder

    warn_of_leaks(registry, run, config.data, reporter)
    gallery = load_gallery(registry, config.data, SPLIT, reporter)
    relevance, alphas, rsums = gallery.relevance(), sorted(set(config.alphas)), {}
    with reporter.progress("alphas", len(alphas)) as advance:
        for alpha in alphas:
            encoder = TorchEncoder(
                mixture.at(alpha),
                device=config.encoder.device,
                precision=config.encoder.autocast,
                workers=config.encoder.workers,
            )
            metrics = evaluate_split(encoder, gallery.images, relevance, image_batch=config.eval_bs, bootstrap=0)
            rsums[alpha] = metrics["rsum"]
            advance(1)
    return rsums


def _chosen_on(data: DatasetConfig | None, registry: Registry) -> str | None:
    return None if data is None else f"{dataset_identity(registry, data)}, {SPLIT}, by rsum"


def _record(
    config: BlendConfig, run: RunDirectory, mixture: Blend, result: BlendResult, registry: Registry
) -> dict[str, Any]:
    """The `icclip.json`: the run's own configuration, so that it is evaluated on the run's data, and the blend."""
    from icclip.runs.record import FORMAT, versions

    about = {
        "checkpoint": config.checkpoint,
        "with": config.other.to_mapping(),
        "alpha": result.alpha,
        "chosen_on": _chosen_on(config.data, registry),
        "validation": result.to_mapping()["validation"],
    }
    return {
        "format": FORMAT,
        "status": "blend",
        "config": dict(run.config),
        "versions": versions(),
        "model": mixture.loaded.describe(),
        "text_policy": dataclasses.asdict(mixture.loaded.feeder.text_policy),
        "blend": about,
    }
