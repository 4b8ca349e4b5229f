"""`icclip report`: one page about one or several models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import ReportConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.evaluating.request import evaluation_data
from icclip.files import atomic_write_text
from icclip.plugins.registry import Registry
from icclip.presenting.answers import Answers
from icclip.presenting.gather import gather
from icclip.report.comparison import verdict_line
from icclip.report.page.build import page
from icclip.report.page.subject import Subject, Verdict
from icclip.retrieval.comparison import compare, corrected
from icclip.retrieval.queries import hits_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icclip.data.gallery import Gallery

SAME = ("split", "relevance", "fingerprint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written."""

    output: Path
    size: int
    """In bytes."""
    verdicts: Sequence[str] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"output": str(self.output), "bytes": self.size, "verdicts": list(self.verdicts)}

    def renderables(self) -> Iterable[RenderableType]:
        """One line, and one for each comparison."""
        return [f"{self.output}: {self.size / 1e6:.1f} MB", *self.verdicts]

    def verdict(self) -> None:
        """A report always succeeds, because it has no threshold to miss."""


def report_config(said: Mapping[str, Any]) -> ReportConfig:
    """The whole request, without the data, which is completed for each model. Raises ConfigError."""
    return ReportConfig.from_mapping({name: said[name] for name in said if name != "data"})


def report(config: ReportConfig, data: Mapping[str, Any], registry: Registry, reporter: Reporter) -> Report:
    """Write the page.

    Args:
        config: the request.
        data: fields of DatasetConfig, as the user gave them; empty: each model's own data.
        registry: knows the datasets.
        reporter: shows the progress of loading images.

    Raises:
        UsageError: a model says nothing, a file cannot be read, or the page cannot be written.
    """
    galleries: dict[str, Gallery] = {}
    subjects = []
    for model in config.models:
        one = gather(model, config)
        load = partial(_gallery, model, one, data, registry, reporter)
        subjects.append(_with_answers(one, load, galleries, config.queries, asked=data.get("name") is not None))
    subjects = _told_apart(subjects)
    verdicts = compared(subjects)
    text = page(f"Image-text retrieval: {_title([one.name for one in subjects])}", subjects, verdicts)
    atomic_write_text(config.output, text)
    return Report(output=config.output, size=len(text.encode()), verdicts=[one.sentence for one in verdicts])


def _title(names: Sequence[str]) -> str:
    """`a`; `a and b`; of more than two, how many there are."""
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"  # noqa: PLR2004


def _told_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """Names that several have get a number."""
    names = [one.name for one in subjects]
    return [
        one if names.count(one.name) == 1 else replace(one, name=f"{one.name} ({place})")
        for place, one in enumerate(subjects, 1)
    ]


def compared(subjects: Sequence[Subject]) -> list[Verdict]:
    """Every model against the first, where both have ranks of the same data."""
    first, others = subjects[0], subjects[1:]
    hits = [hits_of(one.ranks.i2t, one.ranks.t2i, one.ranks.about["kinds"]) if one.ranks else None for one in subjects]
    reasons = [_reason(first, other) for other in others]
    changes = iter(
        corrected([compare(hits[0], own) for own, reason in zip(hits[1:], reasons, strict=True)
                   if hits[0] is not None and own is not None and not reason])
    )  # fmt: skip
    found = []
    for other, reason in zip(others, reasons, strict=True):
        if reason:
            found.append(Verdict(reason))
            continue
        own = next(changes)
        found.append(Verdict(verdict_line(first.name, other.name, own), own))
    return found


def _reason(first: Subject, other: Subject) -> str:
    """Why two cannot be compared; empty where they can."""
    for one in (first, other):
        if one.ranks is None:
            return f"{other.name} cannot be compared with {first.name}: {one.name} has no saved ranks."
    assert first.ranks is not None
    assert other.ranks is not None
    if any(first.ranks.about.get(key) != other.ranks.about.get(key) for key in SAME):
        return f"{other.name} cannot be compared with {first.name}: they were measured on different data."
    return ""


def _with_answers(
    one: Subject, load: Callable[[], Gallery], galleries: dict[str, Gallery], count: int, *, asked: bool
) -> Subject:
    """With the best and worst answers, or with a note that says why there are none.

    Args:
        one: the model.
        load: reads its data.
        galleries: what was read for the models before, by fingerprint; often all were measured on the same split.
        count: how many answers.
        asked: whether the user named the data.
    """
    if one.ranks is None or not count:
        return one
    measured_on = str(one.ranks.about.get("fingerprint"))
    try:
        gallery = galleries.get(measured_on) or load()
    except UsageError as error:
        if asked:
            raise
        return replace(one, note=f"no images are shown, because its data cannot be read here ({error})")
    found = gallery.fingerprint()
    galleries[found] = gallery
    if found != measured_on:
        return replace(one, note=f"no images are shown, because {gallery.label} is not what it was measured on")
    protocol = one.ranks.about.get("relevance")
    relevance = gallery.relevance(None if protocol == gallery.counted_as else "text" if protocol == "text" else "pair")
    return replace(one, retrievals=Answers(gallery.images, relevance).of(one.ranks, count))


def _gallery(model: str, one: Subject, data: Mapping[str, Any], registry: Registry, reporter: Reporter) -> Gallery:
    from icclip.data.gallery import load_gallery

    directory = model if Path(model).is_dir() else str(Path(model).parent)
    return load_gallery(registry, evaluation_data(registry, directory, data), one.split, reporter)
