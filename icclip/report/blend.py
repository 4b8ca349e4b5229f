"""What a blend gave, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip.report.tables import Bar

if TYPE_CHECKING:
    from rich.table import Table

    from icclip.blending.run import BlendResult


def blend_table(result: BlendResult) -> Table:
    """A row for each mixture that was measured, the kept one marked."""
    from rich import box
    from rich.table import Table

    title = f"{result.output_dir}, validation" if result.rsums else f"{result.output_dir}, not measured"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("alpha", "right"), ("rsum, 0 to 600", "left"), ("", "right"), ("", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type] # rich wants the literals
    for alpha, rsum in result.rsums.items():
        table.add_row(f"{alpha:g}", Bar(rsum / 600), f"{rsum:.1f}", "kept" if alpha == result.alpha else "")
    if not result.rsums:
        table.add_row(f"{result.alpha:g}", "", "", "kept")
    return table
