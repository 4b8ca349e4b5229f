"""`icclip config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icclip.commands.declared import Command, Group, Json, with_options
from icclip.commands.train import MOST_USED, ConfigFile
from icclip.config import TrainConfig
from icclip.console import Reporter

app = typer.Typer(cls=Group, help="Show or check the configuration of a run.", no_args_is_help=True)

Run = Annotated[Path | None, typer.Argument(help="Run directory whose configuration the options change.")]
File = Annotated[Path, typer.Argument(help="TOML file, or the icclip.json of a run.")]


@app.command("show", cls=Command)
@with_options(TrainConfig, first=MOST_USED)
def show(said: Any, context: typer.Context, run: Run = None, *, config: ConfigFile = None, json: Json = False) -> None:
    """Print the whole configuration that `icclip train` would use, as TOML for --config, with all defaults."""
    from icclip.report.configuration import ShownConfig
    from icclip.training.request import asked

    here = {} if run is None else {"output_dir": run}
    shown = asked(context.obj, {**here, **said}, config or run)
    Reporter.for_this_process(json=json).deliver(ShownConfig(shown))


@app.command("check", cls=Command)
def check(context: typer.Context, file: File, *, json: Json = False) -> None:
    """Print everything that is wrong with a configuration; the exit code is 2 if something is."""
    from icclip.report.configuration import CheckedConfig
    from icclip.training.request import checked

    config = checked(context.obj, file)
    Reporter.for_this_process(json=json).deliver(CheckedConfig(file, config))
