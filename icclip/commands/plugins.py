"""`icclip plugins`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter
from icclip.errors import PluginError

app = typer.Typer(help="What is installed, and whether it works.", no_args_is_help=True)


@app.command("list")
def list_plugins(context: typer.Context, *, json: options.Json = False) -> None:
    """Every backend, preset, dataset, metric, export target and command, and every plugin that failed."""
    from icclip.report.plugins import listing_table

    root = context.find_root()
    rows = root.obj.listing(root.command.own_commands)  # type: ignore[attr-defined]  # our PluginGroup
    Reporter.for_this_process(json=json).result(
        {"plugins": [dataclasses.asdict(row) for row in rows]}, listing_table(rows)
    )


@app.command("check")
def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A plugin's name, or that of anything it offers.")],
    *,
    path: Annotated[
        Path | None, typer.Option(help="What to load: a dataset's copy on disk, or a checkpoint of a backend.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Run the conformance kit (icclip.testing) against one plugin; exit code 2 when it fails."""
    from icclip.report.plugins import check_lines
    from icclip.testing import check_by_name

    checks = check_by_name(context.find_root().obj, name, path)
    Reporter.for_this_process(json=json).result(
        {"checks": [dataclasses.asdict(one) for one in checks]}, *check_lines(checks)
    )
    failed = [one for one in checks if one.status == "failed"]
    if failed:
        raise PluginError(f"{name}: {len(failed)} of {len(checks)} checks failed")
