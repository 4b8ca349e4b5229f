"""`icclip export`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import ExportConfig
from icclip.console import Reporter


@with_options(ExportConfig)
def export(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Turn a checkpoint into two encoders, proven on a real split to retrieve what the checkpoint retrieves.

    A bundle that fails the parity gate is kept as <name>.failed, and the exit code is 3.
    """
    from icclip.exporting.request import export_config
    from icclip.exporting.run import export as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(export_config(context.obj, said), context.obj, reporter))
