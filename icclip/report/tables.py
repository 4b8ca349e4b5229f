"""Metrics as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
WITHIN = {"i2i": "image to image", "t2t": "text to text"}
CUTOFFS = (1, 5, 10)
EIGHTHS = " ▏▎▍▌▋▊▉"
MIN_BAR, MAX_BAR = 8, 50


@dataclass(frozen=True)
class Bar:
    """A horizontal bar that fills `fraction` (0..1) of its width; it consists of `#` on ASCII terminals."""

    fraction: float
    widest: int = MAX_BAR

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        eighths = round(self.fraction * options.max_width * 8)
        if options.ascii_only:
            bar = "#" * round(eighths / 8)
        else:
            bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
        yield Text(bar, style="cyan", no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(MIN_BAR, min(self.widest, options.max_width))


def metrics_table(metrics: Mapping[str, Any], title: str) -> Table:
    """Make a table of recalls with bars and, if `metrics` has them, 95 % intervals, followed by ranks and sums.

    Args:
        metrics: the result of `icclip.retrieval.metrics.retrieval_metrics`, with or without `confidence_95`.
        title: the title of the table.
    """
    from rich import box
    from rich.table import Table

    intervals = metrics.get("confidence_95", {})
    size = f"{metrics['n_images']:,.0f} images, {metrics['n_texts']:,.0f} captions"
    table = Table(
        title=f"{title}: {size}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        caption=relevance_line(metrics), caption_justify="left",
    )  # fmt: skip
    table.add_column("retrieval", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("0 to 100 %")
    table.add_column("value", justify="right", no_wrap=True)
    if intervals:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    for row in _rows(metrics, intervals):
        table.add_row(*row[: len(table.columns)])
    return table


def within_table(metrics: Mapping[str, Any], title: str) -> Table:
    """Make a table of retrieval of images by images and of texts by texts.

    Args:
        metrics: the result of `icclip.retrieval.within.within_metrics`.
        title: the title of the table.
    """
    from rich import box
    from rich.table import Table

    intervals = metrics.get("confidence_95", {})
    table = Table(
        title=f"{title}, within images and within captions", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("retrieval", "metric"):
        table.add_column(heading, no_wrap=True)
    table.add_column("0 to 100 %")
    for heading in ("value", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for prefix, name in WITHIN.items():
        if f"{prefix}_queries" not in metrics:
            continue
        for k in CUTOFFS:
            key = f"{prefix}_R@{k}"
            bar = Bar(metrics[key])
            table.add_row(name if k == CUTOFFS[0] else "", f"R@{k}", bar, percent(metrics[key]), _span(intervals, key))
        ranks = f"median {metrics[f'{prefix}_MedR']:.0f}, mean {metrics[f'{prefix}_MeanR']:.1f}"
        table.add_row("", "rank", ranks, f"{metrics[f'{prefix}_queries']:,}", "queries")
    return table


def relevance_line(metrics: Mapping[str, Any]) -> str | None:
    """One line about shared captions and the numbers by another protocol; None if both protocols agree."""
    about = metrics.get("relevance", {})
    for protocol, others in about.items():
        if isinstance(others, Mapping):
            recalls = ", ".join(f"{prefix} R@1 {percent(others[f'{prefix}_R@1'])}" for prefix in DIRECTIONS)
            return f"{_shared(about, metrics)}{COUNTED[protocol]} {recalls}, rsum {others['rsum']:.1f}"
    return None


COUNTED = {
    "text": "Counted as right for each of them (--relevance text):",
    "pair": "Counted as right only for their own image (--relevance pair):",
}


def _shared(about: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    captions, images = about["shared_captions"], about["duplicate_images"]
    found = [f"{captions:,} of {metrics['n_texts']:,.0f} captions belong to several images"] if captions else []
    found += [f"{images:,} of {metrics['n_images']:,.0f} images are copies of others"] if images else []
    return f"{' and '.join(found)}. " if found else ""


def percent(fraction: float) -> str:
    """A fraction in 0..1 as `12.3 %`."""
    return f"{100 * fraction:.1f} %"


def _rows(metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> Iterator[tuple[RenderableType, ...]]:
    for prefix, name in DIRECTIONS.items():
        for k in CUTOFFS:
            key = f"{prefix}_R@{k}"
            yield (
                name if k == CUTOFFS[0] else "",
                f"R@{k}",
                Bar(metrics[key]),
                percent(metrics[key]),
                _span(intervals, key),
            )
        ranks = f"median {metrics[f'{prefix}_MedR']:.0f}, mean {metrics[f'{prefix}_MeanR']:.1f}"
        yield "", "rank", ranks, "", ""
        yield ("",) * 5
    rsum = intervals.get("rsum")
    between = f"{rsum[0]:.1f} .. {rsum[1]:.1f}" if rsum else ""
    yield "both", "rsum", Bar(metrics["rsum"] / 600), f"{metrics['rsum']:.1f}", between
    for number, (name, value) in enumerate(plugin_metrics(metrics).items()):
        yield "from plugins" if number == 0 else "", name, "", f"{value:.4g}", _span_of(intervals, name)


def plugin_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of plugins: all numbers that icclip does not compute itself."""
    own = {"avg_best_cosine", "n_images", "n_texts", "rsum", *(f"mR@{k}" for k in CUTOFFS)}
    own |= {f"{prefix}_{rank}" for prefix in DIRECTIONS for rank in ("MedR", "MeanR", *(f"R@{k}" for k in CUTOFFS))}
    return {
        name: value
        for name, value in metrics.items()
        if name not in own and not name.endswith("_optimistic") and isinstance(value, int | float)
    }


def _span_of(intervals: Mapping[str, Any], key: str) -> str:
    return f"{intervals[key][0]:.4g} .. {intervals[key][1]:.4g}" if key in intervals else ""


def _span(intervals: Mapping[str, Any], key: str) -> str:
    if key not in intervals:
        return ""
    low, high = intervals[key]
    return f"{100 * low:.1f} .. {percent(high)}"
