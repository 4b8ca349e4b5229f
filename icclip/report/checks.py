"""A table of things that were checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def checks_table(checks: Iterable[Mapping[str, Any]], title: str) -> Table:
    """One row for each of `{"name", "passed", "detail"}`."""
    table = Table(title=Text(title), title_justify="left")
    for heading in ("check", "", "detail"):
        table.add_column(heading)
    for check in checks:
        verdict = Text("ok", "green") if check["passed"] else Text("failed", "bold red")
        table.add_row(Text(check["name"]), verdict, Text(check["detail"]))
    return table
