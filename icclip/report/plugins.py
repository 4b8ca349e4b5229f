"""Plugins, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from icclip.plugins.registry import Listing
    from icclip.testing import Check

_COLOURS = {"ok": "green", "skipped": "yellow", "missing extra": "yellow", "duplicate": "red", "failed": "red"}


def listing_table(rows: Sequence[Listing]) -> Table:
    """One row for everything on offer and every failure."""
    table = Table("name", "kind", "version", "origin", "status", "reason", box=None, header_style="bold")
    for row in rows:
        # Text, not str: square brackets, as in icclip[train], are markup in a str.
        cells = (row.name, row.kind, row.version, row.origin)
        table.add_row(*map(Text, cells), _status(row.status), Text(row.reason))
    return table


def check_lines(checks: Sequence[Check]) -> Iterator[Text]:
    """One line a check, with what is wrong or why it was skipped."""
    for check in checks:
        words = ": ".join(filter(None, (check.subject, check.what, check.detail)))
        yield Text.assemble(_status(check.status.ljust(7)), "  ", words)


def _status(status: str) -> Text:
    return Text(status, style=_COLOURS[status.strip()])
