"""What was assembled, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def assembly_table(title: str, towers: Iterable[tuple[str, str, int]], embedding_dim: int) -> Table:
    """A row for each tower.

    Args:
        title: of the table.
        towers: each one's name, its model type and the width of its pooled output.
        embedding_dim: what both are projected to.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tower", "model", "pooled output", "embedding"):
        table.add_column(name, no_wrap=True)
    for tower, model, width in towers:
        table.add_row(tower, model, f"{width:,}", f"{embedding_dim:,}")
    return table
