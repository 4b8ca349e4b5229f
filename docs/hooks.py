"""What the site takes from the code when it is built: every command with its options, and how-to pages as they come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

OPTIONS = "<!-- options -->"
OTHERS = "Options"
SECTION = "How to"
KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}
PAGES = Path(__file__).parent / "pages"


def on_config(config: Any) -> Any:
    """Add the how-to pages that the navigation does not name to the end of their section."""
    named = re.findall(r"how-to/[\w-]+\.md", str(config.nav))
    present = sorted(f"how-to/{path.name}" for path in (PAGES / "how-to").glob("*.md"))
    for entry in config.nav:
        entry.get(SECTION, []).extend(page for page in present if page not in named)
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the options of every command where a page has their marker."""
    return markdown.replace(OPTIONS, options_reference()) if OPTIONS in markdown else markdown


def options_reference() -> str:
    """Markdown: a section for each command, with a table for each panel of its options."""
    from icclip.cli import app

    root = typer.main.get_group(app)
    return "\n\n".join("\n\n".join(_command(name, command)) for name, command in _leaves(root.commands, "icclip"))


def _leaves(commands: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in commands.items():
        if inner := getattr(command, "commands", None):
            yield from _leaves(inner, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}"
    yield _prose(command.help or "")
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join([name, *(_metavar(one) for one in arguments), "[OPTIONS]"])
    yield f"```text\n{usage}\n```"
    if arguments:
        yield _table("Argument", ((f"`{_metavar(one)}`", one.help or "") for one in arguments))
    panels: dict[str, list[Any]] = {}
    for one in command.params:
        if one.param_type_name == "option" and not one.hidden and "--help" not in one.opts:
            panels.setdefault(getattr(one, "rich_help_panel", None) or OTHERS, []).append(one)
    for panel, options in panels.items():
        if len(panels) > 1:
            yield f"**{panel}**"
        yield _table("Option", ((_names(one), one.help or "") for one in options))


def _metavar(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    names = sorted((*option.opts, *option.secondary_opts), key=lambda name: not name.startswith("--"))
    first = f"`{' '.join(filter(None, (names[0], _values(option))))}`"
    return ", ".join([first, *(f"`{name}`" for name in names[1:])])


def _values(option: Any) -> str:
    """`NUMBER`, or the choices with slashes: a bar would end the table's cell."""
    return "" if option.is_flag else _described(option.type_descriptor.annotation)


def _described(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " / ".join(map(str, get_args(annotation)))
    inner = [one for one in get_args(annotation) if one is not type(None)]
    return _described(inner[0]) if inner else KINDS.get(annotation, "TEXT")


def _table(head: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {head} | Meaning |", "| --- | --- |"]
    lines += [f"| {name} | {_prose(text).replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """A help text without the escapes that rich needs; Markdown must not see brackets as links or HTML."""
    plain = " ".join(text.replace("\\[", "[").split())
    return re.sub(r"([\[\]*_])", r"\\\1", plain.replace("<", "&lt;").replace(">", "&gt;"))
