"""The options that commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset", "-d", help="A dataset's name, name@path, or a path: parquet or image folder, .jsonl, .csv."
    ),
]
ImageColumn = Annotated[str | None, typer.Option(help="Column that holds the image (hub, jsonl, csv).")]
CaptionColumn = Annotated[str | None, typer.Option(help="Column that holds the caption or captions.")]
DatasetRevision = Annotated[str | None, typer.Option(help="Revision of a hub dataset.")]
ValFraction = Annotated[
    float | None, typer.Option(help="Share of the images that becomes a split which the source lacks. [0.1]")
]
OnBadImage = Annotated[
    Literal["fail", "skip"] | None, typer.Option(help="An image that cannot be read: stop, or skip and count. [fail]")
]
AllowOutsideRoot = Annotated[
    bool | None, typer.Option("--allow-outside-root", help="Let a manifest name files outside its own directory.")
]
TrustRemoteCode = Annotated[
    bool | None, typer.Option("--trust-remote-code", help="Run code that the model's repository contains.")
]
Workers = Annotated[int | None, typer.Option(help="Processes that load images. [from the cores]")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [the GPU where there is one]")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="float16 autocast over float32 weights (CUDA).")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="bfloat16 autocast over float32 weights.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with the run's options.")]


def precision(*, fp16: bool, bf16: bool, fp32: bool = False) -> str | None:
    """The flags as one value; None where none is given, and two at once are refused."""
    chosen = [name for name, given in (("fp16", fp16), ("bf16", bf16), ("fp32", fp32)) if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"--{chosen[0]} and --{chosen[1]} exclude each other: choose one")
    return chosen[0] if chosen else None
