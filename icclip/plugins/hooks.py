"""The hooks a plugin may implement. Each returns a list of specs; the registry decides.

A plugin is a module (or any object) that an entry point of the group `icclip` names:

    from icclip import hookimpl
    from icclip.plugins import DatasetSpec

    @hookimpl
    def icclip_datasets() -> list[DatasetSpec]: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer

    from icclip.plugins.specs import BackendSpec, DatasetSpec, ExportTargetSpec, IndexTargetSpec, MetricSpec

PROJECT = "icclip"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def icclip_model_backends() -> list[BackendSpec]:  # type: ignore[empty-body]
    """Return families of dual encoders: how they are loaded, their loss and their text policy."""


@hookspec
def icclip_datasets() -> list[DatasetSpec]:  # type: ignore[empty-body]
    """Return sources of captioned images."""


@hookspec
def icclip_metrics() -> list[MetricSpec]:  # type: ignore[empty-body]
    """Return metrics that are computed from the ranks of a retrieval run."""


@hookspec
def icclip_export_targets() -> list[ExportTargetSpec]:  # type: ignore[empty-body]
    """Return formats that trained encoders are exported to."""


@hookspec
def icclip_index_targets() -> list[IndexTargetSpec]:  # type: ignore[empty-body]
    """Vector databases that an index of images is written to."""


@hookspec
def icclip_commands(app: typer.Typer) -> None:
    """Add subcommands to `icclip`: decorate functions with `@app.command()`."""
