"""What the parity gate measured, as tables for the terminal: one for each precision and provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from icclip.runtime.parity_record import ParityRecord, PrecisionParity

TOWERS = {"vision": "images", "text": "texts"}
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
ROWS = {
    "cosine": "lowest cosine",
    "mean_cosine": "mean cosine",
    "centred_cosine": "lowest centred cosine",
    "difference": "largest difference",
    "alone": "lowest cosine, batch of 1",
    "padded": "lowest cosine, padded",
    "top10": "share of the first ten",
    "R@1": "change of R@1, points",
    "R@5": "change of R@5, points",
    "R@10": "change of R@10, points",
}
_SHOWN_FAILURES = 6


def parity_tables(record: ParityRecord) -> Iterator[RenderableType]:
    """A heading, and for each result its numbers beside their limits, then what failed and where.

    Made for 80 columns; failures wrap.
    """
    from rich.text import Text

    verdict = " (smoke test: too few for a verdict on retrieval)" if record.smoke else ""
    where = f"{record.dataset}, split {record.split}: " if record.dataset else ""
    yield Text(f"{where}{record.n_images:,} images, {record.n_texts:,} captions{verdict}")
    for result in record.results:
        yield _table(result)
        for line in result.failures[:_SHOWN_FAILURES]:
            yield Text(f"  {line}", style="red")
        if len(result.failures) > _SHOWN_FAILURES:
            yield Text(f"  and {len(result.failures) - _SHOWN_FAILURES} more, see parity.json", style="red")


def _table(result: PrecisionParity) -> Table:
    from rich import box
    from rich.table import Table

    verdict = "[green]passed[/]" if result.passed else "[red]failed[/]"
    table = Table(
        title=f"{result.precision} on {result.provider}: {verdict}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("against the checkpoint", no_wrap=True)
    for name in ("images", "texts", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    checks = {check["name"]: check for check in result.measured["checks"]}
    for row in _rows(checks, TOWERS):
        table.add_row(*row)
    if "similarity" in checks:
        own = checks["similarity"]
        table.add_row("largest change of a similarity", _value(own), "", _limit(own))
    table.add_section()
    for row in _rows(checks, DIRECTIONS):
        table.add_row(*row)
    return table


def _rows(checks: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """One line for each kind of check that `columns` have."""
    if columns is DIRECTIONS:
        yield ("", *columns.values(), "")
    for kind, label in ROWS.items():
        found = [checks.get(f"{column}.{kind}") for column in columns]
        limits = [_limit(check) for check in found if check]
        if limits:
            yield (label, *(_value(check) if check else "" for check in found), limits[0])


def _value(check: Mapping[str, Any]) -> str:
    text = _number(check, check["value"], signed=True)
    return text if check["passed"] else f"[red]{text} ✗[/]"


def _limit(check: Mapping[str, Any]) -> str:
    return f"{'≥' if check['at_least'] else '≤'} {_number(check, check['limit'])}"


def _number(check: Mapping[str, Any], value: float, *, signed: bool = False) -> str:
    if "R@" in check["name"]:
        return f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"
    if check["at_least"]:
        return f"{value:.7f}"
    return f"{value:.1e}"
