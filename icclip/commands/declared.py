"""Make the options of a command from the declarations of its config (see `icclip.config.declare`)."""

from __future__ import annotations

import functools
import inspect
import keyword
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from icclip.commands.completion import completer
from icclip.config.base import Config
from icclip.config.declare import OUTPUT, PANELS, REQUIRED, Declared, declared, together
from icclip.config.problems import Problem
from icclip.errors import ConfigError, UsageError

OptionGroup = tuple[Declared, ...]

FIRST = "What most runs need"
TYPED = "icclip.typed"
"""The key under which a context keeps the words of the command line."""

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as JSON to stdout, and nothing else there.",
        metavar="",
        rich_help_panel=OUTPUT,
    ),
]


class Command(TyperCommand):
    """Remembers the words that were typed, so that a message can name the flag that was."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Click does, and remember the words."""
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """The help option, in the last panel instead of the first."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.rich_help_panel, found.metavar = OUTPUT, ""
        return found


class Group(TyperGroup):
    """A group of subcommands; none of its own options takes a value, so none shows a placeholder for one."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As Click does."""
        found = super().get_params(ctx)
        for option in found:
            option.metavar = ""
        return found


def with_options(
    config: type[Config], *, first: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command all options of a config in addition to its own.

    The command's first parameter receives the given options, nested as `config.from_mapping` takes them; options
    that were not given are left out. A ConfigError that the command raises names the flags that were typed.

    Args:
        config: the config whose declarations become options.
        first: main flags that are shown before all others, in this order.
    """
    groups = _ordered(together(declared(config)), first)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        ours = {one.name for one in own}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            mine = {name: values[name] for name in values if name in ours and name != _CONTEXT}
            context = values[_CONTEXT]
            if _CONTEXT in ours:
                mine[_CONTEXT] = context
            typed = _typed_flags(groups, context.meta.get(TYPED, ()))
            try:
                command(_said(groups, values), **mine)
            except ConfigError as error:
                raise _spelled(error, groups, typed) from error

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined] # what Typer reads
            [
                inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
                *(parameter for group in groups for parameter in _parameters(group, first)),
                *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name != _CONTEXT),
            ]
        )
        return run

    return decorate


_CONTEXT = "context"


EARLY = ("--model", "--with", "--dataset", "--split", "--output-dir", "--output")
"""The flags that come first in their panels."""


def _ordered(groups: list[OptionGroup], first: Sequence[str]) -> list[OptionGroup]:
    leading = {flag: number for number, flag in enumerate(first)}
    order = {panel: number for number, panel in enumerate(PANELS)}
    early = {flag: number for number, flag in enumerate(EARLY)}

    def key(group: OptionGroup) -> tuple[int, ...]:
        flag = group[0].flags[0]
        # An argument that may be repeated takes all following words, so it comes last.
        if group[0].option.argument:
            return -1, _repeated(group[0])
        return (
            leading.get(flag, len(leading)),
            order.get(group[0].option.panel, len(order)),
            early.get(flag, len(early)),
        )

    return sorted(groups, key=key)


# From a declaration to what Typer reads -----------------------------------------------------------


def _parameters(group: OptionGroup, first: Sequence[str]) -> Iterator[inspect.Parameter]:
    """The option of a group, and a flag for each value that has one."""
    one = group[0]
    panel = FIRST if one.flags[0] in first else one.option.panel
    made = typer.Argument if one.option.argument else typer.Option
    flags = () if one.option.argument else one.flags
    annotation = made(
        *flags,
        help=_help(one),
        metavar=_metavar(one),
        rich_help_panel=None if one.option.argument else panel,
        autocompletion=None if one.option.complete is None else completer(one.option.complete),
        show_default=False,
    )
    hint = _typer_type(one)
    yield _parameter(
        _name(one),
        Annotated[hint if one.required else hint | None, annotation],
        inspect.Parameter.empty if one.required else None,
    )
    for value in one.option.switches:
        text = f"The same as {one.flags[0]} {value}."
        switch = typer.Option(f"--{value}", help=text, metavar="", rich_help_panel=panel, show_default=False)
        yield _parameter(value, Annotated[bool, switch], default=False)


def _repeated(one: Declared) -> bool:
    return typing.get_origin(one.plain_hint) is tuple


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _name(one: Declared) -> str:
    name = one.flags[0].lstrip("-").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _metavar(one: Declared) -> str | None:
    """The placeholder for the value in the help text; None shows the choices."""
    if one.option.metavar or one.option.argument:
        return one.option.metavar
    hint = one.plain_hint
    return None if typing.get_origin(hint) is typing.Literal else _METAVARS.get(hint, "TEXT")


_METAVARS: Mapping[Any, str] = {bool: "", int: "N", float: "NUMBER", Path: "PATH"}


def _typer_type(one: Declared) -> Any:
    hint = one.plain_hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return list[str] if one.option.separated else list[arguments[0]]  # type: ignore[valid-type] # at run time
    if origin is not None and origin is not typing.Literal:
        return list[str]
    return str if isinstance(hint, type) and issubclass(hint, Config) else hint


def _help(one: Declared) -> str:
    default = one.option.unset or _shown(one.default)
    text = one.option.help + (f" [default: {default}]" if default else "")
    # Rich would take text in brackets for a style.
    return text.replace("[", "\\[")


def _shown(value: Any) -> str:
    if value is REQUIRED or value is None or value is False or (isinstance(value, tuple | dict) and not value):
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# From what was given to what a config is made from ------------------------------------------------


def _said(groups: Iterable[OptionGroup], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were given, nested as the fields are that they belong to."""
    said: dict[str, Any] = {}
    for group in groups:
        value = _value(group[0], values)
        if value is None:
            continue
        for one in group:
            table = said
            for name in one.path[:-1]:
                table = table.setdefault(name, {})
            table[one.path[-1]] = value
    return said


def _value(one: Declared, values: Mapping[str, Any]) -> Any:
    """The value of an option, given by its flag or by the flag of one of its values; None if it was not given."""
    given = values[_name(one)]
    chosen = [value for value in one.option.switches if values[value]]
    if _repeated(one) and (given or chosen):
        return _items(one, [*(given or ()), *chosen])
    flags = [*([one.flags[0]] if given is not None and chosen else []), *(f"--{value}" for value in chosen)]
    if len(flags) > 1:
        raise UsageError(f"{flags[0]} and {flags[1]} exclude each other: choose one")
    if chosen:
        return chosen[0]
    # Typer gives an empty list for a repeatable option that was not given.
    return None if given == [] else _pairs(one, given)


def _items(one: Declared, given: Sequence[Any]) -> list[Any]:
    """The values of a list; an option that takes `a,b` takes `none` for an empty list."""
    if not one.option.separated:
        return list(given)
    items = [item for value in given for item in value.split(",") if item and item != "none"]
    number = typing.get_args(one.plain_hint)[0]
    if number not in _EXAMPLES:
        return items
    try:
        return [number(item) for item in items]
    except ValueError as error:
        example = _EXAMPLES[number]
        raise UsageError(f"{one.flags[-1]} {','.join(given)}: write it as {one.flags[-1]} {example}") from error


_EXAMPLES: Mapping[Any, str] = {float: "0,0.5,1", int: "1,5,10"}
"""How a list of numbers is written."""


def _pairs(one: Declared, given: Any) -> Any:
    """Parse `NAME=VALUE` for an option that is a mapping; other values are returned as they are."""
    if typing.get_origin(one.plain_hint) in (None, typing.Literal) or not isinstance(given, list):
        return given
    numbers = typing.get_args(one.plain_hint)[1] is float
    return dict(_pair(one.flags[0], assignment, numbers=numbers) for assignment in given)


def _pair(flag: str, assignment: str, *, numbers: bool) -> tuple[str, Any]:
    name, equals, value = assignment.partition("=")
    if not name or not equals:
        raise UsageError(f"{flag} {assignment}: write it as {flag} NAME={'NUMBER' if numbers else 'VALUE'}")
    name = name.strip().replace("-", "_")
    if not numbers:
        return name, value
    try:
        return name, float(value)
    except ValueError as error:
        raise UsageError(f"{flag} {assignment}: {value!r} is not a number") from error


# The flag that was typed --------------------------------------------------------------------------


def _typed_flags(groups: Iterable[OptionGroup], words: Sequence[str]) -> dict[str, str]:
    """The flag by which each field was given, as the user typed it."""
    heads = {word.split("=", 1)[0].replace("_", "-"): word.split("=", 1)[0] for word in words if word[:1] == "-"}
    typed = {}
    for group in groups:
        flags = (*group[0].flags, *(f"--{value}" for value in group[0].option.switches))
        found = [heads[flag] for flag in flags if flag in heads]
        typed.update({one.owner: found[-1] for one in group if found})
    return typed


def _spelled(error: ConfigError, groups: Iterable[OptionGroup], typed: Mapping[str, str]) -> ConfigError:
    main = {one.owner: one.flags[0] for group in groups for one in group}
    problems = [one.spelled(typed, main) if isinstance(one, Problem) else one for one in error.problems]
    # Fields that are set by one flag would all report the same problem.
    return ConfigError(list(dict.fromkeys(map(str, problems))))
