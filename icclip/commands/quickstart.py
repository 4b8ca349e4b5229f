"""`icclip quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands.declared import Json
from icclip.config.encoder import DEVICE, GPU
from icclip.console import Reporter

Directory = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory that everything is written to.")]
Epochs = Annotated[int | None, typer.Option(help="Number of passes over the images. \\[default: what suits the model]")]
Device = Annotated[str | None, typer.Option(help=f"{DEVICE} \\[default: {GPU}]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier quickstart in the directory.")]


def quickstart(
    context: typer.Context,
    *,
    output_dir: Directory = Path("quickstart"),
    epochs: Epochs = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train, evaluate, picture and export on the embedded dataset: the whole job in a few minutes, without any files."""
    from icclip.quickstart import quickstart as run

    options = {"epochs": epochs, "device": device, "overwrite": overwrite}
    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(output_dir, context.obj, reporter, options))
