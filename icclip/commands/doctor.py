"""`icclip doctor`."""

from __future__ import annotations

import typer  # noqa: TC002  it reads the annotations at run time

from icclip.commands.declared import Json
from icclip.console import Reporter


def doctor(context: typer.Context, *, json: Json = False) -> None:
    """Check this installation: versions, providers, GPUs, caches, the hub and plugins; exit code 2 if it is broken."""
    from icclip.doctor import diagnose
    from icclip.report.doctor import diagnosis_table

    found = diagnose(context.find_root().obj)
    Reporter.for_this_process(json=json).result(found.to_mapping(), diagnosis_table(found))
    found.raise_if_broken()
