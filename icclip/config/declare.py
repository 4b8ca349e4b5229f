"""An option is declared once, in the field of its config.

The declaration defines the flag of every command that takes the config, its help and its panel, the range check
and the name that the check uses, the comment in the TOML file, whether a resumed run may change it, the arguments
of transformers that it replaces, and the row of the reference page:

    near_duplicates: int | None = option(
        "Also treat images as duplicates when their 64-bit hashes differ in at most N bits.",
        None, panel=DATA, at_least=0, at_most=16,
    )
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

MODEL_AND_DATA = "Model and data"
SCHEDULE = "Schedule"
BATCH = "Batch and memory"
PRECISION = "Precision and devices"
GENTLE = "Gentle fine-tuning"
DATA = "Data handling"
MEASURE = "Measurement"
RUN = "Run directory"
PUBLICATION = "Publication"
LOGGING = "Logging"
OUTPUT = "Output"
SHARDS = "Shards"
PANELS = (MODEL_AND_DATA, SCHEDULE, BATCH, PRECISION, GENTLE, DATA, MEASURE, RUN, PUBLICATION, LOGGING, OUTPUT, SHARDS)
"""The panels in the order in which people think about a run, which is also the order in `--help`."""

Resume = Literal["fixed", "reported", "extends", "free"]
"""Whether a resumed run may change a setting. `fixed`: it cannot change, because the optimizer's state, the order of
the data or the weights depend on it. `reported`: a change takes effect and is reported. `extends`: the same, and it
lets a complete run continue. `free`: it may change silently, because the result does not depend on it."""

REQUIRED: Any = dataclasses.MISSING
"""The default of a field that must be given."""

_OPTION, _NESTED = "icclip.option", "icclip.nested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a field declares besides its type and its default."""

    help: str
    """The help text, a complete sentence."""
    panel: str = DATA
    flags: tuple[str, ...] = ()
    """The main flag, then its aliases; if empty, the flag is the field's name. Fields with the same main flag are set together."""
    argument: bool = False
    """Given by its position on the command line, without a flag."""
    metavar: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    unset: str = ""
    """What happens without the option, for the help text, if the default is None or depends on something."""
    switches: tuple[str, ...] = ()
    """Values that have a flag of their own, such as `--fp16` for `--precision fp16`."""
    separated: bool = False
    """Whether one flag may have several values separated by commas; `none` stands for no value."""
    resume: Resume = "reported"
    replaces: tuple[str, ...] = ()
    """Fields of transformers' TrainingArguments that `--set` may not touch because this option does."""
    complete: str | None = None
    """The names that the shell completes: a kind of `icclip.commands.completion`."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a number, such as `it must be at least 2`; None if it is allowed."""
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        said = {words: limit for words, limit in limits.items() if limit is not None}
        if value is None or all(_KEEPS[words](value, limit) for words, limit in said.items()):
            return None
        return f"it must be {' and '.join(f'{words} {limit:g}' for words, limit in said.items())}"


_KEEPS: Mapping[str, Callable[[float, float], bool]] = {
    "at least": lambda value, limit: value >= limit,
    "at most": lambda value, limit: value <= limit,
    "above": lambda value, limit: value > limit,
    "below": lambda value, limit: value < limit,
}


@dataclass(frozen=True, slots=True)
class _Nested:
    leave_out: frozenset[str]
    unset: Mapping[str, str]
    help: Mapping[str, str]
    resume: Resume


def option(text: str, default: Any = None, **details: Any) -> Any:
    """Declare a config field that is an option.

    Args:
        text: the help text, a complete sentence.
        default: the default value; a type (`dict`, `tuple`) makes a new value each time; REQUIRED means no default.
        details: the other fields of `Option`.
    """
    metadata = {_OPTION: Option(help=text, **details)}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(text: str, default: Any = REQUIRED, **details: Any) -> Any:
    """Declare a config field that a command takes by its position, as an argument."""
    return option(text, default, argument=True, panel=MODEL_AND_DATA, **details)


def nested(
    default: Any = REQUIRED,
    *,
    leave_out: tuple[str, ...] = (),
    unset: Mapping[str, str] = types.MappingProxyType({}),
    help: Mapping[str, str] = types.MappingProxyType({}),  # noqa: A002 # as in Option
    resume: Resume = "reported",
) -> Any:
    """Declare a field that is itself a config; its options become options of the config that holds it.

    Args:
        default: a value, or a config class that is made without arguments; REQUIRED means no default.
        leave_out: fields that are not offered as options here.
        unset: for a field, what happens here without its option, for the help text.
        help: for a field, its help text here.
        resume: the rule for a resumed run, for all of its fields.
    """
    metadata = {_NESTED: _Nested(frozenset(leave_out), unset, help, resume)}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Declared(typing.NamedTuple):
    """One option of a config, or of a config inside it."""

    path: tuple[str, ...]
    """The names of the fields that lead to it."""
    owner: str
    """`Class.field`, wherever the class is used."""
    hint: Any
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """The main flag and its aliases; the field's name for an argument."""
        name = self.path[-1]
        if self.option.argument:
            return (name,)
        return self.option.flags or (f"--{name.replace('_', '-')}",)

    @property
    def required(self) -> bool:
        """Whether a command requires it: it has no default, and nothing else happens without it."""
        alone = len(self.path) == 1 or self.option.argument
        return alone and self.default is REQUIRED and not self.option.unset

    @property
    def plain_hint(self) -> Any:
        """The annotated type without `| None`."""
        return without_none(self.hint)


def own_option(field: dataclasses.Field[Any]) -> Option | None:
    """The declaration of a field; None if the field is not an option."""
    return field.metadata.get(_OPTION)


def declared(config: type) -> Iterator[Declared]:
    """All options of a config class; its own come before those of the configs inside it."""
    return _declared(config, (), _Nested(frozenset(), {}, {}, "reported"))


def _declared(config: type, path: tuple[str, ...], here: _Nested) -> Iterator[Declared]:
    hints = typing.get_type_hints(config)
    # A slotted dataclass is created twice, and its fields belong to the second class.
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(config)
    for field in fields:
        found = own_option(field)
        if found is not None and field.name not in here.leave_out:
            full, owner = (*path, field.name), f"{config.__qualname__}.{field.name}"
            text, unset = here.help.get(field.name, found.help), here.unset.get(field.name, found.unset)
            shown = dataclasses.replace(found, help=text, unset=unset)
            yield Declared(full, owner, hints[field.name], _default(field), shown)
    for field in fields:
        inner: _Nested | None = field.metadata.get(_NESTED)
        if inner is not None:
            yield from _declared(without_none(hints[field.name]), (*path, field.name), inner)


def together(options: typing.Iterable[Declared]) -> list[tuple[Declared, ...]]:
    """Group the options that are set by one flag; the first of a group represents it."""
    groups: dict[str, list[Declared]] = {}
    for one in options:
        groups.setdefault(one.flags[0], []).append(one)
    return [tuple(group) for group in groups.values()]


def fields_that(config: type, resume: Resume) -> tuple[str, ...]:
    """The top-level fields with this rule for a resumed run."""
    found = []
    for field in dataclasses.fields(config):
        declaration = field.metadata.get(_OPTION) or field.metadata.get(_NESTED)
        if declaration is not None and declaration.resume == resume:
            found.append(field.name)
    return tuple(found)


def replaced(config: type) -> dict[str, str]:
    """Field of TrainingArguments -> `use --flag`, for each that an option of the config stands for."""
    return {name: f"use {one.flags[0]}" for one in declared(config) for name in one.option.replaces}


def help_by_path(config: type) -> dict[tuple[str, ...], str]:
    """The help text of each field by its path, for the comments of a TOML file."""
    return {one.path: one.option.help for one in declared(config)}


def without_none(hint: Any) -> Any:
    """Return `X` for `X | None`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(one for one in typing.get_args(hint) if one is not types.NoneType)
    return hint


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED
