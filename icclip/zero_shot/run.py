"""One zero-shot measurement, from a model and a folder per class to a file of metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icclip import __version__
from icclip.config import EvalConfig
from icclip.console import Reporter
from icclip.encoders import open_encoder
from icclip.evaluating.request import recorded, warn_of_leaks
from icclip.evaluating.run import output_directory, subject
from icclip.naming import public_name
from icclip.plugins.registry import Registry
from icclip.report.zero_shot import against_parts, classes_table, domain_line, verdict_line, zero_shot_table
from icclip.retrieval import bootstrap as intervals
from icclip.retrieval.classification import (
    ClassRanks,
    class_changes,
    class_intervals,
    class_metrics,
    class_results,
)
from icclip.retrieval.comparison import Change
from icclip.runs.results import metric_path, refuse_other_numbers, write_metrics
from icclip.zero_shot.classes import ClassSet, open_classes
from icclip.zero_shot.domain import gain_in_domain
from icclip.zero_shot.measuring import class_ranks, doubts
from icclip.zero_shot.prompts import templates_in
from icclip.zero_shot.request import Opponent, opponent

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """What a zero-shot measurement found."""

    metrics: Mapping[str, Any]
    """The content of the result file: the metrics, `confidence_95`, `classes`, `against` and `about`."""
    title: str
    """The name of the dataset and of the split."""
    checkpoint: str
    """The model, as it was named."""
    other: Opponent | None = None
    changes: Mapping[str, Change] = field(default_factory=dict)
    """Metric -> change from the other model; empty if there is none."""

    def to_mapping(self) -> Mapping[str, Any]:
        """The content of the result file."""
        return self.metrics

    def renderables(self) -> Iterable[RenderableType]:
        """The metrics, the worst classes and the comparison."""
        parts: list[RenderableType] = [zero_shot_table(self.metrics, self.title), *classes_table(self.metrics)]
        if self.other is not None:
            names = self.other.name, self.checkpoint
            parts += against_parts(names, self.changes, self.metrics["against"].get("in_domain"), base=self.other.base)
        return parts

    def verdict(self) -> None:
        """A measurement always succeeds, because it has no threshold to miss."""


def measure_zero_shot(config: EvalConfig, registry: Registry, reporter: Reporter) -> ZeroShot:
    """Classify the images of a folder per class by the names of their classes, and write the metrics.

    Raises:
        UsageError: something that the user can correct: a name, a path, the data, a template, or what blocks the
            result file.
    """
    templates = templates_in(config.templates)
    run = recorded(config.checkpoint, config.encoder.revision)
    other = opponent(registry, config, run)
    directory = output_directory(registry, run, config)
    path = metric_path(directory, f"{config.split}_zero_shot")
    about = subject(registry, config, directory)
    del about["relevance"]
    refuse_other_numbers(path, about)
    warn_of_leaks(registry, run, config.data, reporter)
    classes = open_classes(registry, config.data, config.split, reporter)
    found, description = _measured(config, registry, reporter, classes=classes, templates=templates, path=path)
    metrics = zero_shot_metrics(found, classes.names, resamples=config.bootstrap, seed=config.seed)
    for doubt in doubts(found):
        reporter.warn(doubt)
    changes: dict[str, Change] = {}
    if other is not None:
        reporter.note(f"measuring {other.name}")
        theirs = class_ranks(other.open(reporter), classes, templates, reporter, image_batch=config.eval_bs)
        changes = class_changes(theirs, found, resamples=config.bootstrap, seed=config.seed)
        domain = gain_in_domain(run, config.checkpoint) if other.base else None
        metrics["against"] = comparison(config.checkpoint, other, changes, domain)
    about |= {"templates": list(templates), "encoder": description, "icclip": __version__}
    about |= {"fingerprint": classes.gallery.fingerprint()}
    about = write_metrics(path, metrics, about)
    reporter.note(f"wrote {path}")
    return ZeroShot(
        metrics={**metrics, "about": about}, title=classes.gallery.label, checkpoint=config.checkpoint, other=other,
        changes=changes,
    )  # fmt: skip


def _measured(
    config: EvalConfig,
    registry: Registry,
    reporter: Reporter,
    *,
    classes: ClassSet,
    templates: Sequence[str],
    path: Path,
) -> tuple[ClassRanks, str]:
    """What the model found, and the description of its encoder, which is closed before another is opened."""
    encoder = open_encoder(registry, config.encoder, reporter)
    source = "icclip's own; --templates gives others" if config.templates is None else config.templates
    rows = {
        "model": config.checkpoint,
        "runs as": encoder.description,
        "data": f"{classes.gallery.label}: {classes.size}",
        "prompts": f"{len(templates)} for each class ({source})",
        "result": path,
    }
    reporter.header(rows)
    return class_ranks(encoder, classes, templates, reporter, image_batch=config.eval_bs), encoder.description


def zero_shot_metrics(
    found: ClassRanks, names: Sequence[str], *, resamples: int = 1000, seed: int = 42
) -> dict[str, Any]:
    """The metrics with their intervals, and the result of every class, the worst first.

    Args:
        found: the classification.
        names: the names of the classes.
        resamples: number of resamples behind `confidence_95`; 0 leaves that key out.
        seed: seed of the resamples.
    """
    metrics: dict[str, Any] = {**class_metrics(found), "n_images": len(found), "n_classes": found.n_classes}
    if resamples:
        metrics[intervals.KEY] = class_intervals(found, resamples=resamples, seed=seed)
    metrics["classes"] = {
        names[one.number]: {
            "n_images": one.images,
            "top1": one.top1,
            "taken_for": None if one.taken_for is None else names[one.taken_for],
            "share": one.share,
        }
        for one in class_results(found)
    }
    return metrics


def comparison(
    checkpoint: str, other: Opponent, changes: Mapping[str, Change], domain: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The differences from another model as plain values, with the verdict in words."""
    names = public_name(other.name), public_name(checkpoint)
    told = verdict_line(names, changes, base=other.base)
    content: dict[str, Any] = {"model": names[0], "base": other.base, "verdict": told}
    content["metrics"] = {
        key: {**dataclasses.asdict(change), "significant": change.significant} for key, change in changes.items()
    }
    return content if domain is None else {**content, "in_domain": dict(domain), "gain": domain_line(domain)}
