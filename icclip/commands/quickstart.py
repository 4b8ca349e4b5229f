"""`icclip quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter

NEXT = """
The model, its processor and its records are in {run}
What it finds, as a picture: {pictures}
What to try next:
  icclip eval {run} --split validation
  icclip train --model siglip-tiny --dataset shapes --output-dir runs/siglip
  icclip train --model openai/clip-vit-base-patch16 --dataset my-captions.jsonl --output-dir runs/mine
  tensorboard --logdir {run}/logs"""


def quickstart(
    context: typer.Context,
    *,
    output_dir: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the images. [what suits the model]")] = None,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier quickstart there.")] = False,
    json: options.Json = False,
) -> None:
    """Train, evaluate and picture the embedded dataset: the whole job in about two minutes, without any files."""
    from icclip.quickstart import quickstart as run
    from icclip.report.tables import metrics_table

    reporter = Reporter.for_this_process(json=json)
    result = run(output_dir, context.obj, reporter, {"epochs": epochs, "device": device, "overwrite": overwrite})
    paths = {"run": str(result.run), "pictures": str(result.pictures)}
    payload = {**paths, "seconds": result.seconds, "metrics": result.metrics}
    reporter.result(payload, metrics_table(result.metrics, "shapes, test (unseen pairs)"), NEXT.format(**paths))
