"""`icclip plugins`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands.completion import completer
from icclip.commands.declared import Command, Group, Json
from icclip.console import Reporter

app = typer.Typer(cls=Group, help="List the plugins, and check whether one works.", no_args_is_help=True)


@app.command("list", cls=Command)
def list_plugins(context: typer.Context, *, json: Json = False) -> None:
    """List every backend, preset, dataset, metric, export target and command, and every plugin that failed."""
    from icclip.report.plugins import PluginList

    root = context.find_root()
    rows = root.obj.listing(root.command.own_commands)  # type: ignore[attr-defined]  # our PluginGroup
    Reporter.for_this_process(json=json).deliver(PluginList(rows))


@app.command("check", cls=Command)
def check(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Name of a plugin, or of anything that it offers.", autocompletion=completer("plugin"))
    ],
    *,
    path: Annotated[
        Path | None,
        typer.Option(help="Copy of the dataset on disk, or checkpoint for the backend, to load.", metavar="PATH"),
    ] = None,
    json: Json = False,
) -> None:
    """Run the conformance kit (icclip.testing) against one plugin; the exit code is 2 if a check fails."""
    from icclip.report.plugins import PluginChecks
    from icclip.testing import check_by_name

    checks = check_by_name(context.obj, name, path)
    Reporter.for_this_process(json=json).deliver(PluginChecks(name, checks))
