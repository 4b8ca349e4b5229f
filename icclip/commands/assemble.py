"""`icclip assemble`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import AssembleConfig
from icclip.console import Reporter


@with_options(AssembleConfig)
def assemble(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Join a pretrained vision model and a pretrained text model into one model to train for retrieval.

    Both need a pooled output. The projections into the common space are new, so the result must be trained.
    """
    from icclip.assembling.request import assemble_config
    from icclip.assembling.run import assemble as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(assemble_config(said), context.obj, reporter))
