"""`icclip train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icclip.commands.declared import Json, with_options
from icclip.config import TrainConfig
from icclip.config.declare import RUN
from icclip.console import Reporter

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with the options of the run, or an earlier run to repeat (its directory or icclip.json).",
        metavar="FILE",
        rich_help_panel=RUN,
    ),
]
MOST_USED = (
    "--model", "--dataset", "--output-dir", "--epochs", "--lr", "--train-bs", "--micro-batch", "--precision",
    "--image-resize", "--device", "--resume", "--overwrite",
)  # fmt: skip


@with_options(TrainConfig, first=MOST_USED)
def train(said: Any, context: typer.Context, *, config: ConfigFile = None, json: Json = False) -> None:
    """Fine-tune a model on captioned images, keep the best checkpoint, and measure it."""
    from icclip.training.request import asked

    asked_for = asked(context.obj, said, config)
    # Importing torch takes seconds, so a wrong option is reported before it.
    from icclip.training.run import train as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(asked_for, context.obj, reporter))
