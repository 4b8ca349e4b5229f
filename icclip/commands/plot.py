"""`icclip plot`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import PlotConfig
from icclip.console import Reporter


@with_options(PlotConfig)
def plot(said: Any, context: typer.Context, *, json: Json = False) -> None:  # noqa: ARG001  every command has one
    """Draw loss and recall over steps, of one or several runs, as SVG, PNG or PDF."""
    from icclip.presenting.plotting import plot as run

    Reporter.for_this_process(json=json).deliver(run(PlotConfig.from_mapping(said)))
