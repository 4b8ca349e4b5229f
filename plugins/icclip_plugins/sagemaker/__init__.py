"""`icclip sagemaker`: training, serving and pipelines on Amazon SageMaker.

commands     the subcommands
asked        their options
jobs         what each of them does
settings     what `config/sagemaker.yaml` and the options say
calls        the requests of AWS's API, as values
account      makes the calls, waits, and turns refusals into one line
packaging    the archive that a container unpacks
training     the entry point of a training job
serving      what a serving container starts
handlers     `model_fn` and its companions, for containers that want them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def icclip_commands(app: typer.Typer) -> None:
    """`icclip sagemaker`."""
    from icclip_plugins.sagemaker.commands import app as own

    app.add_typer(own, name="sagemaker")
