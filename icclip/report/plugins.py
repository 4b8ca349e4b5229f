"""Tables about plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from icclip.registry import Listing
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


def checks_table(checks: Sequence[Check]) -> Table:
    """One row a check, with what is wrong or why it was skipped."""
    table = Table("of", "check", "status", "detail", box=None, header_style="bold")
    for check in checks:
        table.add_row(Text(check.subject), Text(check.what), _status(check.status), Text(check.detail))
    return table


def _status(status: str) -> Text:
    return Text(status, style=_COLOURS[status])
