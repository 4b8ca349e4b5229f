"""The measured mixtures of a blend, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from icclip.report.tables import MAX_BAR, Bar, percent

if TYPE_CHECKING:
    from rich.table import Table

NARROW = 18
"""The widest bar beside columns about forgetting, so that all of them fit into 80 columns."""


def blend_table(
    name: str,
    rsums: Mapping[float, float],
    kept: float | None,
    top1s: Mapping[float, float] = MappingProxyType({}),
    limit: float | None = None,
) -> Table:
    """Make a table with a row for each mixture that was measured, and a mark at the chosen one.

    Args:
        name: the name of the result.
        rsums: share -> rsum (0..600) on the validation split; empty if it was not measured.
        kept: the share that was chosen; None: none.
        top1s: share -> zero-shot top-1 (0..1), that of share 0 included; empty if it was not measured.
        limit: by how many points top-1 may be lower than that of share 0.
    """
    from rich import box
    from rich.table import Table

    title = f"{name}, validation" if rsums else f"{name}, {'zero-shot' if top1s else 'not measured'}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    headings = [("alpha", "right"), ("rsum, 0 to 600", "left"), ("", "right")]
    headings += [("zero-shot top-1", "right"), ("points", "right")] if top1s else []
    for heading, justify in (*headings, ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type] # rich wants the literals
    widest = NARROW if top1s else MAX_BAR
    for alpha in sorted({*rsums, *top1s}) or [kept or 0.0]:
        shown = (Bar(rsums[alpha] / 600, widest), f"{rsums[alpha]:.1f}") if alpha in rsums else ("", "")
        moved = 100 * (top1s[alpha] - top1s[0.0]) if top1s else 0.0
        forgetting = (percent(top1s[alpha]), f"{moved:+.2f}") if top1s else ()
        mark = "kept" if alpha == kept else "forgets too much" if limit is not None and -moved > limit + 1e-9 else ""
        table.add_row(f"{alpha:g}", *shown, *forgetting, mark)
    return table
