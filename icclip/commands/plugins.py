"""`icclip plugins`."""

from __future__ import annotations

import typer

app = typer.Typer(help="What is installed, and whether it works.", no_args_is_help=True)


@app.command("list")
def list_plugins() -> None:
    """Every model backend, dataset, metric and export target."""


@app.command("check")
def check(name: str) -> None:
    """Run the conformance kit against one of them."""
