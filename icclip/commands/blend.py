"""`icclip blend`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import BlendConfig
from icclip.console import Reporter


@with_options(BlendConfig)
def blend(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Mix a fine-tuned model with what it was trained from (WiSE-FT), which often beats both on other data.

    The share is chosen on the validation split, never on the test split.
    With --forget-at-most, only mixtures that forget no more are considered.
    """
    from icclip.blending.request import blend_config
    from icclip.blending.run import blend as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(blend_config(context.obj, said), context.obj, reporter))
