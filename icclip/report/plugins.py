"""Plugins, for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from icclip.errors import PluginError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icclip.plugins.registry import Listing
    from icclip.testing import Check

_COLOURS = {"ok": "green", "skipped": "yellow", "missing extra": "yellow", "duplicate": "red", "failed": "red"}


@dataclass(frozen=True)
class PluginList:
    """The result of `icclip plugins list`: one row for everything on offer and every failure."""

    rows: Sequence[Listing]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"plugins": [dataclasses.asdict(row) for row in self.rows]}

    def renderables(self) -> Iterable[RenderableType]:
        """The rows as a table."""
        return [listing_table(self.rows)]

    def verdict(self) -> None:
        """Listing plugins always succeeds, because a failed plugin is one of the rows."""


@dataclass(frozen=True)
class PluginChecks:
    """The result of `icclip plugins check`: what the conformance kit found for one plugin."""

    name: str
    checks: Sequence[Check]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"checks": [dataclasses.asdict(one) for one in self.checks]}

    def renderables(self) -> Iterable[RenderableType]:
        """One line for each check."""
        return check_lines(self.checks)

    def verdict(self) -> None:
        """Raise PluginError if any check failed."""
        failed = sum(one.status == "failed" for one in self.checks)
        if failed:
            raise PluginError(f"{self.name}: {failed} of {len(self.checks)} checks failed")


def listing_table(rows: Sequence[Listing]) -> Table:
    """One row for everything on offer and every failure."""
    table = Table("name", "kind", "version", "origin", "status", "reason", box=None, header_style="bold")
    for row in rows:
        # Text, not str: square brackets, as in icclip[train], are markup in a str.
        cells = (row.name, row.kind, row.version, row.origin)
        table.add_row(*map(Text, cells), _status(row.status), Text(row.reason))
    return table


def check_lines(checks: Sequence[Check]) -> Iterator[Text]:
    """One line per check, with what is wrong or why it was skipped."""
    for check in checks:
        words = ": ".join(filter(None, (check.subject, check.what, check.detail)))
        yield Text.assemble(_status(check.status.ljust(7)), "  ", words)


def _status(status: str) -> Text:
    return Text(status, style=_COLOURS[status.strip()])
