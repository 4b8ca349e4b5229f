"""What was assembled, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip.assembling.run import AssembleResult

if TYPE_CHECKING:
    from rich.table import Table


def assembly_table(result: AssembleResult) -> Table:
    """A row for each tower."""
    from rich import box
    from rich.table import Table

    title = f"{result.output_dir}, {result.parameters / 1e6:.1f} M parameters"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tower", "model", "pooled output", "embedding"):
        table.add_column(name, no_wrap=True)
    rows = (("vision", result.vision, result.vision_width), ("text", result.text, result.text_width))
    for tower, model, width in rows:
        table.add_row(tower, model, f"{width:,}", f"{result.embedding_dim:,}")
    return table
