"""`icclip report`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import ReportConfig
from icclip.console import Reporter


@with_options(ReportConfig)
def report(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Write one HTML page about one or several models: curves, recall, best and worst answers, verdicts."""
    from icclip.presenting.run import report as run
    from icclip.presenting.run import report_config

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(report_config(said), said.get("data", {}), context.obj, reporter))
