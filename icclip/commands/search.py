"""`icclip search`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config.searching import SearchConfig
from icclip.console import Reporter


@with_options(SearchConfig)
def search(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Search an index with a text, an image, or several of them together."""
    from icclip.searching.query import search as run
    from icclip.searching.request import search_config

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(search_config(said), context.obj, reporter))
