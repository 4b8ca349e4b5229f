"""`icclip export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icclip.commands import options
from icclip.console import Reporter


def export(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="A run directory, a transformers directory or a hub id.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where the bundle appears once it passes.")],
    target: Annotated[str | None, typer.Option(help="onnx or tensorrt. \\[onnx]")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16, int8; may be repeated. \\[fp32]")] = None,
    dataset: options.Dataset = None,
    split: Annotated[str | None, typer.Option(help="That the bundle is proven on. \\[test]")] = None,
    sample: Annotated[int | None, typer.Option(help="Images compared where the split has more. [1000]")] = None,
    provider: Annotated[
        Literal["tensorrt", "cuda", "cpu"] | None, typer.Option(help="That has to run it. \\[the first that works]")
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER for every precision (drop_r1=0.02); may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample. [42]")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace the bundle that is there.")] = None,
    revision: options.Revision = None,
    image_column: options.ImageColumn = None,
    caption_column: options.CaptionColumn = None,
    dataset_revision: options.DatasetRevision = None,
    on_bad_image: options.OnBadImage = None,
    device: options.Device = None,
    workers: options.Workers = None,
    trust_remote_code: options.TrustRemoteCode = None,
    json: options.Json = False,
) -> None:
    """Turn a checkpoint into two encoders, proven on a real split to retrieve what it retrieves.

    A bundle that fails the gate is kept as <name>.failed, and the exit code is 3.
    """
    from icclip.exporting.request import export as run
    from icclip.exporting.request import export_config
    from icclip.report.parity_table import parity_tables

    data = {
        "image_column": image_column, "caption_column": caption_column, "revision": dataset_revision,
        "on_bad_image": on_bad_image, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    said = {
        "output_dir": output_dir, "target": target, "precisions": precision, "split": split, "sample": sample,
        "provider": provider, "seed": seed, "overwrite": overwrite, "revision": revision, "device": device,
        "workers": workers, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    config = export_config(context.obj, checkpoint, dataset, data, said, thresholds=threshold or ())
    reporter = Reporter.for_this_process(json=json)
    result = run(config, context.obj, reporter)
    reporter.result(result.to_mapping(), *parity_tables(result.parity, result.sizes))
    result.raise_if_failed()
