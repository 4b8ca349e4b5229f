"""`icclip index`."""

from __future__ import annotations

from typing import Any

import typer

from icclip.commands.declared import Command, Group, Json, with_options
from icclip.config.indexing import AddConfig, IndexConfig, InfoConfig, RemoveConfig
from icclip.console import Reporter

BUILD = "build"


class IndexGroup(Group):
    """`icclip index MODEL ...` is `icclip index build MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Click does, after putting in the command that builds where no other is named."""
        return super().parse_args(ctx, self.completed(args))

    def completed(self, args: list[str]) -> list[str]:
        """The words with the command that builds in front, where they name no other."""
        named = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return args if named else [BUILD, *args]


app = typer.Typer(
    cls=IndexGroup,
    help="Build an index of embeddings: icclip index MODEL --images DIR -o INDEX. Add to it, remove from it, look at it.",
    no_args_is_help=True,
)


@app.command(BUILD, cls=Command)
@with_options(IndexConfig)
def build(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Build an index of images with FAISS; the word build may be left out: icclip index MODEL --images DIR -o INDEX.

    The gate then compares the index with exact search, with text and with image queries. The exit code is 3 if it
    finds too little.
    """
    from icclip.searching.build import build_index
    from icclip.searching.request import index_config
    from icclip.searching.targets import write_to_target

    reporter = Reporter.for_this_process(json=json)
    registry = context.find_root().obj
    config = index_config(registry, said)
    run = build_index if config.to is None else write_to_target
    reporter.deliver(run(config, registry, reporter))


@app.command("add", cls=Command)
@with_options(AddConfig)
def add(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Add what is new, or has changed, to an index."""
    from icclip.searching.change import add as run
    from icclip.searching.request import add_config

    reporter = Reporter.for_this_process(json=json)
    registry = context.find_root().obj
    reporter.deliver(run(add_config(registry, said), registry, reporter))


@app.command("remove", cls=Command)
@with_options(RemoveConfig)
def remove(said: Any, *, json: Json = False) -> None:
    """Remove items from an index."""
    from icclip.searching.change import remove as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(RemoveConfig.from_mapping(said), reporter))


@app.command("info", cls=Command)
@with_options(InfoConfig)
def info(said: Any, *, json: Json = False) -> None:
    """Show what an index holds, how it was made, and what the gate measured."""
    from icclip.searching.change import info as run

    reporter = Reporter.for_this_process(json=json)
    reporter.deliver(run(InfoConfig.from_mapping(said)))
