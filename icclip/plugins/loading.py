"""Load one plugin in isolation, so that nothing it does can affect another.

Importing a plugin and calling its hooks runs foreign code. Whatever it raises, prints or
returns ends here, as a `Plugin` that holds the usable specs and one line for each problem.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pluggy

from icclip.plugins import hooks as hookspecs
from icclip.plugins.specs import (
    BackendSpec,
    DatasetSpec,
    ExportTargetSpec,
    IndexTargetSpec,
    MetricSpec,
    Spec,
    spec_problems,
)

ENTRY_POINT_GROUP = "icclip"
BUILT_IN = "built in"
COMMANDS_HOOK = "icclip_commands"

KINDS: Mapping[type[Any], tuple[str, str]] = {
    BackendSpec: ("backend", "icclip_model_backends"),
    DatasetSpec: ("dataset", "icclip_datasets"),
    MetricSpec: ("metric", "icclip_metrics"),
    ExportTargetSpec: ("export target", "icclip_export_targets"),
    IndexTargetSpec: ("index target", "icclip_index_targets"),
}
"""Spec type -> the word for it, and the hook that returns it."""


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    """One plugin: what it offers, and what is wrong with the rest."""

    name: str
    origin: str
    """`built in`, or the distribution that installed it."""
    version: str
    module: str = ""
    """The module that is imported to load it."""
    specs: tuple[Spec, ...] = ()
    commands: Mapping[str, Any] = field(default_factory=dict)
    """Subcommands by name, as Typer builds them."""
    errors: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """The provider of something, for messages."""
        return f"{self.name} ({self.origin if self.origin == BUILT_IN else f'from {self.origin}'})"


def load_built_in(module: str, version: str) -> Plugin:
    """Load one of the default plugins by its module's name below `icclip_plugins`."""
    name = module.removeprefix("icclip_plugins.")
    return load_plugin(name, BUILT_IN, version, lambda: importlib.import_module(module), module)


def installed_plugins() -> Iterator[tuple[str, str, Callable[[], Plugin]]]:
    """Every entry point of our group: its name, its distribution, and how to load it.

    An entry point that cannot be read becomes a failed plugin. The standard library's `entry_points()` would
    raise for one bad file and so hide all others.
    """
    seen = set()
    for distribution in importlib.metadata.distributions():
        if f"[{ENTRY_POINT_GROUP}]" not in _entry_points_text(distribution):
            continue
        origin, version = _name_and_version(distribution)
        # The first one on the path is the one that imports find.
        if origin in seen:
            continue
        seen.add(origin)
        errors: list[str] = []
        with isolated(errors, "its entry_points.txt cannot be read: "):
            for point in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
                yield point.name, origin, partial(load_plugin, point.name, origin, version, point.load, point.module)
        if errors:
            yield origin, origin, partial(Plugin, origin, origin, version, errors=tuple(errors))


def load_plugin(name: str, origin: str, version: str, load: Callable[[], object], module: str) -> Plugin:
    """Import a plugin with `load` and call its hooks, guarding against every exception but Ctrl-C.

    Each plugin gets a pluggy manager of its own, and its implementations are called one by one,
    because in a shared call, the first implementation that raises hides the results of all others.
    """
    specs: list[Spec] = []
    commands: dict[str, Any] = {}
    errors: list[str] = []
    with isolated(errors):
        for hook, implementation in _implementations(load()):
            with isolated(errors, f"{hook}: "):
                if hook == COMMANDS_HOOK:
                    commands |= _commands(implementation)
                else:
                    specs += _good_specs(implementation.function(), hook, errors)
    # A list of fifty wrong values is one mistake.
    usable = _without_repeats(specs, errors)
    return Plugin(name, origin, version, module, usable, commands, tuple(dict.fromkeys(errors)))


@contextlib.contextmanager
def isolated(errors: list[str], where: str = "") -> Iterator[None]:
    """Turn whatever the block raises into one line in `errors`, and what it prints into stderr.

    SystemExit and a plugin's own BaseExceptions count as failures. Only KeyboardInterrupt passes, because it
    comes from the user. stdout is kept clean because it may carry a JSON document.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        errors.append(where + describe(error))


def describe(error: BaseException) -> str:
    """Describe an exception in one line; pluggy's messages have several, and a plugin's may fail to print."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - __str__ is a plugin's code too
        message = "(its message cannot be printed)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _implementations(plugin: object) -> list[tuple[str, pluggy.HookImpl]]:
    """The hook implementations of a plugin, validated against the hook specifications.

    Raises:
        pluggy.PluginValidationError: a hook is misspelled, or has an argument that the specification lacks.
        TypeError: the plugin implements nothing, or something that cannot work.
    """
    if plugin is None:
        raise TypeError("the entry point resolves to None: name a module with hooks")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    hooks = [*(hook for _, hook in KINDS.values()), COMMANDS_HOOK]
    found = [(hook, one) for hook in hooks for one in getattr(manager.hook, hook).get_hookimpls()]
    if not found:
        raise TypeError("it implements no hook: decorate one with @icclip.hookimpl")
    for hook, implementation in found:
        if implementation.wrapper or implementation.hookwrapper:
            raise TypeError(f"{hook} is a hook wrapper, but plugins are called one at a time: use a plain hook")
    return found


def _good_specs(result: Any, hook: str, errors: list[str]) -> list[Spec]:
    """The usable specs in what a hook returned; a line in `errors` for everything else."""
    spec_type = next(kind for kind, (_, name) in KINDS.items() if name == hook)
    if not isinstance(result, (list, tuple)):
        errors.append(f"{hook} returned {type(result).__name__}: return a list of {spec_type.__name__}")
        return []
    good: list[Spec] = []
    for item in result:
        if not isinstance(item, spec_type):
            errors.append(f"{hook} returned a list with {type(item).__name__}: return a list of {spec_type.__name__}")
        elif problems := spec_problems(item):
            errors.extend(f"{hook}: {spec_type.__name__} {item.name!r}: {problem}" for problem in problems)
        else:
            good.append(item)
    return good


def _without_repeats(specs: list[Spec], errors: list[str]) -> tuple[Spec, ...]:
    """The first spec of each kind and name."""
    first: dict[tuple[type[Spec], str], Spec] = {}
    for spec in specs:
        first.setdefault((type(spec), spec.name), spec)
    errors += [
        f"it offers the {KINDS[type(spec)][0]} {spec.name!r} twice: the first one is used"
        for spec in specs
        if first[type(spec), spec.name] is not spec
    ]
    return tuple(first.values())


def _commands(implementation: pluggy.HookImpl) -> dict[str, Any]:
    """Build the subcommands that a plugin adds to an app of its own, so that mistakes show here."""
    import typer

    app = typer.Typer()
    implementation.function(*[app for _ in implementation.argnames])
    if not (app.registered_commands or app.registered_groups):
        raise TypeError("it adds no command: decorate a function with @app.command()")
    return dict(typer.main.get_group(app).commands)


def _entry_points_text(distribution: importlib.metadata.Distribution) -> str:
    """The entry points that a distribution declares; empty if they cannot be read or there are none."""
    try:
        return distribution.read_text("entry_points.txt") or ""
    except (OSError, UnicodeDecodeError):
        return ""


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """The name and version of a distribution; both are missing, or raise, if METADATA is missing or empty."""
    try:
        return str(distribution.metadata["Name"] or "unknown"), str(distribution.metadata["Version"] or "")
    except Exception:  # noqa: BLE001 - what it raises differs between Python's versions
        return "unknown", ""
