"""The sections of what `icclip eval` measures when it is asked: folds, retrieval within a modality, and zero-shot classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icclip.report.comparison import cells
from icclip.report.page.charts import interval_chart, together
from icclip.report.page.html import Html, joined, table, tag
from icclip.report.page.subject import Subject
from icclip.report.tables import CUTOFFS, DIRECTIONS, WITHIN, percent
from icclip.report.zero_shot import HEADINGS, NAMES
from icclip.retrieval.comparison import Change

WORST = 10
"""Classes that a table shows; the file of metrics has all of them."""

Measured = Mapping[str, Any]


def folds(subjects: Sequence[Subject]) -> Html:
    """Recall as the mean over folds of the split."""
    found = {
        f"{one.name}, {one.metrics['folds']['count']} folds": one.metrics["folds"]["mean"]
        for one in subjects if "folds" in one.metrics
    }  # fmt: skip
    charts = [_recalls(f"Recall, {name}, mean of folds", prefix, found) for prefix, name in DIRECTIONS.items()]
    rows: list[tuple[str, Callable[[Measured], str]]] = [
        ("images in a fold", lambda mean: f"{mean['n_images']:,.0f}"),
        ("captions in a fold", lambda mean: f"{mean['n_texts']:,.0f}"),
        ("rsum (0 to 600)", lambda mean: f"{mean['rsum']:.1f}"),
    ]
    return joined([together(*charts), _numbers("Means of folds", rows, found)])


def within(subjects: Sequence[Subject]) -> Html:
    """Retrieval of images by images, and of texts by texts."""
    measured = {one.name: one.metrics["within"] for one in subjects if "within" in one.metrics}
    charts, tables = [], []
    for prefix, name in WITHIN.items():
        found = {model: own for model, own in measured.items() if f"{prefix}_queries" in own}
        charts.append(_recalls(f"Recall, {name}", prefix, found))
        rows: list[tuple[str, Callable[[Measured], str]]] = [
            ("queries", lambda own, prefix=prefix: f"{own[f'{prefix}_queries']:,}"),  # type: ignore[misc]
            ("median rank", lambda own, prefix=prefix: f"{own[f'{prefix}_MedR']:,.4g}"),  # type: ignore[misc]
            ("mean rank", lambda own, prefix=prefix: f"{own[f'{prefix}_MeanR']:,.1f}"),  # type: ignore[misc]
        ]
        tables.append(_numbers(f"Ranks, {name}", rows, found))
    said = tag(
        "p", "A query is compared with all others of its kind, and left out itself with its copies.", class_="note"
    )
    return joined([together(*charts), tables, said]) if measured else Html("")


def zero_shot(subjects: Sequence[Subject]) -> Html:
    """Classification by the names of classes."""
    found = {one.name: one.zero_shot for one in subjects if one.zero_shot}
    rows = [
        (label, [_value(name, own, key) for name, own in found.items()]) for key, label in NAMES.items()
    ]  # fmt: skip
    facts: list[tuple[str, Callable[[Measured], str]]] = [
        ("data", lambda own: f"{own.get('about', {}).get('dataset', '')}, {own.get('about', {}).get('split', '')}"),
        ("images", lambda own: f"{own['n_images']:,}"),
        ("classes", lambda own: f"{own['n_classes']:,}"),
        ("prompts for each class", lambda own: f"{len(own.get('about', {}).get('templates', ())):,}"),
    ]
    each = [joined([_against(name, own), _worst(name, own)]) for name, own in found.items()]
    chart = interval_chart("Images recognised", rows) if found else Html("")
    return joined([together(chart), _numbers("What was classified", facts, found), each])


def _recalls(title: str, prefix: str, found: Mapping[str, Measured]) -> Html:
    rows = [(f"R@{k}", [_value(name, own, f"{prefix}_R@{k}") for name, own in found.items()]) for k in CUTOFFS]
    return interval_chart(title, rows)


def _value(name: str, measured: Measured, key: str) -> tuple[str, float, float | None, float | None]:
    low, high = measured.get("confidence_95", {}).get(key, (None, None))
    return (name, 100 * measured[key], *(None if bound is None else 100 * bound for bound in (low, high)))


def _numbers(title: str, rows: Sequence[tuple[str, Callable[[Measured], str]]], found: Mapping[str, Measured]) -> Html:
    """One column for each model; nothing if there is none."""
    if not found:
        return Html("")
    return table(title, ("", *found), [(label, *(value(own) for own in found.values())) for label, value in rows])


def _against(name: str, measured: Measured) -> Html:
    """The differences from another model, and what they say."""
    against = measured.get("against")
    if not against:
        return Html("")
    changes = {
        key: Change(**{field: value for field, value in one.items() if field != "significant"})
        for key, one in against["metrics"].items()
    }
    rows = [(label, *cells(changes[key], key)) for key, label in NAMES.items() if key in changes]
    title = f"{name} against {against['model']}, in percent; * is significant at the 5 % level"
    lines = [against["verdict"], *([against["gain"]] if "gain" in against else [])]
    return joined([[tag("p", line, class_="verdict") for line in lines], table(title, HEADINGS, rows)])


def _worst(name: str, measured: Measured) -> Html:
    """The classes of which the fewest images were recognised."""
    wrong = [(label, own) for label, own in measured["classes"].items() if own["taken_for"] is not None][:WORST]
    if not wrong:
        return Html("")
    rows = [
        (label, percent(own["top1"]), own["taken_for"], percent(own["share"]), f"{own['n_images']:,}")
        for label, own in wrong
    ]
    more = f"the {len(wrong)} worst of {measured['n_classes']:,} classes"
    return table(f"{name}: {more}", ("class", "top-1", "taken for", "share", "images"), rows)
