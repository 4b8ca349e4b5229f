"""The state of an installation, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from icclip.doctor import Diagnosis

_COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "broken": "bold red"}


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """Make a table with one row for each finding."""
    table = Table("area", "what", "status", "detail", box=None, header_style="bold")
    shown = ""
    for finding in diagnosis.findings:
        # Text, not str: square brackets, as in icclip[train], are markup in a str.
        status = Text(finding.status, style=_COLOURS[finding.status])
        area = finding.area if finding.area != shown else ""
        table.add_row(Text(area), Text(finding.name), status, Text(finding.detail))
        shown = finding.area
    return table
