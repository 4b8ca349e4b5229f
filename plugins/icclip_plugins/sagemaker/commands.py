"""The subcommands of `icclip sagemaker`: options -> config -> one call, declared as icclip's own are."""

from __future__ import annotations

from typing import Any

import typer

from icclip.commands.declared import Command, Json, with_options
from icclip.console import Reporter
from icclip_plugins.sagemaker.asked import (
    DeleteConfig,
    DeployConfig,
    InvokeConfig,
    PackageConfig,
    PipelineConfig,
    TrainJobConfig,
    TransformConfig,
)

app = typer.Typer(no_args_is_help=True, help="Train, deploy and clean up on Amazon SageMaker.")


@app.command(cls=Command)
@with_options(TrainJobConfig)
def train(said: Any, *, json: Json = False) -> None:
    """Start a training job: the same `icclip train`, in a PyTorch training container."""
    from icclip_plugins.sagemaker.jobs import train as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(TrainJobConfig.from_mapping(said), reporter))


@app.command(cls=Command)
@with_options(DeployConfig)
def deploy(said: Any, *, json: Json = False) -> None:
    """Make an endpoint that answers the seed project's JSON, and wait until it is in service."""
    from icclip_plugins.sagemaker.jobs import deploy as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(DeployConfig.from_mapping(said), reporter))


@app.command(cls=Command)
@with_options(InvokeConfig)
def invoke(said: Any, *, json: Json = False) -> None:
    """Ask an endpoint which texts fit a picture best."""
    from icclip_plugins.sagemaker.jobs import invoke as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(InvokeConfig.from_mapping(said), reporter))


@app.command("batch-transform", cls=Command)
@with_options(TransformConfig)
def batch_transform(said: Any, *, json: Json = False) -> None:
    """Answer many requests from files, without an endpoint."""
    from icclip_plugins.sagemaker.jobs import batch_transform as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(TransformConfig.from_mapping(said), reporter))


@app.command(cls=Command)
@with_options(PipelineConfig)
def pipeline(said: Any, *, json: Json = False) -> None:
    """Make a pipeline: TrainCLIP, then RegisterCLIP, whose model waits for approval."""
    from icclip_plugins.sagemaker.jobs import pipeline as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(PipelineConfig.from_mapping(said), reporter))


@app.command(cls=Command)
@with_options(DeleteConfig)
def delete(said: Any, *, json: Json = False) -> None:
    """Remove an endpoint, its configuration and its model, so that nothing costs any more."""
    from icclip_plugins.sagemaker.jobs import delete as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(DeleteConfig.from_mapping(said), reporter))


@app.command(cls=Command)
@with_options(PackageConfig)
def package(said: Any, *, json: Json = False) -> None:
    """Write model.tar.gz and sourcedir.tar.gz, as the containers unpack them, and train_job.py for SageMaker's SDK."""
    from icclip_plugins.sagemaker.jobs import package as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(PackageConfig.from_mapping(said)))
