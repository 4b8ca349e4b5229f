"""What a comparison found, as tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from icclip.report.tables import CUTOFFS, DIRECTIONS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icclip.retrieval.comparison import Change

ROWS = [(f"{name} R@{k}", f"{prefix}_R@{k}") for prefix, name in DIRECTIONS.items() for k in CUTOFFS] + [
    ("rsum", "rsum")
]
HEADINGS = ("metric", "before", "now", "difference, points", "95 % interval", "p", "detectable")
_SMALLEST = 0.0001


def comparison_table(first: str, model: str, changes: Mapping[str, Change]) -> list[RenderableType]:
    """A table of one model against the first, and the verdict."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{model} against {first}", style="italic")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    for name, key in ROWS:
        table.add_row(name, *cells(changes[key], key))
    return [table, Text(verdict_line(first, model, changes))]


def cells(change: Change, key: str) -> tuple[str, ...]:
    """Before, now, difference, interval, p and the smallest detectable difference; recall in percent."""
    scale = 1 if key == "rsum" else 100
    values = [scale * value for value in (change.before, change.now, change.difference, change.low, change.high)]
    before, now, difference, low, high = values
    return (
        f"{before:.1f}",
        f"{now:.1f}",
        f"{difference:+.2f}" + (" *" if change.significant else ""),
        f"{low:+.2f} .. {high:+.2f}",
        shown_p(change.p),
        f"{scale * change.detectable:.2f}",
    )


def shown_p(p: float) -> str:
    """A p-value with the digits that it is worth."""
    return f"< {_SMALLEST}" if p < _SMALLEST else f"{p:.4f}"


def verdict_line(first: str, model: str, changes: Mapping[str, Change]) -> str:
    """What the comparison of rsum says, in a sentence."""
    rsum = changes["rsum"]
    numbers = f"rsum {rsum.difference:+.2f}, 95 % interval {rsum.low:+.2f} to {rsum.high:+.2f}, p {shown_p(rsum.p)}"
    if rsum.significant:
        return f"{model} is {'better' if rsum.difference > 0 else 'worse'} than {first}: {numbers}."
    if rsum.detectable == 0:
        return f"{model} answers every query as {first} does."
    return (
        f"There is no evidence that {model} differs from {first}: {numbers}. This split shows differences of "
        f"{rsum.detectable:.1f} points of rsum and more in four of five cases."
    )


def comparison_lines(
    models: Sequence[str], changes: Sequence[Mapping[str, Change]], layout: str
) -> list[RenderableType]:
    """All models in one table, as Markdown or LaTeX, with the verdicts below."""
    from rich.text import Text

    make = _markdown if layout == "markdown" else _latex
    verdicts = [verdict_line(models[0], model, one) for model, one in zip(models[1:], changes, strict=True)]
    return [Text(line, overflow="ignore", no_wrap=True) for line in make(models, changes, verdicts)]


def _markdown(models: Sequence[str], changes: Sequence[Mapping[str, Change]], verdicts: Sequence[str]) -> list[str]:
    names = [name.replace("|", "\\|") for name in models]
    lines = [f"| | {' | '.join(names)} |", f"|---{'|---:' * len(models)}|"]
    for label, key in ROWS:
        shown = [f"{cells(one[key], key)[1]} ({cells(one[key], key)[2]})" for one in changes]
        lines.append(f"| {label} | {' | '.join([cells(changes[0][key], key)[0], *shown])} |")
    note = "In brackets: the difference from the first model, with * where it is significant at the 5 % level."
    return [*lines, "", note, "", *(f"- {verdict}" for verdict in verdicts)]


def _latex(models: Sequence[str], changes: Sequence[Mapping[str, Change]], verdicts: Sequence[str]) -> list[str]:
    rows = []
    for label, key in ROWS:
        shown = [f"{cells(one[key], key)[1]} ({cells(one[key], key)[2]})" for one in changes]
        rows.append(" & ".join(map(_tex, [label, cells(changes[0][key], key)[0], *shown])) + r" \\")
    return [
        rf"\begin{{tabular}}{{l{'r' * len(models)}}}",
        r"\hline",
        " & ".join(["", *map(_tex, models)]) + r" \\",
        r"\hline",
        *rows,
        r"\hline",
        r"\end{tabular}",
        *(f"% {verdict}" for verdict in verdicts),
    ]


_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_"},
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(mark, mark) for mark in text)
