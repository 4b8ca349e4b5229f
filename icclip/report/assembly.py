"""The parts of an assembled model, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def assembly_table(title: str, towers: Iterable[tuple[str, str, int]], embedding_dim: int) -> Table:
    """Make a table with a row for each tower.

    Args:
        title: the title of the table.
        towers: the name, model type and pooled width of each tower.
        embedding_dim: the width of the common space.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tower", "model", "pooled output", "embedding"):
        table.add_column(name, no_wrap=True)
    for tower, model, width in towers:
        table.add_row(tower, model, f"{width:,}", f"{embedding_dim:,}")
    return table
