"""`icclip data`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from icclip.commands.declared import Command, Group, Json, with_options
from icclip.config import InspectConfig
from icclip.console import Reporter

app = typer.Typer(cls=Group, help="Look at a dataset before you train on it.", no_args_is_help=True)

DatasetName = Annotated[str, typer.Argument(help="Dataset to look at: its name, name@path, a path, or a hub id.")]


@app.callback()
def root() -> None:
    """Keeps Typer from leaving out the name of the only command."""


@app.command("inspect", cls=Command)
@with_options(InspectConfig)
def inspect(said: Any, context: typer.Context, dataset: DatasetName, *, json: Json = False) -> None:
    """Show what is in a dataset: splits, captions, images, what cannot be read, and what its splits have in common."""
    from icclip.inspecting.request import inspect_config
    from icclip.inspecting.run import inspect as run

    registry, reporter = context.obj, Reporter.for_this_process(json=json)
    reporter.deliver(run(inspect_config(registry, dataset, said), registry, reporter))
