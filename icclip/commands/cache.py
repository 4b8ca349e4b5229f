"""`icclip cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from icclip.commands.declared import Command, Group, Json
from icclip.console import Reporter

app = typer.Typer(
    cls=Group,
    help="List or delete what icclip keeps on disk: decoded images, downloads, optimised graphs.",
    no_args_is_help=True,
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.", metavar="")]


@app.command("list", cls=Command)
def list_cached(*, json: Json = False) -> None:
    """List every cached file with its size. ICCLIP_CACHE says where the caches are."""
    from icclip.caches import cache_entries
    from icclip.report.caches import CacheList

    Reporter.for_this_process(json=json).deliver(CacheList(cache_entries()))


@app.command("clear", cls=Command)
def clear(*, yes: Yes = False, json: Json = False) -> None:
    """Delete every cached file. The next run that needs one makes or downloads it again."""
    from icclip.caches import cache_entries, clear_cache
    from icclip.report.caches import CacheCleared, question

    entries = cache_entries()
    if entries and not yes:
        typer.confirm(question(entries), abort=True, err=True)
    Reporter.for_this_process(json=json).deliver(CacheCleared(clear_cache(entries)))
