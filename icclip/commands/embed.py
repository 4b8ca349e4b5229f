"""`icclip embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from icclip.commands import options
from icclip.console import Reporter


def embed(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="A bundle, a run directory, a transformers directory or a hub id.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Image files, directories (with all below them) and patterns.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A UTF-8 file, one text a line.")] = None,
    dataset: options.Dataset = None,
    split: Annotated[str, typer.Option(help="Split of --dataset, whose images are embedded.")] = "test",
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy or .parquet file.")] = Path("embeddings.npy"),
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs at once.")] = 32,
    on_bad_image: Annotated[
        Literal["fail", "skip"], typer.Option(help="An image that cannot be read: stop, or leave it out and list it.")
    ] = "fail",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same command was interrupted.")] = False,
    precision: Annotated[str | None, typer.Option(help="One that the bundle holds. \\[fp32]")] = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    device: options.Device = None,
    fp16: options.Fp16 = False,
    bf16: options.Bf16 = False,
    workers: options.Workers = None,
    trust_remote_code: options.TrustRemoteCode = None,
    json: options.Json = False,
) -> None:
    """Write unit embeddings of images, texts or a dataset's images, row by row as given."""
    from icclip.embedding.run import EmbedRequest
    from icclip.embedding.run import embed as run
    from icclip.encoders import EncoderRequest

    reporter = Reporter.for_this_process(json=json)
    encoder = EncoderRequest(
        checkpoint=checkpoint, revision=revision, device=device, workers=workers,
        precision=options.precision(fp16=fp16, bf16=bf16) or "fp32", trust_remote_code=bool(trust_remote_code),
        bundle_precision=precision, provider=provider, threads=threads,
    )  # fmt: skip
    request = EmbedRequest(
        encoder=encoder, images=tuple(images or ()), texts=texts, dataset=dataset, split=split, output=output,
        batch_size=batch_size, on_bad_image=on_bad_image, resume=resume,
    )  # fmt: skip
    reporter.result(run(request, context.obj, reporter))
