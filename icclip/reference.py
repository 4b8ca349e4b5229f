"""Read every option of every command, as values and as a page of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from icclip.plugins.registry import Registry

_DEFAULT = re.compile(r"\s*\[default: (.*)\]$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option or argument of a command."""

    flags: tuple[str, ...]
    """The main flag, then its aliases; the name of an argument."""
    type: str
    """The placeholder for the value, such as `N` or `on|off`; empty for a switch."""
    default: str
    """What happens without it; empty if nothing does, or if it is required."""
    help: str
    panel: str
    """The heading above it in `--help`."""


def commands() -> dict[str, Any]:
    """All commands that come with icclip by what is typed after `icclip`: `train`, `config show`."""
    from icclip.cli import app

    group = typer.main.get_group(app)
    for plugin in Registry().built_in:
        group.commands.update(plugin.commands)
    return dict(_leaves(group, ""))


def options_of(command: str) -> list[OptionRow]:
    """The arguments and options of a command, as `--help` has them in its panels; raises KeyError."""
    return rows(commands()[command])


def rows(command: Any) -> list[OptionRow]:
    """Like `options_of`, for a Click command."""
    context = typer.Context(command)
    return [_row(one, context) for one in command.params if not getattr(one, "hidden", False)]


def markdown_reference() -> str:
    """All commands, each with a table for each panel."""
    return "\n".join(line for name, command in commands().items() for line in _page(name, command))


def _leaves(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{path}{name} ")
        else:
            yield path + name, command


def _row(one: Any, context: typer.Context) -> OptionRow:
    text = (one.help or "").replace("\\[", "[")
    said = _DEFAULT.search(text)
    default = said.group(1) if said else "" if one.default in (None, False) or callable(one.default) else one.default
    is_argument = one.param_type_name == "argument"
    return OptionRow(
        flags=(one.name,) if is_argument else tuple(sorted(one.opts, key=lambda flag: not flag.startswith("--"))),
        type="" if getattr(one, "is_flag", False) else str(one.display_type_rich(context) or "").strip("<>"),
        default=str(default),
        help=_DEFAULT.sub("", text),
        panel=getattr(one, "rich_help_panel", None) or ("Arguments" if is_argument else "Options"),
    )


def _page(name: str, command: Any) -> Iterator[str]:
    panels: dict[str, list[OptionRow]] = {}
    for row in rows(command):
        panels.setdefault(row.panel, []).append(row)
    yield f"## icclip {name}\n"
    yield f"{' '.join((command.help or '').split())}\n"
    for panel, inside in panels.items():
        yield f"#### {panel}\n"
        yield "| option | value | default | meaning |"
        yield "|---|---|---|---|"
        for row in inside:
            flags = ", ".join(f"`{flag}`" for flag in row.flags)
            yield f"| {flags} | {_cell(row.type)} | {_cell(row.default)} | {_cell(row.help)} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
