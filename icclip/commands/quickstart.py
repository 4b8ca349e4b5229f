"""`icclip quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter

NEXT = """
The model, its processor and its records: {run}
What it finds, as a picture:              {pictures}
The encoders that run without torch:      {bundle}
How they compare with the model:          {bundle}/parity.json
What to try next:
  icclip verify {bundle} --dataset shapes
  icclip eval {run} --split validation
  icclip train --model siglip-tiny --dataset shapes --output-dir runs/siglip
  icclip train --model openai/clip-vit-base-patch16 --dataset my-captions.jsonl --output-dir runs/mine
  tensorboard --logdir {run}/logs"""


def quickstart(
    context: typer.Context,
    *,
    output_dir: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the images. \\[what suits the model]")] = None,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier quickstart there.")] = False,
    json: options.Json = False,
) -> None:
    """Train, evaluate, picture and export on the embedded dataset: the whole job in a few minutes, without any files."""
    from icclip.quickstart import quickstart as run
    from icclip.report.parity_table import parity_tables
    from icclip.report.tables import metrics_table

    reporter = Reporter.for_this_process(json=json)
    result = run(output_dir, context.obj, reporter, {"epochs": epochs, "device": device, "overwrite": overwrite})
    exported = result.exported
    paths = {"run": str(result.run), "pictures": str(result.pictures), "bundle": str(exported.bundle)}
    payload = {**paths, "seconds": result.seconds, "metrics": result.metrics, "export": exported.to_mapping()}
    reporter.result(
        payload,
        metrics_table(result.metrics, "shapes, test (unseen pairs)"),
        *parity_tables(exported.parity, exported.sizes),
        NEXT.format(**paths),
    )
