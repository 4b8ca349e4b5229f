"""`icclip data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter

app = typer.Typer(help="Look at a dataset before it is trained on.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """With one command alone, Typer would leave its name out."""


@app.command("inspect")
def inspect(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="A dataset's name, name@path, a path, or a hub id.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Compare the captions with its limit.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a contact sheet: a .png or .jpg file.")] = None,
    image_column: options.ImageColumn = None,
    caption_column: options.CaptionColumn = None,
    dataset_revision: options.DatasetRevision = None,
    image_root: options.ImageRoot = None,
    download: options.Download = None,
    template: options.Template = None,
    allow_outside_root: options.AllowOutsideRoot = None,
    json: options.Json = False,
) -> None:
    """Show what is in a dataset: splits, captions, images, what cannot be read, and what splits have in common."""
    from icclip.data.loading import dataset_config
    from icclip.inspecting.run import InspectRequest
    from icclip.inspecting.run import inspect as run
    from icclip.report.inspection import inspection

    data = dataset_config(
        context.find_root().obj, dataset, image_column=image_column, caption_column=caption_column,
        revision=dataset_revision, image_root=image_root, download=download, template=template,
        allow_outside_root=allow_outside_root,
    )  # fmt: skip
    reporter = Reporter.for_this_process(json=json)
    found = run(InspectRequest(data=data, model=model, picture=picture), context.find_root().obj, reporter)
    reporter.result(found, *inspection(found))
