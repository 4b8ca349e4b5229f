"""`icclip embed`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import EmbedConfig
from icclip.console import Reporter


@with_options(EmbedConfig)
def embed(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Write the unit embeddings of images, texts or a dataset's images to a file, in the order of the inputs."""
    from icclip.embedding.request import embed_config
    from icclip.embedding.run import embed as to_file
    from icclip.embedding.sharded import embed_shards

    reporter = Reporter.for_this_process(json=json)
    config = embed_config(context.obj, said)
    run = to_file if config.shards is None else embed_shards
    reporter.deliver(run(config, context.obj, reporter))
