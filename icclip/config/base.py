"""What all configs share: they are built from plain values, report all problems at once, and convert back.

`from_mapping` takes nested tables as TOML gives them. Unknown keys, wrong types and values out of range
are collected and raised as one ConfigError.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from icclip.config.declare import own_option, without_none
from icclip.config.problems import Key, Problem
from icclip.console import SURROGATE
from icclip.errors import ConfigError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The base of all configs: builds them from plain values with checks, and converts them back."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from nested plain values.

        Raises:
            ConfigError: every problem at once, each with the key it is about.
        """
        if not isinstance(values, Mapping):
            raise ConfigError([f"a table of settings is expected here, not {values!r:.60}"])
        problems: list[str] = []
        config = _build(cls, values, "", problems)
        if problems or config is None:
            raise ConfigError(problems)
        return config

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; `from_mapping` reads them back."""
        return typing.cast("dict[str, Any]", _plain(self))

    def problems(self) -> list[str]:
        """Problems other than the ranges that fields declare; `{field}` stands for the name of a field."""
        return []


C = TypeVar("C", bound=Config)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        UsageError: the file is missing, or it is not TOML; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def overlaid(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Combine layers table by table; later ones win. None in a layer means that it does not set the value."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if value is None:
                continue
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = overlaid(result[key], value)
            else:
                result[key] = overlaid(value) if isinstance(value, Mapping) else value
    return result


# Building from plain values ---------------------------------------------------------------------


def _build(cls: type[C], values: Mapping[str, Any], where: str, problems: list[str]) -> C | None:
    """Build an instance of `cls`, or return None and append the reasons to `problems`.

    Values of the wrong type are left out, so that the other values are checked as well.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, n=1)
        problems.append(f"unknown key {where + key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    arguments: dict[str, Any] = {}
    complete = True
    for name, spec in fields.items():
        before = len(problems)
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if name in values:
            value = _convert(hints[name], values[name], _key(cls, name, where), problems)
            if len(problems) == before or isinstance(value, Config):
                arguments[name] = value
        elif required:
            problems.append(f"missing {where + name!r}")
        complete = complete and (name in arguments or not required)
    if not complete:
        return None
    config = cls(**arguments)
    problems.extend(_out_of_range(config, where))
    problems.extend(Problem.of(problem, cls, where) for problem in config.problems())
    return config


def _key(cls: type[Config], name: str, where: str) -> Key:
    return Key(where + name, f"{cls.__qualname__}.{name}")


def _out_of_range(config: Config, where: str) -> Iterator[Problem]:
    """One line for every number that its field does not allow."""
    for field in dataclasses.fields(config):
        declaration, value = own_option(field), getattr(config, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            wrong = declaration and isinstance(item, int | float) and declaration.problem(item)
            if wrong:
                yield Problem(_key(type(config), field.name, where), f" is {item}: {wrong}")


def _convert(hint: Any, value: Any, key: Key, problems: list[str]) -> Any:
    """Convert `value` to the annotated type, or return None and append the reason to `problems`."""
    if isinstance(value, str | Path) and (wrong := _refused(str(value))):
        problems.append(Problem(key, f" is {str(value)!r:.80}: {wrong}"))
        return None
    return _converted(hint, value, key, problems)


def _converted(hint: Any, value: Any, key: Key, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(without_none(hint), value, key, problems)
    if origin is Literal:
        if value not in arguments:
            problems.append(Problem(key, f" is {value!r}: choose one of {', '.join(map(repr, arguments))}"))
        return value
    if origin is tuple or (origin is Mapping and isinstance(value, Mapping)):
        return _convert_items(arguments, value, key, problems)
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build_table(hint, value, key, problems)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    return _scalar(hint, origin, value, key, problems)


def _refused(text: str) -> str | None:
    """What neither a path of the system nor a record in UTF-8 can hold."""
    if "\0" in text:
        return "it holds a NUL character"
    return "it is not valid Unicode (half of a surrogate pair)" if SURROGATE.search(text) else None


def _convert_items(hints: tuple[Any, ...], value: Any, key: Key, problems: list[str]) -> Any:
    """Convert the items of a tuple (a single value stands for one item) or of a mapping to their annotated types."""
    if isinstance(value, Mapping) and ... in hints:
        problems.append(Problem(key, f" is {value!r:.80}: expected a list"))
        return None
    if isinstance(value, Mapping):
        inner = {name: Key(f"{key.path}.{name}", key.owner) for name in value}
        return {name: _convert(hints[1], item, inner[name], problems) for name, item in value.items()}
    items = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(_convert(hints[0], item, key, problems) for item in items)


def _build_table(hint: type[Config], value: Any, key: Key, problems: list[str]) -> Config | None:
    if isinstance(value, hint):
        return value
    if not isinstance(value, Mapping):
        problems.append(Problem(key, " must be a table"))
        return None
    return _build(hint, value, f"{key.path}.", problems)


_SCALARS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def _scalar(hint: Any, origin: Any, value: Any, key: Key, problems: list[str]) -> Any:
    if hint is Any:
        return value
    accepted = _SCALARS.get(hint, (Mapping,) if origin is Mapping else (object,))
    # bool is a subclass of int: `epochs = true` is a mistake, not 1.
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        problems.append(Problem(key, f" is {value!r}: expected {getattr(hint, '__name__', hint)}"))
        return None
    return float(typing.cast("float", value)) if hint is float else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
