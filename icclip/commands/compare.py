"""`icclip compare`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import CompareConfig
from icclip.console import Reporter


@with_options(CompareConfig)
def compare(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Compare models on one split, image by image: differences with intervals, a test, and a verdict in words."""
    from icclip.comparing.request import compare_config
    from icclip.comparing.run import compare_models

    reporter = Reporter.for_this_process(json=json)
    config = compare_config(said)
    reporter.deliver(compare_models(config, said.get("data", {}), context.obj, reporter))
