"""`icclip assemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter


def assemble(
    context: typer.Context,
    vision: Annotated[str, typer.Option(help="The vision tower: a hub id or a directory of a transformers model.")],
    text: Annotated[str, typer.Option(help="The text tower: a hub id or a directory of a transformers model.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where the new checkpoint appears.")],
    projection_dim: Annotated[int | None, typer.Option(help="Length of the embeddings of both towers. [512]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the new projections. [42]")] = None,
    vision_revision: Annotated[str | None, typer.Option(help="Revision of the vision tower on the hub.")] = None,
    text_revision: Annotated[str | None, typer.Option(help="Revision of the text tower on the hub.")] = None,
    trust_remote_code: options.TrustRemoteCode = None,
    json: options.Json = False,
) -> None:
    """Join a pretrained vision model and a pretrained text model into one model to train for retrieval.

    Both need a pooled output. The projections into the common space are new, so the result must be trained.
    """
    from icclip.assembling.request import assemble_config
    from icclip.assembling.run import assemble as run
    from icclip.report.assembly import assembly_table

    config = assemble_config({
        "vision": vision, "text": text, "output_dir": output_dir, "projection_dim": projection_dim, "seed": seed,
        "vision_revision": vision_revision, "text_revision": text_revision, "trust_remote_code": trust_remote_code,
    })  # fmt: skip
    reporter = Reporter.for_this_process(json=json)
    result = run(config, context.obj, reporter)
    reporter.result(result.to_mapping(), assembly_table(result))
