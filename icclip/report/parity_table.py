"""What the parity gate measured, as tables for the terminal: one for each precision and provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from icclip.bundles.parity_record import ParityRecord, PrecisionParity

TOWERS = ("vision", "text")
DIRECTIONS = ("i2t", "t2i")
CUTOFFS = (1, 5, 10)
COSINES = {
    "lowest cosine": ("min_cosine", "cosine"),
    "mean cosine": ("mean_cosine", "mean_cosine"),
    "lowest centred cosine": ("centred_min_cosine", "centred_cosine"),
    "mean centred cosine": ("centred_mean_cosine", "centred_mean_cosine"),
}
"""Row -> the name of the measured value, and of its requirement."""
BATCHES = {"lowest cosine, batch of 1": "alone", "lowest cosine, padded": "padded"}
"""Row -> the name of a requirement that contains its own value."""
SHOWN_FAILURES = 6
SHOWN_NODES = 3


def parity_tables(record: ParityRecord, sizes: Mapping[str, int] | None = None) -> Iterator[RenderableType]:
    """Make a heading and, for each result, a table of numbers and limits, with what the result took and what failed.

    The tables fit into 80 columns; the lines below a table wrap.

    Args:
        record: the gate's record.
        sizes: the size of both encoders in bytes, by precision.
    """
    from rich.text import Text

    verdict = " (smoke test: too few for a verdict on retrieval)" if record.smoke else ""
    where = f"{record.dataset}, split {record.split}: " if record.dataset else ""
    yield Text(f"{where}{record.n_images:,} images, {record.n_texts:,} captions{verdict}")
    for result in record.results:
        yield _table(result, record.reference)
        for line in _making(result, (sizes or {}).get(result.precision)):
            yield Text(f"  {line}")
        for line in result.failures[:SHOWN_FAILURES]:
            yield Text(f"  {line}", style="red")
        if len(result.failures) > SHOWN_FAILURES:
            yield Text(f"  and {len(result.failures) - SHOWN_FAILURES} more, see parity.json", style="red")


def _making(result: PrecisionParity, size: int | None) -> Iterator[str]:
    """Lines about the size of a precision, and what it took to pass."""
    if size is not None:
        yield f"{size / 1e6:.1f} MB"
    for tower, search in result.search.items():
        names = ", ".join(search.kept[:SHOWN_NODES])
        more = ", ..." if len(search.kept) > SHOWN_NODES else ""
        kept = f"{len(search.kept)} nodes stay in fp32 ({names}{more})" if search.kept else "no node stays in fp32"
        yield f"{tower}: {kept}; graphs tried: {search.tried}, attempts: {result.attempts}"


def _table(result: PrecisionParity, reference: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    verdict = "[green]passed[/]" if result.passed else "[red]failed[/]"
    table = Table(
        title=f"\n{result.precision} on {result.provider}: {verdict}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("against the checkpoint", no_wrap=True)
    for name in ("images", "texts", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    # Nothing else was measured if the encoder does not run.
    if result.metrics:
        # A plugin's target may measure less than our gate.
        checks = {check["name"]: check for check in result.measured.get("checks", ())}
        if "towers" in result.measured:
            for row in _embedding_rows(result.measured["towers"], checks):
                table.add_row(*row)
        table.add_section()
        table.add_row("", "image to text", "text to image", "limit", style="bold")
        for row in _retrieval_rows(result, reference, checks):
            table.add_row(*row)
    return table


Requirements = Mapping[str, Mapping[str, Any]]
Row = tuple[str, ...]


def _embedding_rows(towers: Mapping[str, Mapping[str, Any]], checks: Requirements) -> Iterator[Row]:
    for label, (measure, check) in COSINES.items():
        own = [checks.get(f"{tower}.{check}") for tower in TOWERS]
        values = [_cosine(towers[tower][measure]) for tower in TOWERS]
        yield (label, *map(_marked, values, own), _limit(own, _cosine))
    own = [checks.get(f"{tower}.difference") for tower in TOWERS]
    yield (
        "largest difference",
        *(_marked(_small(towers[tower]["embedding_abs"]), check) for tower, check in zip(TOWERS, own, strict=True)),
        _limit(own, _small),
    )
    for label, kind in BATCHES.items():
        own = [checks.get(f"{tower}.{kind}") for tower in TOWERS]
        yield (
            label,
            *(_marked(_cosine(check["value"]), check) if check else "" for check in own),
            _limit(own, _cosine),
        )


def _retrieval_rows(result: PrecisionParity, reference: Mapping[str, Any], checks: Requirements) -> Iterator[Row]:
    for cutoff in CUTOFFS:
        keys = [f"{direction}_R@{cutoff}" for direction in DIRECTIONS]
        own = [checks.get(f"{direction}.R@{cutoff}") for direction in DIRECTIONS]
        values = [f"{100 * result.metrics[key]:.2f} ({_change(result.metrics[key] - reference[key])})" for key in keys]
        yield (f"R@{cutoff} in %, and its change", *map(_marked, values, own), _limit(own, _points))
    if "rankings" in result.measured:
        yield from _ranking_rows(result, checks)


def _ranking_rows(result: PrecisionParity, checks: Requirements) -> Iterator[Row]:
    rankings = [result.measured["rankings"][direction] for direction in DIRECTIONS]
    own = [checks.get(f"{direction}.top10") for direction in DIRECTIONS]
    shares = [_share(ranking["overlap"]) for ranking in rankings]
    yield ("overlap of the first ten", *map(_marked, shares, own), _limit(own, _share))
    flips = [ranking["flips"] for ranking in rankings]
    yield ("changed first answers", *(f"{flip['count']:,}" for flip in flips), "")
    yield ("  of which near ties", *(f"{flip['near_ties']:,}" for flip in flips), "")
    similarity = checks.get("similarity")
    change = _marked(_small(rankings[0]["similarity_abs"]), similarity)
    yield ("largest similarity change", change, "", _limit([similarity], _small))


def _marked(text: str, check: Mapping[str, Any] | None) -> str:
    """Mark a number beyond its limit in red, and with a cross for people who do not see red."""
    return text if check is None or check["passed"] else f"[red]{text} ✗[/]"


def _limit(checks: Sequence[Mapping[str, Any] | None], written: Callable[[float], str]) -> str:
    """The limit to show: the looser one if both directions differ, and nothing if there is none."""
    held = [check for check in checks if check]
    if not held:
        return ""
    if held[0]["at_least"]:
        return f"≥ {written(min(check['limit'] for check in held))}"
    return f"≤ {written(max(check['limit'] for check in held))}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.7f}"


def _small(value: float) -> str:
    return f"{value:.1e}"


def _share(value: float) -> str:
    return f"{value:.4f}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _change(value: float) -> str:
    return f"{100 * value:+.2f}"
