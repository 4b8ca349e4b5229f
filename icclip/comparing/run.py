"""One comparison, from saved ranks to a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.comparing.request import measured_as, ranks_of
from icclip.config import CompareConfig
from icclip.console import Reporter
from icclip.errors import DataError, GateError, UsageError
from icclip.plugins.registry import Registry
from icclip.report.comparison import comparison_lines, comparison_table, verdict_line
from icclip.retrieval.comparison import Change, compare, corrected
from icclip.retrieval.queries import hits_of
from icclip.runs.ranks import RANKS, SavedRanks

if TYPE_CHECKING:
    from rich.console import RenderableType

SAME = ("split", "relevance", "fingerprint")
"""What two files of ranks must have in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every model against the first."""

    models: Sequence[str]
    about: Mapping[str, Any]
    """The data: `dataset`, `split`, `relevance`, `images`, `texts`."""
    changes: Sequence[Mapping[str, Change]]
    """For each model but the first: metric -> change."""
    layout: str = "table"
    fail_below: float | None = None
    picture: Path | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        compared = [
            {"model": model, "with": self.models[0], "verdict": verdict_line(self.models[0], model, changes),
             "metrics": {key: {**dataclasses.asdict(change), "significant": change.significant} for key, change in changes.items()}}
            for model, changes in zip(self.models[1:], self.changes, strict=True)
        ]  # fmt: skip
        return {**self.about, "comparisons": compared, "picture": None if self.picture is None else str(self.picture)}

    def renderables(self) -> Iterable[RenderableType]:
        """A table and a sentence for each model, or the same as Markdown or LaTeX."""
        if self.layout != "table":
            return comparison_lines(self.models, self.changes, self.layout)
        return [part for model, changes in zip(self.models[1:], self.changes, strict=True)
                for part in comparison_table(self.models[0], model, changes)]  # fmt: skip

    def verdict(self) -> None:
        """Raise GateError if a model loses more rsum than `fail_below` allows."""
        if self.fail_below is None:
            return
        for model, changes in zip(self.models[1:], self.changes, strict=True):
            lost = changes["rsum"].difference
            if lost < self.fail_below:
                raise GateError(
                    f"{model} has an rsum {abs(lost):.2f} points {'lower' if lost < 0 else 'higher'} than "
                    f"{self.models[0]}, a difference of {lost:+.2f}, and --fail-below asks for {self.fail_below:g} at least"
                )


def compare_models(
    config: CompareConfig, data: Mapping[str, Any], registry: Registry, reporter: Reporter
) -> Comparison:
    """Compare every model with the first.

    Args:
        config: the request.
        data: fields of DatasetConfig, as the user gave them; empty: each model's own data.
        registry: knows the datasets and models.
        reporter: shows the progress of what has to be measured.

    Raises:
        UsageError: a model cannot be measured, or two were measured on different data.
    """
    ranks = [ranks_of(model, config, data, registry, reporter) for model in config.models]
    refuse_different_data(config.models, ranks)
    first, *others = [hits_of(one.i2t, one.t2i, one.about["kinds"]) for one in ranks]
    options = {"resamples": config.bootstrap, "flips": config.flips, "seed": config.seed}
    try:
        changes = corrected([compare(first, other, **options) for other in others])
    except ValueError as error:
        raise DataError(f"{config.models[0]} and the others answer different queries: {error}") from error
    if config.picture is not None:
        _draw(config, data, ranks, registry, reporter)
    about = {key: ranks[0].about.get(key) for key in ("dataset", "split", "relevance", "images", "texts")}
    return Comparison(
        models=config.models, about=about, changes=changes, layout=config.layout, fail_below=config.fail_below,
        picture=config.picture,
    )  # fmt: skip


def refuse_different_data(models: Sequence[str], ranks: Sequence[SavedRanks]) -> None:
    """Raises DataError where two were measured on different splits, data or right answers."""
    for model, other in zip(models[1:], ranks[1:], strict=True):
        for key in SAME:
            mine, theirs = ranks[0].about.get(key), other.about.get(key)
            if mine != theirs:
                what = "other images or captions" if key == "fingerprint" else f"{key} {theirs}, not {mine}"
                raise DataError(
                    f"{model} was measured on {what} ({other.about.get('dataset')}) than {models[0]} "
                    f"({ranks[0].about.get('dataset')}): measure both on the same data with --dataset"
                )


def _draw(
    config: CompareConfig, data: Mapping[str, Any], ranks: Sequence[SavedRanks], registry: Registry, reporter: Reporter
) -> None:
    from icclip.data.gallery import load_gallery
    from icclip.files import atomic_write_bytes
    from icclip.report.changes import changes_sheet, encoded_picture

    assert config.picture is not None
    model = next((one for one in config.models if not one.endswith(RANKS)), None)
    if model is None and data.get("name") is None:
        raise UsageError("--picture shows images, and saved ranks hold none: give --dataset as well")
    request = measured_as(model or config.models[0], config, data, registry)
    gallery = load_gallery(registry, request.data, config.split, reporter)
    if gallery.fingerprint() != ranks[0].about.get("fingerprint"):
        raise DataError(f"{gallery.label} is not what {config.models[0]} was measured on: give --dataset")
    sheet = changes_sheet(gallery.images, gallery.captions, (ranks[0].t2i, ranks[1].t2i), config.models[:2])
    atomic_write_bytes(config.picture, encoded_picture(sheet, config.picture.suffix))
    reporter.note(f"wrote {config.picture}")
