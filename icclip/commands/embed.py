"""`icclip embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter


def embed(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A directory that `icclip export` made.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Image files.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A UTF-8 file, one text a line.")] = None,
    dataset: options.Dataset = None,
    split: Annotated[str, typer.Option(help="Split of --dataset, whose images are embedded.")] = "test",
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy or .parquet file.")] = Path("embeddings.npy"),
    precision: Annotated[str | None, typer.Option(help="One that the bundle holds. [fp32]")] = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs at once.")] = 32,
    json: options.Json = False,
) -> None:
    """Write unit embeddings of images, texts or a dataset's images, row by row as given."""
    from icclip.runtime.embed import EmbedRequest
    from icclip.runtime.embed import embed as run

    reporter = Reporter.for_this_process(json=json)
    request = EmbedRequest(
        bundle=bundle, images=tuple(images or ()), texts=texts, dataset=dataset, split=split, output=output,
        precision=precision, provider=provider, threads=threads, batch_size=batch_size,
    )  # fmt: skip
    reporter.result(run(request, context.obj, reporter))
