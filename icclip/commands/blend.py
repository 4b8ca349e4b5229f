"""`icclip blend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter


def blend(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="A fine-tuned model: a run or transformers directory, a hub id.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where the mixture appears.")],
    other: Annotated[str | None, typer.Option("--with", help="The other model. \\[what the run began with]")] = None,
    alpha: Annotated[float | None, typer.Option(help="Share of CHECKPOINT, from 0 to 1, as it is.")] = None,
    alphas: Annotated[
        str | None, typer.Option(help="Shares to choose from on the validation split. [0,0.1,...,1]")
    ] = None,
    dataset: options.Dataset = None,
    image_column: options.ImageColumn = None,
    caption_column: options.CaptionColumn = None,
    dataset_revision: options.DatasetRevision = None,
    val_fraction: options.ValFraction = None,
    on_bad_image: options.OnBadImage = None,
    allow_outside_root: options.AllowOutsideRoot = None,
    device: options.Device = None,
    workers: options.Workers = None,
    trust_remote_code: options.TrustRemoteCode = None,
    json: options.Json = False,
) -> None:
    """Mix a fine-tuned model with what it was trained from (WiSE-FT): often better than either elsewhere.

    The share is chosen on the validation split, never on the test split.
    """
    from icclip.blending.run import blend as run
    from icclip.blending.run import blend_config, shares
    from icclip.report.blend import blend_table

    data = {
        "image_column": image_column, "caption_column": caption_column, "revision": dataset_revision,
        "val_fraction": val_fraction, "on_bad_image": on_bad_image, "allow_outside_root": allow_outside_root,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    said = {"device": device, "workers": workers, "trust_remote_code": trust_remote_code}
    config = blend_config(
        context.obj, checkpoint, other, dataset, data, output_dir=output_dir, alphas=shares(alpha, alphas), options=said
    )
    reporter = Reporter.for_this_process(json=json)
    result = run(config, context.obj, reporter)
    reporter.result(result.to_mapping(), blend_table(result))
