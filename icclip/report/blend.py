"""The measured mixtures of a blend, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from icclip.report.tables import Bar

if TYPE_CHECKING:
    from rich.table import Table


def blend_table(name: str, rsums: Mapping[float, float], kept: float) -> Table:
    """Make a table with a row for each mixture that was measured, and a mark at the chosen one.

    Args:
        name: the name of the result.
        rsums: share -> rsum (0..600) on the validation split; empty if nothing was measured.
        kept: the share that was chosen.
    """
    from rich import box
    from rich.table import Table

    title = f"{name}, validation" if rsums else f"{name}, not measured"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("alpha", "right"), ("rsum, 0 to 600", "left"), ("", "right"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type] # rich wants the literals
    for alpha, rsum in rsums.items():
        table.add_row(f"{alpha:g}", Bar(rsum / 600), f"{rsum:.1f}", "kept" if alpha == kept else "")
    if not rsums:
        table.add_row(f"{kept:g}", "", "", "kept")
    return table
