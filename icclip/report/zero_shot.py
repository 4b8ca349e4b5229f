"""Zero-shot classification, as tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icclip.report.comparison import cells, shown_p
from icclip.report.tables import Bar, percent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from icclip.retrieval.comparison import Change

NAMES = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class"}
HEADINGS = ("metric", "before", "now", "change", "95 % interval", "p", "detectable")
"""Of the comparison, which fits into 80 columns."""
WORST = 5
"""Classes that the table shows; the result file has all of them."""


def zero_shot_table(metrics: Mapping[str, Any], title: str) -> Table:
    """A table of the three metrics with bars and, if there are any, 95 % intervals.

    Args:
        metrics: `top1`, `top5`, `mean_per_class`, `n_images`, `n_classes` and perhaps `confidence_95`.
        title: the name of the data.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    intervals = metrics.get("confidence_95", {})
    size = f"{metrics['n_images']:,} images, {metrics['n_classes']:,} classes"
    table = Table(
        title=Text(f"{title}: {size}", style="italic"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("zero-shot", no_wrap=True)
    table.add_column("0 to 100 %")
    table.add_column("value", justify="right", no_wrap=True)
    if intervals:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    for key, name in NAMES.items():
        between = f"{100 * intervals[key][0]:.1f} .. {percent(intervals[key][1])}" if intervals else ""
        row: tuple[RenderableType, ...] = name, Bar(metrics[key]), percent(metrics[key]), between
        table.add_row(*row[: len(table.columns)])
    return table


def classes_table(metrics: Mapping[str, Any]) -> list[Table]:
    """The worst classes and what their images were taken for; nothing if every image was recognised."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    worst = [(name, own) for name, own in metrics["classes"].items() if own["taken_for"] is not None][:WORST]
    if not worst:
        return []
    table = Table(title="the worst classes", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (
        ("class", "left"),
        ("images", "right"),
        ("top-1", "right"),
        ("most often taken for", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type] # rich wants the literals
    for name, own in worst:
        taken = Text(f"{own['taken_for']} ({percent(own['share'])})")
        table.add_row(Text(name), f"{own['n_images']:,}", percent(own["top1"]), taken)
    return [table]


def against_parts(
    names: tuple[str, str], changes: Mapping[str, Change], domain: Mapping[str, Any] | None, *, base: bool
) -> Sequence[RenderableType]:
    """A table of the differences, the verdict, and the gain on the data that the model was trained for.

    Args:
        names: of the other model, and of this one.
        changes: metric -> change.
        domain: what `icclip.zero_shot.domain.gain_in_domain` found, if anything.
        base: whether the other model is the one that this one was trained from.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{names[1]} against {names[0]}, in percent", style="italic")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    for key, name in NAMES.items():
        table.add_row(name.removeprefix("mean "), *cells(changes[key], key))
    lines = [verdict_line(names, changes, base=base), *([] if domain is None else [domain_line(domain)])]
    return [table, *map(Text, lines)]


def verdict_line(names: tuple[str, str], changes: Mapping[str, Change], *, base: bool) -> str:
    """What the comparison of top-1 says, in a sentence; the arguments are those of `against_parts`."""
    other, name = names
    top1 = changes["top1"]
    points, low, high, detectable = (
        100 * value for value in (top1.difference, top1.low, top1.high, top1.detectable)
    )  # fmt: skip
    numbers = f"top-1 {points:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, p {shown_p(top1.p)}"
    if detectable == 0:
        return f"{name} recognises exactly the images that {other} recognises."
    if not top1.significant:
        claim = f"has forgotten anything since {other}" if base else f"differs from {other}"
        return (
            f"There is no evidence that {name} {claim}: {numbers}. These images show differences of "
            f"{detectable:.1f} points and more in four of five cases."
        )
    if base and points < 0:
        return f"{name} has forgotten some of what {other} could do: {numbers}."
    if base:
        return f"{name} has not forgotten: it is better than {other}: {numbers}."
    return f"{name} is {'better' if points > 0 else 'worse'} than {other}: {numbers}."


def domain_line(domain: Mapping[str, Any]) -> str:
    """What training gained on its own data, in a sentence."""
    gain = domain["now"] - domain["before"]
    between = ""
    if "rsum_gain_low" in domain:
        between = f", 95 % interval {domain['rsum_gain_low']:+.1f} to {domain['rsum_gain_high']:+.1f}"
    return (
        f"On its own data ({domain['dataset']}, {domain['split']} split), rsum went from {domain['before']:.1f} to "
        f"{domain['now']:.1f}: {gain:+.1f}{between}."
    )
