"""`icclip eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter


def evaluate(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="A run or transformers directory, a hub id, a bundle.")],
    dataset: options.Dataset = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test. \\[test]")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="For the metrics. \\[the run, or eval/MODEL-DATA]")] = None,
    eval_bs: Annotated[int | None, typer.Option(help="Images at once. \\[as trained, else 128]")] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="No autocast, whatever the run was trained with.")] = False,
    fp16: options.Fp16 = False,
    bf16: options.Bf16 = False,
    precision: Annotated[str | None, typer.Option(help="One that a bundle holds. \\[fp32]")] = None,
    provider: options.Provider = None,
    device: options.Device = None,
    workers: options.Workers = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples for the intervals; 0: none. [1000]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the resamples. [42]")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A plugin's metric to add; may be repeated.")] = None,
    revision: options.Revision = None,
    image_column: options.ImageColumn = None,
    caption_column: options.CaptionColumn = None,
    dataset_revision: options.DatasetRevision = None,
    val_fraction: options.ValFraction = None,
    split_seed: Annotated[int | None, typer.Option(help="Of made splits. \\[as trained, else 42]")] = None,
    on_bad_image: options.OnBadImage = None,
    image_root: options.ImageRoot = None,
    download: options.Download = None,
    template: options.Template = None,
    allow_outside_root: options.AllowOutsideRoot = None,
    trust_remote_code: options.TrustRemoteCode = None,
    json: options.Json = False,
) -> None:
    """Measure retrieval, with 95 % intervals: of a run on its own held-out data, unless --dataset names other."""
    from icclip.evaluating.request import eval_config
    from icclip.evaluating.run import evaluate as run
    from icclip.report.tables import metrics_table

    data = {
        "image_column": image_column, "caption_column": caption_column, "revision": dataset_revision,
        "val_fraction": val_fraction, "seed": split_seed, "on_bad_image": on_bad_image,
        "image_root": image_root, "download": download, "template": template,
        "allow_outside_root": allow_outside_root, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    said = {
        "split": split, "output_dir": output_dir, "eval_bs": eval_bs, "device": device, "workers": workers,
        "precision": options.precision(fp16=fp16, bf16=bf16, fp32=fp32), "bootstrap": bootstrap, "seed": seed,
        "metrics": tuple(metric or ()), "revision": revision, "trust_remote_code": trust_remote_code,
        "bundle_precision": precision, "provider": provider,
    }  # fmt: skip
    reporter = Reporter.for_this_process(json=json)
    config = eval_config(context.obj, checkpoint, dataset, data, said)
    metrics = run(config, context.obj, reporter)
    reporter.result(metrics, metrics_table(metrics, f"{config.data.name}, {config.split}"))
