"""`icclip verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icclip.commands import options
from icclip.console import Reporter


def verify(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A directory that `icclip export` made.")],
    dataset: options.Dataset = None,
    split: Annotated[str | None, typer.Option(help="Split of --dataset. \\[the gate's]")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated. \\[all]")] = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Check a bundle anywhere, without torch: hashes, golden inputs and, with --dataset, retrieval.

    The thresholds are those of the bundle's parity.json. Exit code 3 says that a check failed.
    """
    from icclip.report.checks import checks_table
    from icclip.verifying.run import load_retrieval_data
    from icclip.verifying.run import verify as run

    reporter = Reporter.for_this_process(json=json)
    data = None if dataset is None else load_retrieval_data(context.obj, dataset, bundle, split, reporter)
    outcome = run(
        bundle, registry=context.obj, precisions=precision or (), provider=provider, threads=threads, data=data,
        reporter=reporter,
    )  # fmt: skip
    reporter.result(outcome.to_mapping(), checks_table(outcome.to_mapping()["checks"], str(bundle)))
    outcome.raise_if_failed()
