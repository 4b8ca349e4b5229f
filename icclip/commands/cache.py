"""`icclip cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from icclip.commands.declared import Json
from icclip.console import Reporter

app = typer.Typer(help="Decoded images that icclip keeps on the disk: list them, delete them.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


@app.command("list")
def list_cached(*, json: Json = False) -> None:
    """List every cached file with its size. ICCLIP_CACHE says where the caches are."""
    from icclip.caches import cache_directory, cache_entries
    from icclip.report.doctor import cache_table

    entries = cache_entries()
    payload = {"directory": str(cache_directory()), "entries": [entry.to_mapping() for entry in entries]}
    Reporter.for_this_process(json=json).result(payload, cache_table(entries))


@app.command("clear")
def clear(*, yes: Yes = False, json: Json = False) -> None:
    """Delete every cached file. The next run that needs one decodes its images again."""
    from icclip.caches import cache_directory, cache_entries, clear_cache
    from icclip.report.doctor import cleared_line, size_text

    entries = cache_entries()
    size = size_text(sum(entry.bytes for entry in entries))
    if entries and not yes:
        typer.confirm(f"Delete {len(entries)} cached files ({size}) in {cache_directory()}?", abort=True, err=True)
    cleared = clear_cache(entries)
    Reporter.for_this_process(json=json).result(cleared.to_mapping(), cleared_line(cleared))
