"""`icclip doctor`."""

from __future__ import annotations

import typer  # noqa: TC002  it reads the annotations at run time

from icclip.commands.declared import Json
from icclip.console import Reporter


def doctor(context: typer.Context, *, json: Json = False) -> None:
    """Check this installation: versions, providers, GPUs, caches, the hub and plugins; exit code 2 if it is broken."""
    from icclip.doctor import diagnose

    Reporter.for_this_process(json=json).deliver(diagnose(context.obj))
