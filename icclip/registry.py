"""Finding what plugins offer, without letting a broken one break anything else.

The registry is built explicitly and passed on; there is no global one. The default plugins resolve
first. Third-party plugins (entry points of the group `icclip`) are loaded only when a name is not
among the defaults, or for a listing, each on its own: what goes wrong with one is recorded with its
name and reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from icclip import hookspecs
from icclip.errors import MissingExtraError, PluginError, UnknownNameError
from icclip.specs import BackendSpec, DatasetSpec, ExportTargetSpec, MetricSpec, Preset, Spec

if TYPE_CHECKING:
    import typer

DEFAULT_PLUGINS = (
    "icclip_plugins.backends.clip",
    "icclip_plugins.backends.siglip",
    "icclip_plugins.datasets.flickr8k",
    "icclip_plugins.datasets.flickr30k",
    "icclip_plugins.datasets.shapes",
    "icclip_plugins.datasets.jsonl",
    "icclip_plugins.datasets.csv",
    "icclip_plugins.datasets.folder",
    "icclip_plugins.datasets.hub",
    "icclip_plugins.metrics.ranking",
)
ENTRY_POINT_GROUP = "icclip"
LOAD_PLUGINS_VARIABLE = "ICCLIP_LOAD_PLUGINS"

S = TypeVar("S", bound=Spec)

KINDS: Mapping[type[Any], tuple[str, str]] = {
    BackendSpec: ("backend", "icclip_model_backends"),
    DatasetSpec: ("dataset", "icclip_datasets"),
    MetricSpec: ("metric", "icclip_metrics"),
    ExportTargetSpec: ("export target", "icclip_export_targets"),
}
"""Spec type -> what it is called, and the hook that returns it."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin: what it offers, or why it offers nothing."""

    name: str
    origin: str
    """`built in`, or the distribution that installed it."""
    version: str
    specs: tuple[Spec, ...] = ()
    manager: pluggy.PluginManager | None = field(default=None, compare=False, repr=False)
    errors: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """For messages: who provides something."""
        return self.name if self.origin == "built in" else f"{self.name} (from {self.origin})"


@dataclass(frozen=True, slots=True)
class Listing:
    """A row of `icclip plugins list`."""

    name: str
    kind: str
    version: str
    origin: str
    status: str
    reason: str
    summary: str = ""


@dataclass
class Registry:
    """What is on offer.

    Args:
        default_plugins: module names that are looked at first.
        load_plugins: names of the third-party plugins (entry point or distribution) to consider;
            None: all. The environment variable ICCLIP_LOAD_PLUGINS, comma-separated, sets it.
    """

    default_plugins: Sequence[str] = DEFAULT_PLUGINS
    load_plugins: frozenset[str] | None = None

    @classmethod
    def from_environment(cls) -> Registry:
        """The registry of a normal run."""
        chosen = os.environ.get(LOAD_PLUGINS_VARIABLE)
        if chosen is None:
            return cls()
        return cls(load_plugins=frozenset(name.strip() for name in chosen.split(",") if name.strip()))

    # What there is

    @cached_property
    def built_in(self) -> tuple[Plugin, ...]:
        """The default plugins. Importing one imports nothing heavy."""
        return tuple(self._load_default(name) for name in self.default_plugins)

    @cached_property
    def third_party(self) -> tuple[Plugin, ...]:
        """Every selected entry point, loaded or failed, in the order of their names."""
        points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        return tuple(_load_entry_point(point) for point in sorted(points, key=_by_name) if self._selected(point))

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All of them."""
        return self.built_in + self.third_party

    # Looking up

    def backend(self, name: str) -> BackendSpec:
        """The backend called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(BackendSpec, name, lambda spec: spec.name == name)

    def backend_for(self, model_type: str, source: str) -> BackendSpec:
        """The backend that serves a checkpoint's `config.model_type`; `source` is for the message."""
        for plugins in (self.built_in, self.third_party):
            found = [s for s in _specs(plugins, BackendSpec) if model_type in s.model_types]
            if found:
                return _usable(found[0], "backend")
        known = sorted({t for s in _specs(self.plugins, BackendSpec) for t in s.model_types})
        raise UnknownNameError("model type", model_type, known, f"in {source}{self._failure_note()}")

    def dataset(self, name: str) -> DatasetSpec:
        """The dataset called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(DatasetSpec, name, lambda spec: spec.name == name)

    def dataset_for_path(self, path: Path) -> DatasetSpec | None:
        """The first dataset that recognises a bare path, or None."""
        for plugins in (self.built_in, self.third_party):
            for spec in _specs(plugins, DatasetSpec):
                if spec.recognises is not None and spec.recognises(path):
                    return _usable(spec, "dataset")
        return None

    def metric(self, name: str) -> MetricSpec:
        """The metric called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(MetricSpec, name, lambda spec: spec.name == name)

    def default_metrics(self) -> tuple[MetricSpec, ...]:
        """The metrics every evaluation reports."""
        return tuple(_specs(self.built_in, MetricSpec))

    def export_target(self, name: str) -> ExportTargetSpec:
        """The target called `name`. Raises UnknownNameError, PluginError, MissingExtraError."""
        return self._find(ExportTargetSpec, name, lambda spec: spec.name == name)

    def preset(self, name: str) -> tuple[BackendSpec, Preset] | None:
        """A from-scratch preset and its backend, or None where no backend has one of that name."""
        for plugins in (self.built_in, self.third_party):
            for spec in _specs(plugins, BackendSpec):
                for preset in spec.presets:
                    if preset.name == name:
                        return _usable(spec, "backend"), preset
        return None

    def names(self, spec_type: type[Any]) -> list[str]:
        """All names of one kind, for messages and listings."""
        return [spec.name for spec in _specs(self.plugins, spec_type)]

    def preset_names(self) -> list[str]:
        """All from-scratch presets."""
        return [preset.name for spec in _specs(self.plugins, BackendSpec) for preset in spec.presets]

    def add_commands(self, app: typer.Typer, plugins: Iterable[Plugin]) -> list[str]:
        """Let `plugins` add their subcommands to `app`. Returns what went wrong, one line each."""
        problems = []
        for plugin in plugins:
            if plugin.manager is None:
                continue
            try:
                plugin.manager.hook.icclip_commands(app=app)
            # A plugin may raise anything, and it must not take the other commands with it.
            except Exception as error:  # noqa: BLE001
                problems.append(f"plugin {plugin.owner}: icclip_commands: {_describe(error)}")
        return problems

    def listing(self) -> list[Listing]:
        """A row for every spec and every failure, default plugins first."""
        rows = []
        owners: dict[tuple[str, str], Plugin] = {}
        for plugin in self.plugins:
            rows += [Listing(plugin.name, "plugin", plugin.version, plugin.origin, "failed", e) for e in plugin.errors]
            for spec in plugin.specs:
                kind, _ = KINDS[type(spec)]
                status, reason = _status(spec, owners.setdefault((kind, spec.name), plugin), plugin)
                rows.append(Listing(spec.name, kind, plugin.version, plugin.origin, status, reason, spec.summary))
        return rows

    # How

    def _find(self, spec_type: type[S], name: str, wanted: Callable[[S], bool]) -> S:
        kind, _ = KINDS[spec_type]
        for plugins in (self.built_in, self.third_party):
            found = [(p, s) for p in plugins for s in _specs([p], spec_type) if wanted(s)]
            if len(found) > 1:
                owners = " and ".join(plugin.owner for plugin, _ in found)
                raise PluginError(
                    f"{kind} {name!r} is provided by {owners}; choose one with {LOAD_PLUGINS_VARIABLE}=NAME"
                )
            if found:
                return _usable(found[0][1], kind)
        raise UnknownNameError(kind, name, self.names(spec_type), self._failure_note().removeprefix("; "))

    def _failure_note(self) -> str:
        failed = [plugin.owner for plugin in self.plugins if plugin.errors]
        return f"; failed to load: {', '.join(failed)} (see: icclip plugins list)" if failed else ""

    def _selected(self, point: importlib.metadata.EntryPoint) -> bool:
        if self.load_plugins is None:
            return True
        return point.name in self.load_plugins or _distribution(point)[0] in self.load_plugins

    def _load_default(self, module: str) -> Plugin:
        from icclip import __version__

        name = module.removeprefix("icclip_plugins.").removeprefix("icclip_")
        return _load(name, "built in", __version__, lambda: importlib.import_module(module))


# Loading one plugin -----------------------------------------------------------------------------


def _load_entry_point(point: importlib.metadata.EntryPoint) -> Plugin:
    origin, version = _distribution(point)
    return _load(point.name, origin, version, point.load)


def _load(name: str, origin: str, version: str, load: Callable[[], object]) -> Plugin:
    """Import a plugin and call its hooks, each guarded.

    Each plugin gets a manager of its own: in a shared one the first implementation that raises
    hides the results of all the others.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(load())
        manager.check_pending()
    # Importing a plugin runs its code: it may raise anything, SystemExit included.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return Plugin(name, origin, version, errors=(_describe(error),))
    if not any(manager.get_hookcallers(plugin) for plugin in manager.get_plugins()):
        return Plugin(name, origin, version, errors=("it implements no hook: decorate one with @icclip.hookimpl",))
    specs, errors = _call_hooks(manager)
    return Plugin(name, origin, version, specs=specs, manager=manager, errors=errors)


def _call_hooks(manager: pluggy.PluginManager) -> tuple[tuple[Spec, ...], tuple[str, ...]]:
    """The specs that the hooks return, and what was wrong with any of them."""
    specs: list[Spec] = []
    errors: list[str] = []
    for spec_type, (_, hook) in KINDS.items():
        try:
            results = getattr(manager.hook, hook)()
        except (Exception, SystemExit) as error:  # noqa: BLE001
            errors.append(f"{hook}: {_describe(error)}")
            continue
        for result in results:
            good, bad = _checked(result, spec_type, hook)
            specs += good
            errors += bad
    return tuple(specs), tuple(errors)


def _checked(result: Any, spec_type: type[Spec], hook: str) -> tuple[list[Spec], list[str]]:
    if not isinstance(result, (list, tuple)):
        return [], [f"{hook} returned {type(result).__name__}: return a list of {spec_type.__name__}"]
    wrong = [type(item).__name__ for item in result if not isinstance(item, spec_type)]
    return (
        [item for item in result if isinstance(item, spec_type)],
        [f"{hook} returned a list with {name}: return a list of {spec_type.__name__}" for name in wrong],
    )


def _distribution(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")


def _by_name(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return point.name, point.value


def _describe(error: BaseException) -> str:
    """One line; pluggy's own messages have several."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# Reading specs ----------------------------------------------------------------------------------


def _specs(plugins: Iterable[Plugin], spec_type: type[S]) -> Iterator[S]:
    for plugin in plugins:
        for spec in plugin.specs:
            if isinstance(spec, spec_type):
                yield spec


def _missing(spec: Spec) -> list[str]:
    """Required modules that are not installed; nothing is imported to find out."""
    return [name for name in spec.requires if importlib.util.find_spec(name) is None]


def _usable(spec: S, kind: str) -> S:
    missing = _missing(spec)
    if missing:
        raise MissingExtraError(f"{kind} {spec.name!r}", missing, spec.install)
    return spec


def _status(spec: Spec, owner: Plugin, plugin: Plugin) -> tuple[str, str]:
    if owner is not plugin:
        return "duplicate", f"the name belongs to {owner.owner}"
    missing = _missing(spec)
    if missing:
        return "missing extra", f"needs {', '.join(missing)}: {spec.install}"
    return "ok", ""
