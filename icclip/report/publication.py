"""What was published on the hub, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def publication_table(title: str, sizes: Mapping[str, int]) -> Table:
    """A row for each file, and their sum.

    Args:
        title: of the table.
        sizes: name -> bytes.
    """
    from rich import box
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("file", footer=f"{len(sizes):,} files", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True, footer=decimal(sum(sizes.values())))
    for name, size in sizes.items():
        table.add_row(escape(name), decimal(size))
    return table
