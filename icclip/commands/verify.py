"""`icclip verify`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import VerifyConfig
from icclip.console import Reporter


@with_options(VerifyConfig)
def verify(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Check a bundle anywhere, without PyTorch: hashes, golden inputs and, with --dataset, retrieval.

    The thresholds are those in the bundle's parity.json. The exit code is 3 if a check fails.
    """
    from icclip.verifying.request import verify_config
    from icclip.verifying.run import verify as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(verify_config(context.obj, said), context.obj, reporter))
