"""`icclip config`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options as o
from icclip.commands.train import with_train_options
from icclip.config import TrainConfig
from icclip.console import Reporter

app = typer.Typer(help="What a run is asked to do: show it, check it.", no_args_is_help=True)

Run = Annotated[Path | None, typer.Argument(help="A run directory, whose configuration the options change.")]
File = Annotated[Path, typer.Argument(help="A TOML file, or the icclip.json of a run.")]


@app.command("show")
@with_train_options
def show(request: Callable[..., TrainConfig], *, run: Run = None, json: o.Json = False) -> None:
    """Print the whole configuration that `icclip train` would use, as TOML for --config, with all defaults."""
    from icclip.config.toml import toml

    values = (request() if run is None else request(config=run, output_dir=run)).to_mapping()
    if json:
        Reporter.for_this_process(json=True).result(values)
    else:
        typer.echo(toml(values), nl=False)


@app.command("check")
def check(context: typer.Context, file: File, *, json: o.Json = False) -> None:
    """Say everything that is wrong with a configuration; exit code 2 where something is."""
    from icclip.training.request import checked

    config = checked(context.find_root().obj, file)
    reporter = Reporter.for_this_process(json=json)
    reporter.result(
        {"ok": True, "config": config.to_mapping()},
        f"{file} is good: trains {config.model.name} on {config.data.label}",
    )
