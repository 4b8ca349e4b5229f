"""`icclip push`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import PushConfig
from icclip.console import Reporter


@with_options(PushConfig)
def push(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Publish a run or a bundle on the Hugging Face hub, with a model card; the repository is private unless --public.

    The token is the one of `hf auth login`, or HF_TOKEN.
    """
    from icclip.publishing.run import push as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(PushConfig.from_mapping(said), context.obj, reporter))
