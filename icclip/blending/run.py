"""Mix a fine-tuned model with the one it was trained from; the share is chosen on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import BlendConfig, DatasetConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import GateError, UsageError
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
    from icclip.plugins.specs import Encoder


SPLIT = "validation"
"""The split that the share is chosen on; never the test split, because a number used for a choice no longer measures it."""

ROUNDING = 1e-9
"""Points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendResult:
    """The mixture that was written, and how it was chosen."""

    output_dir: Path
    alpha: float | None
    """The share of the fine-tuned model; None if every mixture forgets too much, and nothing was written."""
    rsums: Mapping[float, float]
    """Alpha -> rsum on the validation split; empty if there was nothing to choose."""
    top1s: Mapping[float, float] = field(default_factory=dict)
    """Alpha -> zero-shot top-1, from 0 to 1, that of alpha 0 included; empty if forgetting was not measured."""
    limit: float | None = None
    """By how many points top-1 may be lower than that of alpha 0."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        written = None if self.alpha is None else str(self.output_dir)
        limit = {} if self.limit is None else {"forget_at_most": self.limit}
        return {"output_dir": written, "alpha": self.alpha, "validation": self.tried(), **limit}

    def tried(self) -> list[dict[str, float]]:
        """What was measured of each mixture."""
        found = {"rsum": self.rsums, "top1": self.top1s}
        return [
            {"alpha": alpha, **{name: values[alpha] for name, values in found.items() if alpha in values}}
            for alpha in sorted({*self.rsums, *self.top1s})
        ]

    def renderables(self) -> Iterable[RenderableType]:
        """A table with a row for each mixture that was measured."""
        return [blend_table(str(self.output_dir), self.rsums, self.alpha, self.top1s, self.limit)]

    def verdict(self) -> None:
        """Raise GateError if every mixture forgets more than it may."""
        if self.alpha is None:
            least = max((alpha for alpha in self.top1s if alpha), key=lambda alpha: points_moved(self.top1s, alpha))
            raise GateError(
                f"every mixture forgets more than --forget-at-most {self.limit:g} allows: the best one, alpha {least:g}, has a "
                f"zero-shot top-1 {-points_moved(self.top1s, least):.2f} points lower than that of alpha 0; nothing was "
                "written; add smaller shares to --alphas, or allow more"
            )


def points_moved(top1s: Mapping[float, float], alpha: float) -> float:
    """By how many points the zero-shot top-1 of a mixture is higher than that of alpha 0; negative if it is lower."""
    return 100 * (top1s[alpha] - top1s[0.0])


def chosen(
    alphas: Iterable[float], rsums: Mapping[float, float], top1s: Mapping[float, float], limit: float | None
) -> float | None:
    """The share with the best rsum among those that forget at most `limit` points; the lowest of equal ones."""
    # 1 of 100 images is one point, which floats make a little more or less.
    fitting = [one for one in sorted(alphas) if limit is None or -points_moved(top1s, one) <= limit + ROUNDING]
    return max(fitting, key=lambda alpha: rsums.get(alpha, 0.0), default=None)


def blend(config: BlendConfig, registry: Registry, reporter: Reporter) -> BlendResult:
    """Write the best mixture of two models as a checkpoint that can be evaluated and exported.

    If mixtures have the same rsum, the one nearest to the other model is kept. If forgetting is limited and no mixture
    keeps to the limit, nothing is written, and the result's verdict says so.

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
    found = _measure(mixture, config, _scores(config, run, registry, reporter), reporter)
    rsums, top1s = found.get("rsum", {}), found.get("top1", {})
    best = chosen(config.alphas, rsums, top1s, config.forget_at_most)
    result = BlendResult(
        output_dir=config.output_dir, alpha=best, rsums=rsums, top1s=top1s, limit=config.forget_at_most
    )
    if best is None:
        return result
    with atomic_directory(config.output_dir) as staging:
        mixture.at(best).save(staging)
        write_record(staging, _record(config, run, mixture, result, registry))
    kept = f"wrote {config.output_dir}: {best:g} of {config.checkpoint}, the rest {config.other.name}"
    reporter.note(kept + (f"; zero-shot top-1 {points_moved(top1s, best):+.2f} points" if top1s else ""))
    return result


def _refuse_existing(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} already exists: choose another --output-dir")


def _scores(
    config: BlendConfig, run: RunDirectory, registry: Registry, reporter: Reporter
) -> dict[str, Callable[[Encoder], float]]:
    """What each mixture is measured by: `rsum` if there is data, and `top1` if forgetting is limited."""
    found: dict[str, Callable[[Encoder], float]] = {}
    if config.data is not None:
        warn_of_leaks(registry, run, config.data, reporter)
        found["rsum"] = _rsum_on(config.data, config, registry, reporter)
    if config.zero_shot is not None:
        warn_of_leaks(registry, run, config.zero_shot, reporter)
        found["top1"] = _top1_on(config.zero_shot, config, registry, reporter)
    return found


def _rsum_on(
    data: DatasetConfig, config: BlendConfig, registry: Registry, reporter: Reporter
) -> Callable[[Encoder], float]:
    from icclip.data.gallery import load_gallery
    from icclip.evaluating.run import evaluate_split

    gallery = load_gallery(registry, data, SPLIT, reporter)
    relevance = gallery.relevance()

    def score(encoder: Encoder) -> float:
        metrics = evaluate_split(encoder, gallery.images, relevance, image_batch=config.eval_bs, bootstrap=0)
        return float(metrics["rsum"])

    return score


def _top1_on(
    data: DatasetConfig, config: BlendConfig, registry: Registry, reporter: Reporter
) -> Callable[[Encoder], float]:
    from icclip.retrieval.classification import class_metrics
    from icclip.zero_shot.classes import open_classes
    from icclip.zero_shot.measuring import class_ranks
    from icclip.zero_shot.prompts import templates_in

    templates = templates_in(config.templates)
    classes = open_classes(registry, data, SPLIT, reporter)
    silent = Reporter(silent=True)

    def score(encoder: Encoder) -> float:
        ranks = class_ranks(encoder, classes, templates, silent, image_batch=config.eval_bs)
        return class_metrics(ranks)["top1"]

    return score


def _measure(
    mixture: Blend, config: BlendConfig, scores: Mapping[str, Callable[[Encoder], float]], reporter: Reporter
) -> dict[str, dict[float, float]]:
    """Score -> alpha -> value; that of alpha 0 is what forgetting is measured from."""
    if not scores:
        return {}
    from icclip.models.encoder import TorchEncoder

    found: dict[str, dict[float, float]] = {name: {} for name in scores}
    alphas = sorted({*config.alphas, *([0.0] if "top1" in scores else [])})
    with reporter.progress("alphas", len(alphas)) as advance:
        for alpha in alphas:
            encoder = TorchEncoder(
                mixture.at(alpha),
                device=config.encoder.device,
                precision=config.encoder.autocast,
                workers=config.encoder.workers,
            )
            for name, score in scores.items():
                if alpha in config.alphas or name == "top1":
                    found[name][alpha] = score(encoder)
            advance(1)
    return found


def _chosen_on(data: DatasetConfig | None, registry: Registry) -> str | None:
    return None if data is None else f"{dataset_identity(registry, data)}, {SPLIT}, by rsum"


def _forgetting(config: BlendConfig, registry: Registry) -> dict[str, Any]:
    """What the choice was limited by; empty if it was not."""
    if config.zero_shot is None:
        return {}
    limit = {"dataset": dataset_identity(registry, config.zero_shot), "at_most": config.forget_at_most}
    return {"forgetting": limit}


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
        "validation": result.tried(),
        **_forgetting(config, registry),
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
