"""`icclip quickstart`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import QuickstartConfig
from icclip.console import Reporter


@with_options(QuickstartConfig)
def quickstart(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Train, evaluate, picture and export on the embedded dataset: the whole job in a few minutes, without any files."""
    from icclip.quickstart import quickstart as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(QuickstartConfig.from_mapping(said), context.obj, reporter))
